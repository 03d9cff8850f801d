"""kill -9 in the middle of `longtail train`: the next one ends as if nothing had happened."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from longtail import steps
from longtail.datasets.importing import simulate_shop
from longtail.datasets.simulator import SimulatorConfig
from longtail.registry import Registry
from longtail.training import TrainingConfig

CONFIG = {
    "windows": 2,
    "requests": 100,
    "two_tower": {"epochs": 3, "dim": 8, "validation_users": 20},
    "ranker": {"rounds": 10, "threads": 1},
}
TIMES = re.compile(r'"(seconds|build_seconds|created|version)": [^,\n]*')  # how long it took, and when it was


def start(shop: Path, out: Path, log: Path) -> subprocess.Popen:
    config = log.with_suffix(".yaml")
    config.write_text(json.dumps(CONFIG))  # JSON is YAML
    words = ["train", shop, "--out", out, "--registry", out / "mlflow", "--config", config]
    command = [sys.executable, "-m", "longtail.cli", *map(str, words)]
    with log.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def kill_at(process: subprocess.Popen, log: Path, text: str) -> None:
    """End the run with all its steps, as a machine that loses power does, once the log says `text`."""
    wait_until(lambda: text in log.read_text() or process.poll() is not None)
    assert process.poll() is None, log.read_text()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(true: Callable[[], bool], limit_s: float = 600) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def processes(text: str) -> list[psutil.Process]:
    """Those whose command line holds `text`."""
    return [p for p in psutil.process_iter(["cmdline"]) if text in " ".join(p.info["cmdline"] or [])]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a bundle without what tells the time; the manifest's hashes of such files are left out with it."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"):
        raw = path.read_bytes()
        found[path.relative_to(folder).as_posix()] = TIMES.sub("", raw.decode()).encode() if b'"seconds"' in raw or (
            b'"build_seconds"' in raw) else raw  # fmt: skip
    return found


def whole(shop: Path, out: Path) -> dict[str, Any]:
    """The same training without a pipeline, in this process."""
    config = TrainingConfig.parse(json.dumps(CONFIG))
    parts = {n: out / n for n in ("features", "tower", "index", "candidates", "ranker", "evaluation", "bundle")}
    steps.build_features(shop, parts["features"], config)
    steps.train_two_tower(shop, parts["tower"], config)
    steps.build_index(parts.pop("tower"), parts["index"], config)
    steps.build_candidates(shop, parts["index"], parts["candidates"], config)
    steps.train_ranker(parts["candidates"], parts["ranker"], config)
    steps.evaluate(shop, parts["index"], parts["candidates"], parts["ranker"], parts["evaluation"], config)
    steps.register(shop, *parts.values(), str(out / "mlflow"), config)
    return parts


@pytest.mark.slow
def test_a_killed_training_run_ends_with_the_same_bundle(tmp_path: Path):
    shop, out = tmp_path / "shop", tmp_path / "run"
    simulate_shop(shop, SimulatorConfig(150, 80, 40, 8_000, seed=3), key_file=tmp_path / "key")
    log = tmp_path / "first.txt"
    kill_at(start(shop, out, log), log, "two-tower epoch 1/3")
    assert not (out / "result.json").exists() and not (out / "mlflow").exists()
    wait_until(lambda: not processes(str(out)))

    again = tmp_path / "second.txt"
    second = start(shop, out, again)
    expected = whole(shop, tmp_path / "whole")  # meanwhile, on the other core
    assert second.wait(600) == 0, again.read_text()
    assert "done before" in again.read_text(), "what had finished is not done again"
    result = json.loads((out / "result.json").read_text())
    ours, theirs = contents(Path(result["bundle"])), contents(expected["bundle"])
    assert ours.keys() == theirs.keys() and len(ours) > 50
    assert [name for name in ours if ours[name] != theirs[name]] == []
    versions = [Registry(place / "mlflow").get("champion") for place in (out, tmp_path / "whole")]
    assert versions[0].figures == versions[1].figures
    assert not [p for p in out.rglob("*") if p.name.endswith((".part", ".partial")) or ".part." in p.name]
