"""`python -m serving.ranker`: Triton in a container of its own."""

from __future__ import annotations

import signal
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from longtail.engine.deployment import Deployment, Variant
from longtail.engine.ranker_repository import write_repository
from longtail.errors import Unavailable
from serving.process import free_port, spawn, stop, tail
from tests.serving.test_triton import F, booster

pytestmark = pytest.mark.serving


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status
    except OSError as error:
        return getattr(error, "code", 0)


def until(check, log: Path, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, tail(log, 20)
        time.sleep(0.1)


def test_it_follows_the_deployment_and_serves_metrics_and_ends_with_its_triton(tmp_path):
    from serving.ranker.triton import wheel

    try:
        wheel()
    except Unavailable as reason:
        pytest.skip(str(reason))
    models = []
    for name, seed in (("a", 0), ("b", 5)):
        booster(tmp_path / f"{name}.ubj", seed)
        models.append(write_repository(tmp_path / f"{name}.ubj", F, tmp_path / name / "ranker").name)
    file, log = tmp_path / "deployment.yaml", tmp_path / "log"
    Deployment.single(tmp_path / "a").save(file)
    http, metrics = free_port(), free_port()
    ports = ["--http_port", str(http), "--metrics_port", str(metrics)]
    words = ["--deployment", str(file), "--state", str(tmp_path / "state"), *ports]
    server = spawn([sys.executable, "-m", "serving.ranker", *words], log)
    base = f"http://127.0.0.1:{http}/v2"
    try:
        until(lambda: status(f"{base}/health/ready") == 200, log)
        assert status(f"{base}/models/{models[0]}/ready") == 200
        assert status(f"{base}/models/{models[1]}/ready") != 200
        assert status(f"http://127.0.0.1:{metrics}/metrics") == 200
        both = {n: Variant(bundle=tmp_path / n, share=0.5) for n in ("a", "b")}
        Deployment(variants=both).save(file)
        until(lambda: status(f"{base}/models/{models[1]}/ready") == 200, log)
        assert status(f"{base}/models/{models[0]}/ready") == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        assert status(f"{base}/health/live") == 0
    finally:
        stop(server)
