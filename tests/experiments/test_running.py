"""Starting, ramping and ending experiments on servers that follow a deployment file."""

import json
import threading
from dataclasses import asdict
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from longtail.cli import app
from longtail.engine.bundle import Manifest
from longtail.engine.deployment import Deployment
from longtail.errors import InvalidInput, LongtailError
from longtail.experiments import running
from longtail.experiments.config import Experiment
from longtail.experiments.routing import Router

TEXT = """name: ranker
layer: ranking
variants:
  control: {share: 0.5}
  new: {share: 0.3, bundle: BUNDLE}
  newer: {share: 0.2, bundle: BUNDLE}
metric: revenue
allocation: 0.1
minimum_effect: 0.02
holdout: 0.05
dates: {start: 2026-03-01, end: 2099-03-15}
"""
RULES = """name: rules
layer: rules
variants: {control: {share: 0.5}, calm: {share: 0.5, rules: {caps: {brand: 1}}}}
metric: ctr
allocation: 0.4
minimum_effect: 0.02
surfaces: [homepage]
dates: {start: 2026-03-01, end: 2099-03-15}
"""
IDS = [f"u{n}" for n in range(5_000)]


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
        return {"deployment": self.taken.fingerprint, "refused": refused}

    def met(self, surface="homepage"):
        """What each of `IDS` meets, as the servers' own router says it."""
        router = Router(self.taken.experiments, self.taken.holdout)
        return [router.met(who, None, surface) for who in IDS]


@pytest.fixture
def servers(tmp_path, monkeypatch):
    monkeypatch.setattr("longtail.engine.bundle.verify", lambda folder: None)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        about = Manifest(f"version-of-{name}", "", "", "", {})
        (tmp_path / name / "manifest.json").write_text(json.dumps(asdict(about)))
    state = tmp_path / "state"
    Deployment.single(tmp_path / "old").save(state / "deployment.yaml")
    (tmp_path / "experiment.yaml").write_text(TEXT.replace("BUNDLE", str(tmp_path / "new")))
    (tmp_path / "rules.yaml").write_text(RULES)
    found = Servers(state)
    yield found
    found.http.shutdown()


def run(servers, command, *words):
    where = ["--state", str(servers.file.parent)]
    where += [] if command == "status" else ["--url", servers.url]
    return CliRunner().invoke(app, ["experiment", command, *map(str, words), *where])


def test_two_experiments_run_and_people_keep_what_they_met_from_start_to_end(servers, tmp_path):
    assert run(servers, "start", tmp_path / "experiment.yaml").exit_code == 0
    assert run(servers, "start", tmp_path / "rules.yaml").exit_code == 0
    met = [servers.met()]
    for share in (0.4, 1.0):
        assert run(servers, "ramp", "ranker", share).exit_code == 0
        met.append(servers.met())
    for before, after in zip(met, met[1:], strict=False):
        assert all(set(b) <= set(a) for b, a in zip(before, after, strict=True))
    counts = [sum("ranker:new" in m for m in of) / len(IDS) for of in met]
    assert counts == pytest.approx([0.95 * share * 0.3 for share in (0.1, 0.4, 1.0)], abs=0.02)
    assert sum(not m for m in met[-1]) / len(IDS) == pytest.approx(0.05, abs=0.01)  # the holdout, and nobody else
    assert {one for m in servers.met("cart") for one in m} == {"ranker:control", "ranker:new", "ranker:newer"}
    assert "100% of the layer ranking" in run(servers, "status").stdout
    stopped = run(servers, "stop", "ranker", "--ship", "--variant", "newer")
    assert stopped.exit_code == 0 and "`longtail registry promote version-of-new`" in stopped.stdout
    assert servers.taken.variants["champion"].bundle == tmp_path / "new"
    assert list(servers.taken.experiments) == ["rules"] and servers.taken.holdout == 0.05
    assert "then newer served everybody" in run(servers, "status").stdout
    told = {t["name"]: t for t in json.loads(run(servers, "status", "--json").stdout)}
    assert [r["allocation"] for r in told["ranker"]["ramps"]] == [0.1, 0.4, 1.0]


def test_stopping_brings_back_what_served_before(servers, tmp_path):
    run(servers, "start", tmp_path / "experiment.yaml")
    run(servers, "stop", "ranker")
    assert servers.taken.variants == Deployment.single(tmp_path / "old").variants and not servers.taken.experiments
    again = run(servers, "stop", "ranker")
    assert isinstance(again.exception, InvalidInput) and "already" in str(again.exception)


def test_what_servers_refuse_leaves_no_trace(servers, tmp_path):
    servers.refuses = "its ranker does not load"
    done = run(servers, "start", tmp_path / "experiment.yaml")
    assert isinstance(done.exception, LongtailError) and "its ranker does not load" in str(done.exception)
    assert Deployment.load(servers.file) == Deployment.single(tmp_path / "old")
    assert "no experiment was started" in run(servers, "status").stdout


def test_what_somebody_else_changed_meanwhile_is_left_as_it_is(servers, tmp_path, monkeypatch):
    theirs = Deployment.single(tmp_path / "new")
    monkeypatch.setattr("longtail.engine.bundle.verify", lambda folder: theirs.save(servers.file))
    done = run(servers, "start", tmp_path / "experiment.yaml")
    assert isinstance(done.exception, InvalidInput) and "changed by somebody else" in str(done.exception)
    assert Deployment.load(servers.file) == theirs
    assert "no experiment was started" in run(servers, "status").stdout


def test_what_runs_has_its_record_whenever_a_crash_comes(servers, tmp_path, monkeypatch):
    status, unknown = servers.status, []

    def watched():
        runs = "ranker" in Deployment.load(servers.file).experiments
        unknown.append(runs and not (servers.file.parent / "experiments/ranker/running.yaml").is_file())
        return status()

    monkeypatch.setattr(servers, "status", watched)
    assert run(servers, "start", tmp_path / "experiment.yaml").exit_code == 0
    assert len(unknown) >= 2 and not any(unknown)


def test_a_refused_deploy_leaves_the_file_as_it_was(servers, tmp_path, monkeypatch):
    monkeypatch.setattr("longtail.engine.bundle.verify", lambda folder: SimpleNamespace(version="2"))
    status, servers.refuses = servers.status, "its ranker does not load"
    monkeypatch.setattr(servers, "status", lambda: status() | {"variants": {"champion": {"version": "1", "share": 1}}})
    words = ["deploy", tmp_path / "new", "--state", servers.file.parent, "--url", servers.url]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert isinstance(done.exception, InvalidInput) and "its ranker does not load" in str(done.exception)
    assert Deployment.load(servers.file) == Deployment.single(tmp_path / "old")


def test_what_cannot_run_is_refused_in_one_line(servers, tmp_path):
    file = tmp_path / "experiment.yaml"
    text = file.read_text()
    run(servers, "start", file)

    def told(changed: str) -> str:
        file.write_text(changed)
        return str(run(servers, "start", file).exception)

    another = text.replace("name: ranker", "name: another")
    assert "there was an experiment ranker already" in told(text)
    assert "the layer ranking has 90.00% free" in told(another.replace("allocation: 0.1", "allocation: 1"))
    assert "both change bundle" in told(another.replace("layer: ranking", "layer: other"))
    assert "5.0% are kept out" in told(another.replace("holdout: 0.05", "holdout: 0.1"))
    assert "both must go by user" in told(another.replace("layer:", "unit: session\nlayer:"))
    held = text[text.index("metric:") :].replace("allocation: 0.1\n", "")
    assert "leave these people alone" in told("name: all\nkind: holdout\n" + held)
    assert "a ramp goes up" in str(run(servers, "ramp", "ranker", 0.05).exception)
    assert "equal to 1" in run(servers, "ramp", "ranker", 50).output
    assert "holds no experiment" in str(run(servers, "ramp", "nothing", 0.5).exception)
    assert "name the --variant" in str(run(servers, "stop", "ranker", "--ship").exception)
    assert list(servers.taken.experiments) == ["ranker"]


def test_a_deployment_file_of_other_machines_is_changed_in_place(servers, tmp_path):
    cluster, file = tmp_path / "cluster.yaml", tmp_path / "experiment.yaml"
    cluster.write_text("variants: {champion: {bundle: /mnt/models/a, share: 1}}")
    file.write_text(TEXT.replace("BUNDLE", "/mnt/models/b"))
    assert run(servers, "start", file, "--into", cluster).exit_code == 0
    assert run(servers, "ramp", "ranker", 0.5, "--into", cluster).exit_code == 0
    found = Deployment.load(cluster)
    assert [str(b) for b in found.bundles] == ["/mnt/models/a", "/mnt/models/b"] and found.holdout == 0.05
    assert sum(high - low for low, high in found.experiments["ranker"].slots) == 5_000
    assert servers.taken == Deployment.single(tmp_path / "old")
    assert run(servers, "stop", "ranker", "--into", cluster).exit_code == 0
    assert not Deployment.load(cluster).experiments


def test_an_experiment_that_is_over_cannot_start():
    text = TEXT.replace("start: 2026-03-01, end: 2099-03-15", "start: 2026-02-01, end: 2026-03-01")
    with pytest.raises(InvalidInput, match="it ended on 2026-03-01"):
        running.can_run(Experiment.parse(text), datetime(2026, 3, 1, tzinfo=UTC))
