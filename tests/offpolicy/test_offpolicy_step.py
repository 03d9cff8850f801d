"""The pipeline's step, from finished training steps to the registry."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xgboost

from longtail import steps
from longtail.cli.serving import traffic_of
from longtail.engine.impressions import ImpressionLog, read_impressions
from longtail.engine.ranker_repository import write_repository
from longtail.errors import InvalidInput
from longtail.registry import Registry
from tests.engine.in_process import PATIENT, ask, engine_of, parts_of
from tests.registry.test_registry import write_bundle
from tests.test_training import BRIEF, all_steps, busy, saved

RULES = "rules:\n  exploration: {epsilon: 0.4, pool: 10}\nsurfaces:\n  homepage: {k: 3}\n"
CONFIG = replace(BRIEF, windows=2)


def contrary(ranker: Path, out: Path, seed: int = 0) -> Path:
    """The same ranker turned into one that ranks by chance."""
    shutil.copytree(ranker, out)
    shutil.rmtree(out / "ranker")
    rng, features = np.random.default_rng(seed), len(json.loads((ranker / "features.json").read_text()))
    x = rng.normal(size=(500, features)).astype(np.float32)
    data = xgboost.DMatrix(x, label=rng.normal(size=500))
    xgboost.train({"max_depth": 3, "nthread": 1}, data, 10).save_model(out / "booster.ubj")
    write_repository(out / "booster.ubj", features, out / "ranker")
    return out


def with_clicks(shop: Path, log: Path, out: Path) -> Path:
    """The shop with clicks on what the log's lists showed: nearly all on the items that were shown most."""
    shutil.copytree(shop, out)
    rows = [row for row, _ in read_impressions(log)]
    often = {item for item, _ in Counter(i for row in rows for i in row.items[:1]).most_common(4)}
    rng = np.random.default_rng(0)
    events = pd.read_parquet(shop / "events.parquet")
    clicks = [
        {"event_id": f"c{n}-{i}", "user_id": row.user_id, "item_id": i, "request_id": row.request_id}
        for n, row in enumerate(rows) for i in row.items if rng.random() < (0.6 if i in often else 0.02)
    ]  # fmt: skip
    late = pd.DataFrame(clicks).assign(event_type="click", timestamp=events["timestamp"].max(), session_id="late")
    pd.concat([events, late]).to_parquet(out / "events.parquet")
    return out


def test_a_version_that_is_held_back_takes_no_role_until_it_is_promoted_by_hand(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "mlflow")
    for name, ndcg, held in (("a", 0.2, ""), ("b", 0.9, "it may be worse")):
        registry.register(write_bundle(tmp_path / name, name), {"ndcg@10": ndcg}, {}, "", "", held=held)
    version = registry.get(2)
    assert version.aliases == () and version.decision == "held back: it may be worse"
    again = registry.register(tmp_path / "b", {"ndcg@10": 0.9}, {}, "", "")
    assert (again.number, again.aliases) == (2, ()), "registering it again does not free it"
    where = str(tmp_path / "mlflow")
    with pytest.raises(InvalidInput, match=r"version 2 is held back: it may be worse \(--anyway gives it traffic"):
        traffic_of("2", where, anyway=False)
    assert traffic_of("2", where, anyway=True) == registry.resolve(2)
    assert registry.promote(2).aliases == ("champion",)
    assert traffic_of("2", where, anyway=False) == registry.resolve(2)


@pytest.mark.slow
def test_what_the_log_speaks_against_gets_no_traffic(tmp_path: Path, capsys) -> None:
    shop, run, registry = saved(tmp_path / "shop", busy()), tmp_path / "run", str(tmp_path / "mlflow")
    surfaces = tmp_path / "surfaces.yaml"
    surfaces.write_text(RULES)
    all_steps(shop, run, CONFIG)

    def judged(name: str, shop: Path, ranker: Path, impressions: str) -> tuple[dict, tuple[str, ...], str]:
        parts = (run / "features", run / "candidates", ranker, run / "evaluation")
        out, at = tmp_path / name, str(surfaces)
        verdict = steps.off_policy(shop, *parts, out / "verdict", registry, CONFIG, at, impressions)
        more = (run / "features", run / "index", run / "candidates", ranker, run / "evaluation", out / "bundle")
        number = steps.register(shop, *more, registry, CONFIG, at, margin=-1.0, verdict=out / "verdict")["version"]
        version = Registry(registry).get(number)
        return verdict, version.aliases, version.decision

    verdict, aliases, _ = judged("first", shop, run / "ranker", "")
    assert verdict["passed"] and "no impression log" in verdict["reason"] and aliases == ("champion",)

    champion = Registry(registry).resolve("champion")
    engine = engine_of(parts_of(champion, tmp_path / "state"), candidates=12, **PATIENT)
    engine.impressions = ImpressionLog(tmp_path / "log", "candidates")
    for n in range(600):
        ask(engine, {"user_id": f"u{n % 30:02}", "context": {"request_id": f"r{n}"}})
    engine.impressions.close()
    lived = with_clicks(shop, tmp_path / "log", tmp_path / "lived")

    verdict, aliases, decision = judged(
        "worse", lived, contrary(run / "ranker", tmp_path / "other"), str(tmp_path / "log")
    )
    assert not verdict["passed"] and "worse by more than the margin" in verdict["reason"]
    assert aliases == () and decision.startswith("held back: the challenger would earn")
    figures = json.loads((tmp_path / "worse" / "verdict" / "verdict.json").read_text())
    assert figures["overlap"]["lists"] == 600 and figures["skipped"] == {}

    verdict, aliases, _ = judged("same", lived, run / "ranker", str(tmp_path / "log"))
    assert verdict["passed"] and aliases == ("challenger",), "it is no better than the champion, nor worse"

    # Another ranker: an equal bundle of the same second would be the version that was just registered.
    other = contrary(run / "ranker", tmp_path / "another", seed=1)
    verdict, aliases, _ = judged("blind", lived, other, str(tmp_path / "nothing"))
    assert aliases == () and not verdict["passed"] and "the log is empty" in verdict["reason"]
    assert "the challenger would earn" in capsys.readouterr().out
