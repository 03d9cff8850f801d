"""The demo as a person runs it, on a small shop: what it shows, what it leaves, how it stops."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

SIZE = {"users": 500, "items": 300, "days": 50, "events": 30_000}
CONFIG = {
    "windows": 2,
    "requests": 300,
    "two_tower": {"epochs": 1, "dim": 16, "validation_users": 100},
    "ranker": {"rounds": 20},
}


def start(out: Path, log: Path, *more: str) -> subprocess.Popen:
    words = ["--out", str(out), "--simulate", json.dumps(SIZE), "--config", json.dumps(CONFIG), *more]
    command = [sys.executable, "-m", "serving.demo", *words]
    env = {**os.environ, "COLUMNS": "140"}
    return subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT, env=env, start_new_session=True)


def left_over(out: Path) -> list[str]:
    """Processes that have to do with this demo's folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "pid"]):
        words = " ".join(process.info["cmdline"] or [])
        if str(out) in words and process.info["pid"] != os.getpid():
            found.append(words)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    out, log = root / "demo", root / "first.txt"
    process = start(out, log)
    try:
        code = process.wait(1200)
    finally:
        process.kill()
    assert code == 0, log.read_text()[-3000:]
    return out, log.read_text()


@pytest.mark.serving
@pytest.mark.slow
def test_it_shows_lists_and_says_where_everything_lies(finished):
    out, text = finished
    for shown in (
        "A returning user",
        "A new user",
        "The new user clicks",
        "after the clicks the list is another one",
        "a page to click on: http://127.0.0.1:",
    ):
        assert shown in text
    assert text.count("level full") == 3
    result = json.loads((out / "run" / "result.json").read_text())
    assert result["aliases"] == ["champion"]
    for place in (result["bundle"], f"{result['evaluation']}/report.html", result["log"], str(out / "mlflow")):
        assert place in text
        assert Path(place).exists()
    assert left_over(out) == []


@pytest.mark.serving
@pytest.mark.slow
def test_a_second_run_trains_nothing_again_and_stays_up_until_told_to_stop(finished):
    out, _ = finished
    log = out.parent / "second.txt"
    process = start(out, log, "--stay")
    try:
        deadline = time.monotonic() + 600
        while "Ctrl-C stops them" not in log.read_text() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.2)
        text = log.read_text()
        (address,) = re.findall(r"a page to click on: (http://127\.0\.0\.1:\d+/)", text)
        with urllib.request.urlopen(address, timeout=10) as reply:
            assert b"Longtail playground" in reply.read()
        question = urllib.request.Request(f"{address}api/recommend", b'{"k": 3}', {"content-type": "application/json"})
        with urllib.request.urlopen(question, timeout=10) as reply:
            assert len(json.load(reply)["list"]["items"]) == 3
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()[-3000:]
    finally:
        process.kill()
    assert text.count("done before") == 7  # every step but register
    assert "version 1 (champion)" in text
    assert "all servers are stopped" in log.read_text() and "longtail playground" in log.read_text()
    assert left_over(out) == []


@pytest.mark.slow
def test_interrupted_in_training_it_leaves_no_process_and_nothing_half_written(finished, tmp_path):
    out, log = tmp_path / "demo", tmp_path / "log.txt"
    process = start(out, log)
    deadline = time.monotonic() + 600
    while "train two tower: started" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert log.read_text().strip().endswith("longtail: stopped")
    assert left_over(out) == []
    steps = [step for run in (out / "run" / "steps").iterdir() for step in run.iterdir()]
    assert all((step / "executor_output.json").is_file() for step in steps)
    assert not [path for path in out.rglob("*") if path.name.endswith((".part", ".partial"))]


@pytest.mark.slow
def test_the_version_knows_its_data(finished):
    from longtail.registry import Registry
    from longtail.steps import fingerprint

    out, _ = finished
    champion = Registry(out / "mlflow").get("champion")
    assert champion.data_fingerprint == fingerprint(out / "shop")
    assert champion.metric in champion.figures
