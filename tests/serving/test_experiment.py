"""Experiments on real servers, from `longtail experiment start` to what `analyse` reads of them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from longtail.cli import app
from longtail.engine.deployment import Deployment
from longtail.errors import Unavailable
from longtail.experiments.assignment import HOLDOUT, assign
from serving.local import LocalServing
from serving.ranker.triton import wheel
from tests.engine.in_process import PATIENT
from tests.serving import small_bundle

pytestmark = pytest.mark.serving

try:
    wheel()
except Unavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

TODAY = datetime.now(UTC).date()
DATES = f"{{start: {TODAY - timedelta(1)}, end: {TODAY + timedelta(14)}}}"
RANKER = f"""name: ranker
layer: ranking
variants: {{control: {{share: 0.5}}, new: {{share: 0.5, bundle: NEW}}}}
metric: clicks
allocation: 0.3
minimum_effect: 0.05
holdout: 0.1
dates: {DATES}
"""
SHELF = f"""name: shelf
layer: shelf
variants: {{control: {{share: 0.5}}, variety: {{share: 0.5, surfaces: variety.yaml}}}}
metric: ctr
minimum_effect: 0.05
surfaces: [homepage]
dates: {DATES}
"""
VARIETY = "surfaces: {homepage: {k: 6, rules: {caps: {top_category: 1}}}}"
IDS = [f"u{n}" for n in range(300)]


def command(serving: LocalServing, *words: object) -> str:
    where = ["--state", str(serving.state)]
    if words[0] in ("start", "ramp", "stop"):
        where += ["--url", f"http://127.0.0.1:{serving.http_port}", "--timeout-s", "600"]
    done = CliRunner().invoke(app, ["experiment", *map(str, words), *([] if words[0] == "analyse" else where)])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def ask(serving: LocalServing, surface: str = "homepage") -> list[dict]:
    """A list for everybody, many at a time."""
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(lambda who: serving.recommend({"user_id": who, "surface": surface}), IDS))


def met(answers: list[dict], experiment: str) -> list[str | None]:
    """The variant of one experiment that each list names."""
    out = []
    for answer in answers:
        named = dict(one.split(":") for one in answer["variant"].split("+") if ":" in one)
        out.append(named.get(experiment))
    return out


def write_clicks(state: Path, answers: list[dict]) -> None:
    """Everybody clicks the first item of their list, as the collector would have stored it."""
    now = datetime.now(UTC)
    rows = [{"user_id": who, "session_id": None, "timestamp": now, "event_type": "click", "value": None,
             "item_id": a["items"][0]["item_id"], "request_id": a["request_id"]}
            for who, a in zip(IDS, answers, strict=True)]  # fmt: skip
    schema = pa.schema([(name, pa.string()) for name in rows[0]])
    schema = schema.set(2, pa.field("timestamp", pa.timestamp("us", tz="UTC"))).set(4, pa.field("value", pa.float64()))
    part = state / "events" / f"date={now.date()}"
    part.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), part / "part-0.parquet")


def test_two_experiments_from_start_to_analysis(bundle_folder, tmp_path):
    new = small_bundle.make(tmp_path / "new", small_bundle.shop(seed=1))
    for name, text in (("ranker", RANKER.replace("NEW", str(new))), ("shelf", SHELF), ("variety", VARIETY)):
        (tmp_path / f"{name}.yaml").write_text(text)
    state = tmp_path / "state"
    waits = [word for name in PATIENT for word in (f"--{name}", "4000")]  # a busy machine's parts are slow, not dead
    with LocalServing(bundle_folder, state, impressions=state / "impressions", extra=waits) as serving:
        command(serving, "start", tmp_path / "ranker.yaml")
        command(serving, "start", tmp_path / "shelf.yaml")
        before = ask(serving)
        assert {a["level"] for a in before} == {"full"}
        command(serving, "ramp", "ranker", "1")
        after = ask(serving)
        assert all(b in (None, a) for b, a in zip(met(before, "ranker"), met(after, "ranker"), strict=True))
        placed = Deployment.load(serving.deployment_file)
        for name in ("ranker", "shelf"):
            told = [assign(who, placed.experiments[name].allocation(placed.holdout)) for who in IDS]
            assert met(after, name) == [None if t == HOLDOUT else t for t in told] and told.count(HOLDOUT) > 10
        assert len({a["model_version"] for a in after}) == 2
        assert all((len(a["items"]) == 6) == (v == "variety") for a, v in zip(after, met(after, "shelf"), strict=True))
        assert met(ask(serving, "because_you_viewed"), "shelf") == [None] * len(IDS)
        assert "100% of the layer ranking" in command(serving, "status")
        command(serving, "stop", "shelf")
        assert set(met(ask(serving), "shelf")) == {None}
    write_clicks(state, after)
    for name in ("ranker", "shelf"):
        result = json.loads(command(serving, "analyse", tmp_path / f"{name}.yaml", state, "--json"))
        counted = {v: met(after, name).count(v) for v in set(met(after, name)) - {None}}
        assert result["units"] == counted and result["crossed"] == 0 and not result["broken"]
