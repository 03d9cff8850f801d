"""`longtail pipeline` against a server that speaks Kubeflow Pipelines' HTTP API, as processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from longtail.errors import InvalidInput, Unavailable
from pipelines import cluster, cron
from pipelines.kubeflow import answered, connect
from tests.pipelines.stand_in import Kubeflow, kubeflow

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "platform.example.yaml"
GIVEN = ("--param", "reader=shop", "--param", "source=/mnt/shop/today", "--param", "registry=http://mlflow.mlflow:5000")


def longtail(server: Kubeflow, *words: str, code: int = 0, home: Path, **variables: str) -> str:
    """What `longtail pipeline` prints; the server's address comes from the environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KF_")}
    environment |= {"KF_PIPELINES_ENDPOINT": server.url, "HOME": str(home), **variables}
    command = [sys.executable, "-m", "longtail.cli", "pipeline", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def task(name: str, state: str, began: int, ended: int | None = None, error: str = "") -> dict[str, Any]:
    at = "2026-01-01T00:{:02d}:00Z"
    found = {"display_name": name, "state": state, "create_time": at.format(began), "start_time": at.format(began)}
    found["end_time"] = at.format(ended) if ended else "1970-01-01T00:00:00Z"
    return found | ({"error": {"code": 5, "message": error}} if error else {})


def details(*tasks: dict[str, Any]) -> dict[str, Any]:
    root = [
        task("root", "RUNNING", 0),
        task("root-driver", "SUCCEEDED", 0, 1),
        task("ingest-driver", "SUCCEEDED", 0, 1),
    ]
    return {"run_details": {"task_details": [*root, *tasks]}}


def test_a_run_is_submitted_as_the_platform_file_wants_it_with_a_token_that_is_read_anew(tmp_path):
    (tmp_path / "token").write_text("first")
    words = ("submit", "training", "--platform", str(EXAMPLE), *GIVEN, "--param", "margin=0.01", "--name", "night")
    with kubeflow(token="first") as server:
        said = longtail(server, *words, home=tmp_path, KF_PIPELINES_SA_TOKEN_PATH=str(tmp_path / "token"))
        (run,) = server.runs
        assert said == f"run {run['run_id']} (night) was submitted\n"
        assert all(authorization == "Bearer first" for _, _, authorization in server.seen)
        (experiment,) = server.held["experiments"].values()
    assert (experiment["display_name"], run["experiment_id"]) == ("longtail", experiment["experiment_id"])
    assert run["runtime_config"] == {
        "parameters": {
            "reader": "shop", "source": "/mnt/shop/today", "registry": "http://mlflow.mlflow:5000", "margin": 0.01
        },
        "pipeline_root": "s3://recommender/pipelines",
    }  # fmt: skip
    assert run["service_account"] == "longtail-pipelines"
    sent = run["pipeline_spec"]
    assert sent["pipeline_spec"]["pipelineInfo"]["name"] == "longtail-training"
    executors = sent["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["exec-train-two-tower"]["nodeSelector"]["labels"] == {"pool": "gpu"}
    assert sent["pipeline_spec"]["root"]["dag"]["tasks"]["register"]["cachingOptions"] == {}, "never from the cache"


def test_watching_is_scheduled_and_decides_nothing_that_an_audit_log_would_have_to_keep(tmp_path):
    platform = tmp_path / "platform.yaml"
    platform.write_text("image: longtail-pipelines:1\ndefaults: {volumes: [{claim: shop, mount: /mnt/shop}]}\n")
    given = ["--param", "registry=http://mlflow", "--param", "log=/mnt/shop/serving", "--param"]
    words = ("schedule", "monitoring", "--platform", str(platform), "--cron", "0 0 5 * * *", *given)
    with kubeflow() as server:
        said = longtail(server, *words, "state=/tmp/here", code=2, home=tmp_path)
        assert "state=/tmp/here lies on no volume" in said
        longtail(server, *words, "state=/mnt/shop/monitoring", home=tmp_path)
        (made,) = server.schedules
    task = made["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]["monitor"]
    assert task["cachingOptions"] == {}, "never from the cache"
    assert made["runtime_config"]["parameters"]["log"] == "/mnt/shop/serving"


def test_a_schedule_replaces_the_one_of_its_name(tmp_path):
    words = ("schedule", "training", "--platform", str(EXAMPLE), *GIVEN, "--name", "nightly", "--namespace", "team-a")
    with kubeflow() as server:
        longtail(server, *words, "--cron", "0 30 3 * * *", home=tmp_path)
        (first,) = server.schedules
        said = longtail(server, *words, "--cron", "0 0 4 * * MON-FRI", home=tmp_path)
        (second,) = server.schedules
        assert first["trigger"] == {"cron_schedule": {"cron": "0 30 3 * * *"}}
        assert second["trigger"] == {"cron_schedule": {"cron": "0 0 4 * * MON-FRI"}}
        assert f"it replaces {first['recurring_run_id']}" in said
        assert (second["mode"], second["max_concurrency"], second["no_catchup"]) == ("ENABLE", 1, True)
        assert second["service_account"] == "longtail-pipelines"
        (experiment,) = server.held["experiments"].values()
        assert experiment["namespace"] == "team-a"


def submitted(server: Kubeflow) -> str:
    """A run without a process of its own."""
    given = json.dumps({"reader": "shop", "source": "s3://shop/today", "registry": "http://mlflow"})
    with pytest.raises(SystemExit) as ended:
        cluster.main(["submit", "training", "--platform", str(EXAMPLE), "--host", server.url, "--params", given])
    assert ended.value.code == 0
    return server.runs[-1]["run_id"]


def test_status_shows_the_newest_run_by_step_and_its_exit_code_the_outcome(tmp_path, capsys):
    with kubeflow() as server:
        run = submitted(server)
        server.progress = [
            {"state": "RUNNING"} | details(task("ingest", "SUCCEEDED", 1, 3), task("build-features", "RUNNING", 3))
        ]
        lines = longtail(server, "status", code=3, home=tmp_path).splitlines()
        assert lines[0].split() == ["ingest", "succeeded", "120", "s"]
        assert lines[1].split() == ["build-features", "running"]
        assert [line.split()[1] for line in lines[2:10]] == ["waiting"] * 8 and "driver" not in " ".join(lines)
        assert lines[10].startswith(f"run {run} (training ") and lines[10].endswith("): running")
        server.progress = [{"state": "FAILED"} | details(task("ingest", "FAILED", 1, 2, "exit code 2"))]
        told = json.loads(longtail(server, "status", run, "--json", code=1, home=tmp_path))
        assert told["state"] == "FAILED"
        assert told["steps"][0] == {"name": "ingest", "state": "failed", "took": "60 s", "error": "exit code 2"}


def test_waiting_follows_the_run_over_an_outage_until_it_ends(tmp_path):
    with kubeflow() as server:
        run = submitted(server)
        done = [task("ingest", "SUCCEEDED", 1, 3), task("register", "SUCCEEDED", 3, 4)]
        server.progress = [
            {"state": "RUNNING"} | details(task("ingest", "RUNNING", 1)),
            {"state": "RUNNING"} | details(task("ingest", "FAILED", 1, 2), done[0]),  # tried again
            {"state": "SUCCEEDED"} | details(*done),
        ]
        said = longtail(server, "status", run, "--wait", "--every-s", "0.1", home=tmp_path)
        assert [line for line in said.splitlines() if line.startswith(("ingest", "register"))] == [
            "ingest: running", "ingest: succeeded, 120 s", "register: succeeded, 60 s"
        ]  # fmt: skip
        assert said.splitlines()[-1].endswith("): succeeded")


@pytest.mark.parametrize("state", ["CANCELED", "FAILED"])
def test_waiting_ends_with_1_however_a_run_fails(state, capsys):
    with kubeflow() as server:
        run = submitted(server)
        server.progress = [{"state": "RUNNING"}, {"state": state, "error": {"code": 1, "message": "stopped by hand"}}]
        args = cluster.arguments(["status", run, "--wait", "yes", "--every-s", "0.01", "--host", server.url])
        client = connect(server.url)
        server.broken = 2
        assert cluster.follow(client, run, args) == 1
        out, err = capsys.readouterr()
        assert "stopped by hand" in out and "503" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["submit", "traning"], "no pipeline is called traning: choose from training"),
        (["submit", "training", "--params", '{"reader": "shop"}'], "needs source: give --param source="),
        (["submit", "training", "--params", '{"depth": "3"}'], "has no parameter depth: choose from reader"),
        (
            ["submit", "training", "--params", '{"reader": "shop", "source": "runs/shop", "registry": "http://m"}'],
            "source=runs/shop is a relative path",
        ),
        (
            ["submit", "training", "--params", '{"reader": "shop", "source": "/data", "registry": "http://m"}'],
            "source=/data lies on no volume of the platform file (mounted: /mnt/audit, /mnt/shop, ",
        ),
        (
            ["submit", "training", "--params", '{"reader": "a", "source": "s3://a", "registry": "", "margin": "x"}'],
            "margin=x: it must be Float",
        ),
        (["schedule", "training", "--cron", "30 3 * * *"], "has 5 fields: put the seconds before them, as in '0 30 3"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_the_server_hears_of_it(words, said, capsys):
    with kubeflow() as server, pytest.raises(SystemExit) as ended:
        cluster.main([*words, "--platform", str(EXAMPLE), "--host", server.url])
    assert ended.value.code == 2 and server.seen == []
    assert said in capsys.readouterr().err


def test_a_registry_that_is_a_server_needs_a_file_for_what_is_decided(tmp_path, capsys):
    (tmp_path / "platform.yaml").write_text(
        "image: longtail-pipelines:1\ndefaults:\n  volumes: [{claim: c, mount: /mnt}]\n"
    )
    words = ["submit", "training", "--platform", str(tmp_path / "platform.yaml"), "--params"]
    with kubeflow() as server:
        for registry, code in (("http://mlflow", 2), ("/mnt/registry", 0)):
            given = json.dumps({"reader": "shop", "source": "/mnt/shop", "registry": registry})
            with pytest.raises(SystemExit) as ended:
                cluster.main([*words, given, "--host", server.url])
            assert ended.value.code == code
    assert "the step register records what it decides: name a file on one of its volumes" in capsys.readouterr().err


def test_what_the_server_refuses_is_told_in_its_own_words(tmp_path):
    with kubeflow(token="right") as server:
        with pytest.raises(InvalidInput, match=r"401: Request not authenticated \(name a --token-file"):
            _list(server)
        with pytest.raises(InvalidInput, match="does not exist: name the file with the token"):
            connect(server.url, token_file=str(tmp_path / "none"))
    with pytest.raises(Unavailable, match="nothing answers at"):
        connect(server.url)


def _list(server: Kubeflow):
    client = connect(server.url, namespace="team-a")
    with answered(server.url):
        return client.list_runs()


@pytest.mark.parametrize(
    "expression", ["0 30 3 * * *", "0 */15 * ? * MON-FRI", "0 0 0 1,15 JAN-JUN/2 *", "@daily", "@every 1h30m"]
)
def test_schedules_of_six_fields_pass(expression):
    assert cron.checked(f" {expression} ") == expression


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("0 60 3 * * *", "'60' is no minutes"),
        ("0 0 3 * 13 *", "'13' is no month"),
        ("0 0 3 * * FRI-MON", "'FRI-MON' is no day of the week"),
        ("0 0 3 * * */0", r"'\*/0' is no day"),
        ("daily", "has 1 fields, it needs 6"),
    ],
)
def test_other_schedules_are_refused_by_field(expression, said):
    with pytest.raises(InvalidInput, match=said):
        cron.checked(expression)
