"""A run on Kubeflow Pipelines: submitted once, followed to its end, and found again by whoever comes after a crash."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from longtail.registry import Registry
from longtail.retraining.ledger import Ledger
from pipelines.kubeflow import connect
from tests.pipelines.stand_in import kubeflow
from tests.registry.test_registry import write_bundle
from tests.retraining.signals import checked
from tests.retraining.signals import signal as verdict

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "platform.example.yaml"
COMPILED = ROOT / "pipelines" / "training.yaml"
PARAMS = {"reader": "shop", "source": "/mnt/shop", "registry": "http://mlflow.mlflow:5000"}
POLICY = f"""
rules: [{{when: index_age, do: refresh, confirm: {{days: 1, of: 1}}}}]
run:
  where: kubeflow
  platform: {EXAMPLE}
  registry: mlflow
  params: {{reader: shop, source: /mnt/shop/today, registry: "http://mlflow.mlflow:5000"}}
"""
WORDS = ["retrain", "--policy", "policy.yaml", "--monitoring", ".", "--ledger", "ledger.db"]
CRASH = f"""
import os, signal, sys
from longtail.retraining import launch
before = launch._pipeline
def crash(words, *rest, **named):
    code, said = before(words, *rest, **named)
    if words[0] == "submit":
        os.kill(os.getpid(), signal.SIGKILL)
    return code, said
launch._pipeline = crash
from longtail.cli import main
sys.argv = ["longtail", *{WORDS!r}]
main()
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "policy.yaml").write_text(POLICY)
    checked(tmp_path, verdict("index_age", 5))
    return tmp_path


def retrain(shop: Path, url: str, *command: str) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KF_")}
    environment |= {"KF_PIPELINES_ENDPOINT": url, "HOME": str(shop)}
    done = subprocess.run(
        [sys.executable, *(command or ("-m", "longtail.cli", *WORDS))], cwd=shop, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_a_run_is_submitted_once_and_followed_to_its_end(shop):
    with kubeflow() as server:
        server.progress = [{"state": "RUNNING"}, {"state": "SUCCEEDED"}]
        code, said = retrain(shop, server.url)
        assert code == 0, said
        (run,) = server.runs
        assert run["display_name"].startswith("longtail-retrain-1 ")
        assert run["runtime_config"]["parameters"]["action"] == "refresh"
        assert run["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "longtail-incremental"
    (row,) = Ledger(shop / "ledger.db").runs()
    assert (row.action, row.state) == ("refresh", "succeeded")
    assert run["run_id"] in row.outcome


def test_a_crash_after_the_submission_submits_nothing_again(shop):
    with kubeflow() as server:
        server.progress = [{"state": "RUNNING"}]
        code, _ = retrain(shop, server.url, "-c", CRASH)
        assert code == -signal.SIGKILL
        assert len(server.runs) == 1
        client = connect(server.url)  # somebody else's, meanwhile, in the same experiment
        client.run_pipeline(server.runs[0]["experiment_id"], "by hand", str(COMPILED), PARAMS)
        server.progress = [{"state": "FAILED"}]
        code, said = retrain(shop, server.url)
        assert code == 1, said
        assert "was cut off and goes on" in said
        assert len(server.runs) == 2
    (row,) = Ledger(shop / "ledger.db").runs()
    assert row.state == "failed"
    assert row.triggers[0]["check"] == "index_age"


def test_after_the_ledger_is_lost_the_run_of_an_older_one_is_taken_for_nobodys(shop):
    with kubeflow() as server:
        server.progress = [{"state": "SUCCEEDED"}]
        for _ in range(2):
            code, said = retrain(shop, server.url)
            assert code == 0, said
            for file in shop.glob("ledger.db*"):
                file.unlink()
        assert len(server.runs) == 2


@pytest.mark.parametrize(("step", "state", "told"), [
    ({"state": "SUCCEEDED"}, "succeeded", "; deployed: succeeded"),
    ({"state": "FAILED", "error": {"message": "what served before serves again"}}, "failed",
     "; not deployed: what served before serves again"),
])  # fmt: skip
def test_what_came_of_the_deployment_that_ends_a_run_stands_in_the_ledger(shop, step, state, told):
    with kubeflow() as server:
        server.progress = [{"state": "RUNNING"}]
        retrain(shop, server.url, "-c", CRASH)
        write_bundle(shop / "bundle", "new")
        name = server.runs[0]["runtime_config"]["parameters"]["run"]
        Registry(shop / "mlflow").register(shop / "bundle", {"ndcg@10": 0.1}, {}, "# it", "f00d", run=name)
        write_bundle(shop / "other", "other")  # somebody else's, meanwhile
        Registry(shop / "mlflow").register(shop / "other", {"ndcg@10": 0.0}, {}, "# it", "f00d")
        details = {"task_details": [{"display_name": "deploy", "task_id": "1", **step}]}
        server.progress = [{"state": step["state"], "run_details": details}]
        code, said = retrain(shop, server.url)
        assert code == (state == "failed"), said
    (row,) = Ledger(shop / "ledger.db").runs()
    assert (row.state, row.version) == (state, 1)
    assert "version 1, champion" in row.outcome
    assert row.outcome.endswith(told)


def test_without_an_answer_nothing_is_submitted_twice_and_the_run_stays_open(shop):
    with kubeflow() as server:
        server.progress = [{"state": "RUNNING"}]
        retrain(shop, server.url, "-c", CRASH)
        gone = server.url
    code, said = retrain(shop, gone)
    assert code == 0, said
    assert "does not say whether it runs already" in said
    (row,) = Ledger(shop / "ledger.db").runs()
    assert row.state == "started"
