"""Passes with real processes that are killed: one run each, and a ledger that tells. The pipeline is a stand-in."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longtail.retraining.ledger import Ledger
from tests.retraining.signals import RULES, checked
from tests.retraining.signals import signal as verdict

PIPELINE = """
import json, os, pathlib, sys, time
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
log = pathlib.Path("starts.jsonl")
with log.open("a") as file:
    file.write(json.dumps({"pid": os.getpid(), **flags}) + "\\n")
if pathlib.Path("slow").exists():
    time.sleep(60)
if pathlib.Path("broken").exists():
    print("step ingest failed: the disk is full")
    sys.exit(1)
"""
CRASH = """
import os, signal, sys
from longtail.retraining import passing
passing.{at} = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
from longtail.cli import main
sys.argv = ["longtail", "retrain", "--policy", "policy.yaml", "--monitoring", ".", "--ledger", "ledger.db"]
main()
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a policy, a history whose drift is confirmed, and a pipeline that says when it starts."""
    (tmp_path / "policy.yaml").write_text(RULES)
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("")
    (tmp_path / "pipelines" / "run_local.py").write_text(PIPELINE)
    checked(tmp_path, *(verdict("feature_drift", n, n > 3, "price") for n in range(1, 6)))
    return tmp_path


def started(shop: Path) -> list[dict]:
    log = shop / "starts.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def begin(shop: Path, code: str = "") -> subprocess.Popen:
    words = ["-c", code] if code else ["-m", "longtail.cli", "retrain", "--policy", "policy.yaml", "--monitoring", "."]
    words += [] if code else ["--ledger", "ledger.db"]
    return subprocess.Popen(
        [sys.executable, *words], cwd=shop, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def retrain(shop: Path, code: str = "") -> tuple[int, str]:
    with begin(shop, code) as process:
        said, _ = process.communicate(timeout=120)
    return process.returncode, said


def until(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def rows(shop: Path) -> list[tuple[str, str, int]]:
    return [(run.action, run.state, run.attempts) for run in Ledger(shop / "ledger.db").runs()]


def test_a_confirmed_signal_starts_one_run_and_a_second_pass_none(shop):
    code, said = retrain(shop)
    assert code == 0, said
    assert [s["--action"] for s in started(shop)] == ["incremental"]
    assert rows(shop) == [("incremental", "succeeded", 1)]
    run = Ledger(shop / "ledger.db").runs()[0]
    assert "feature_drift (price) on 2024-03-04, 2024-03-05" in run.reason
    assert run.cpu_s > 0
    code, said = retrain(shop)
    assert (code, said.strip()) == (0, "nothing fired on enough days")
    assert len(started(shop)) == 1
    status = [sys.executable, "-m", "longtail.cli", "retrain", "status", "--ledger", "ledger.db"]
    told = subprocess.run(status, cwd=shop, capture_output=True, text=True, timeout=60)
    assert "incremental succeeded" in " ".join(told.stdout.split())


def test_two_triggers_at_once_start_one_run(shop):
    (shop / "slow").touch()
    checked(shop, verdict("index_age", 5))
    passes = [begin(shop) for _ in range(3)]
    try:
        until(lambda: sum(p.poll() is not None for p in passes) == 2)
        said = [p.communicate()[0] for p in passes if p.poll() is not None]
        assert all("nothing is started beside it" in text for text in said), said
        assert all(p.returncode == 0 for p in passes if p.poll() is not None)
        until(lambda: started(shop))
        assert [s["--action"] for s in started(shop)] == ["incremental"]
        assert rows(shop) == [("incremental", "started", 1)]
    finally:
        for s in started(shop):
            os.kill(s["pid"], signal.SIGKILL)
        for p in passes:
            p.communicate(timeout=60)
    assert rows(shop) == [("incremental", "failed", 1)]


@pytest.mark.parametrize(("at", "lost"), [("_see_to_its_end", 0), ("launch", 1)])
def test_a_crash_between_trigger_and_run_starts_it_once_with_the_next_pass(shop, at, lost):
    code, _ = retrain(shop, CRASH.format(at=at))
    assert code == -signal.SIGKILL
    assert not started(shop)
    code, said = retrain(shop)
    assert code == 0, said
    assert "was cut off and goes on" in said
    assert len(started(shop)) == 1
    assert rows(shop) == [("incremental", "succeeded", 1 + lost)]
    retrain(shop)
    assert len(started(shop)) == 1


def test_a_run_whose_starter_is_killed_is_waited_for_and_goes_on_once_when_it_dies(shop):
    (shop / "slow").touch()
    process = begin(shop)
    until(lambda: started(shop))
    process.kill()
    process.communicate()
    code, said = retrain(shop)  # its run lives, and holds the lock
    assert (code, len(started(shop))) == (0, 1)
    assert "or the run it started) is at it" in said
    os.kill(started(shop)[0]["pid"], signal.SIGKILL)
    (shop / "slow").unlink()
    code, said = retrain(shop)
    assert code == 0, said
    assert len(started(shop)) == 2
    assert rows(shop) == [("incremental", "succeeded", 2)]
    states = [state for _, state, _ in Ledger(shop / "ledger.db").steps(1)]
    assert states == ["decided", "started", "lost", "started", "succeeded"]


def test_a_run_that_is_cut_off_again_and_again_is_given_up(shop):
    for _ in range(2):
        retrain(shop, CRASH.format(at="launch"))
    code, said = retrain(shop)
    assert code == 1
    assert "cut off 2 times and is given up" in said
    assert rows(shop) == [("incremental", "lost", 2)]
    code, said = retrain(shop)
    assert code == 0
    assert "waits for" in said
    assert not started(shop)


def test_a_failing_pipeline_is_tried_once_and_the_ledger_says_what_it_said(shop):
    (shop / "broken").touch()
    code, said = retrain(shop)
    assert code == 1
    assert "the disk is full" in said
    for _ in range(3):
        code, said = retrain(shop)
        assert code == 0
        assert "incremental waits for" in said
    assert len(started(shop)) == 1
    runs = Ledger(shop / "ledger.db").runs()
    assert [(r.action, r.state, r.seen) for r in runs] == [("cooldown", "kept", 3), ("incremental", "failed", 1)]
    assert "the disk is full" in runs[1].outcome


def test_a_flapping_signal_starts_one_run(shop):
    for n in range(6, 12):
        checked(shop, verdict("feature_drift", n, n % 2 == 0, "price"))
        retrain(shop)
    assert len(started(shop)) == 1
    assert [r.state for r in Ledger(shop / "ledger.db").runs()].count("succeeded") == 1


def test_without_checks_it_says_what_to_run_first(shop):
    (shop / "history.db").unlink()
    code, said = retrain(shop)
    assert (code, said.count("\n")) == (2, 1)
    assert "run `longtail monitor` first" in said
