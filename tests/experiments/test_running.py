"""Starting, ramping and ending an experiment on servers that follow a deployment file."""

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from longtail.cli import app
from longtail.engine.deployment import Deployment
from longtail.engine.fleet import Fleet
from longtail.engine.schema import Instance
from longtail.errors import InvalidInput, LongtailError
from longtail.experiments import running
from longtail.experiments.config import Experiment

TEXT = """name: ranker
variants:
  control: {share: 0.5}
  new: {share: 0.5, bundle: BUNDLE}
metric: revenue
allocation: 0.1
minimum_effect: 0.02
dates: {start: 2026-03-01, end: 2099-03-15}
"""
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def variants(deployment: Deployment, ids: list[str]) -> list[str]:
    """Who meets what, as the servers' own fleet chooses it."""
    engine = SimpleNamespace(ages=dict, guards={}, bundle=SimpleNamespace(version="1"), in_flight=0)
    fleet = Fleet(lambda folder, name: engine)
    fleet.start(deployment)
    return [fleet.arm_of(Instance(user_id=who)).name for who in ids]


class Servers:
    """Follow a deployment file as the recommender does: what it says serves at once, unless `refuses`."""

    def __init__(self, state):
        self.file, self.refuses, servers = state / "deployment.yaml", "", self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                body = json.dumps(servers.status()).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.taken = Deployment.load(self.file)
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def status(self):
        offered = Deployment.load(self.file)
        refused = {"why": self.refuses} if self.refuses and offered != self.taken else None
        if not self.refuses:
            self.taken = offered
        shown = {n: {"bundle": str(v.bundle), "share": v.share} for n, v in self.taken.variants.items()}
        return {"variants": shown, "refused": refused}


@pytest.fixture
def servers(tmp_path, monkeypatch):
    monkeypatch.setattr("longtail.engine.bundle.verify", lambda folder: None)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    state = tmp_path / "state"
    Deployment.single(tmp_path / "old").save(state / "deployment.yaml")
    (tmp_path / "experiment.yaml").write_text(TEXT.replace("BUNDLE", str(tmp_path / "new")))
    found = Servers(state)
    yield found
    found.http.shutdown()


def run(servers, command, *words):
    where = ["--state", str(servers.file.parent)]
    where += [] if command == "status" else ["--url", servers.url]
    return CliRunner().invoke(app, ["experiment", command, *map(str, words), *where])


def test_people_keep_their_variant_from_start_to_end(servers, tmp_path):
    ids = [f"u{n}" for n in range(3_000)]
    assert run(servers, "start", tmp_path / "experiment.yaml").exit_code == 0
    met = []
    for share in (None, 0.4, 1.0):
        if share:
            assert run(servers, "ramp", "ranker", share).exit_code == 0
        met.append(variants(servers.taken, ids))
    for before, after in zip(met, met[1:], strict=False):
        assert all(a == b for b, a in zip(before, after, strict=True) if b != "champion")
    assert abs(met[0].count("new") / len(ids) - 0.05) < 0.02 and met[2].count("champion") == 0
    assert servers.taken.variants["control"].bundle == tmp_path / "old"
    assert "runs since" in run(servers, "status").stdout and "100% of the people" in run(servers, "status").stdout
    assert run(servers, "stop", "ranker", "--ship").exit_code == 0
    assert servers.taken == Deployment.single(tmp_path / "new")
    assert "then new served everybody" in run(servers, "status").stdout
    told = json.loads(run(servers, "status", "--json").stdout)
    assert [r["allocation"] for r in told[0]["ramps"]] == [0.1, 0.4, 1.0]


def test_stopping_brings_back_what_served_before(servers, tmp_path):
    run(servers, "start", tmp_path / "experiment.yaml")
    run(servers, "stop", "ranker")
    assert servers.taken == Deployment.single(tmp_path / "old")
    again = run(servers, "stop", "ranker")
    assert isinstance(again.exception, InvalidInput) and "already" in str(again.exception)


def test_what_servers_refuse_leaves_no_trace(servers, tmp_path):
    servers.refuses = "its ranker does not load"
    done = run(servers, "start", tmp_path / "experiment.yaml")
    assert isinstance(done.exception, LongtailError) and "its ranker does not load" in str(done.exception)
    assert Deployment.load(servers.file) == Deployment.single(tmp_path / "old")
    assert "no experiment was started" in run(servers, "status").stdout


def test_one_at_a_time_and_only_upwards(servers, tmp_path):
    file = tmp_path / "experiment.yaml"
    run(servers, "start", file)
    file.write_text(file.read_text().replace("ranker", "another"))
    assert "several variants serve already" in str(run(servers, "start", file).exception)
    assert "a ramp goes up" in str(run(servers, "ramp", "ranker", 0.05).exception)
    assert "holds no experiment" in str(run(servers, "ramp", "nothing", 0.5).exception)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("bundle: BUNDLE", "rules: {filters: {exclude_bought: true}}", "over bundles only"),
        ("0.5, bundle: BUNDLE}", "0.25, bundle: x}\n  newer: {share: 0.25, bundle: y}", "servers ramp two variants"),
        ("metric: revenue", "metric: revenue\nunit: session", "split by user"),
        ("end: 2099-03-15", "end: 2026-03-02", ""),
        ("start: 2026-03-01, end: 2099-03-15", "start: 2026-02-01, end: 2026-03-01", "it ended on 2026-03-01"),
        ("control:", "champion:", "name the variant otherwise"),
    ],
)
def test_what_the_servers_cannot_do_is_said(old, new, told):
    experiment = Experiment.parse(TEXT.replace(old, new))
    if not told:
        return running.can_run(experiment, NOW)
    with pytest.raises(InvalidInput, match=told):
        running.can_run(experiment, NOW)
    return None
