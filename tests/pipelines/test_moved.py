"""Steps in pods: each sees copies of its inputs' files, and the registry is a server."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from longtail import steps
from longtail.engine.bundle import verify
from longtail.registry import Registry
from tests.registry.test_registry import write_bundle
from tests.test_training import BRIEF, busy, saved


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """A real tracking server on loopback that hands artifacts through."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "store")]
    command = [sys.executable, "-m", "mlflow", "server", *words]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
    try:
        deadline = time.monotonic() + 400
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and server.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.mark.slow
def test_two_who_promote_at_once_on_a_server_take_turns_where_they_share_a_record(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LONGTAIL_AUDIT", str(tmp_path / "audit" / "audit.jsonl"))
    history = Registry._history
    with mlflow_server(tmp_path) as server:
        for name, ndcg in (("first", 0.3), ("second", 0.2), ("third", 0.1)):
            bundle = write_bundle(tmp_path / name, name)
            Registry(server).register(bundle, {"ndcg@10": ndcg}, {}, "", "f00d")
        monkeypatch.setattr(Registry, "_history", lambda self: (history(self), time.sleep(1))[0])
        with ThreadPoolExecutor() as pool:
            each = [pool.submit(Registry(server).promote, number) for number in (2, 3)]
            assert [done.result().number for done in each] == [2, 3]
        found = history(Registry(server))
        assert sorted(found) == [1, 2, 3]  # neither was forgotten
        assert Registry(server).champion().number == found[-1]


class Store:
    """The artifact store: it keeps files, not folders, links or modes; every step works on copies of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pods = 0

    def step(self, function, inputs: list[str], output: str, *rest, **more):
        self.pods += 1
        pod = self.folder / f"pod-{self.pods}"
        for name in inputs:
            carry(self.folder / "store" / name, pod / "in" / name)
        try:
            return function(*(pod / "in" / name for name in inputs), pod / "out" / output, *rest, **more)
        finally:
            carry(pod / "out" / output, self.folder / "store" / output)
            shutil.rmtree(pod)


def carry(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file() and not path.is_symlink():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())


@pytest.mark.slow
def test_a_training_run_needs_nothing_but_the_files_of_its_artifacts_and_a_registry_server(tmp_path: Path) -> None:
    source, store = saved(tmp_path / "shop", busy(), "click"), Store(tmp_path / "pods")

    def ingest(out: Path):
        return steps.ingest("shop", f"file://{source}", out)

    with mlflow_server(tmp_path) as registry:
        store.step(ingest, [], "shop")
        store.step(steps.build_features, ["shop"], "features", BRIEF)
        store.step(steps.train_two_tower, ["shop"], "tower", BRIEF)
        store.step(steps.build_index, ["tower"], "index", BRIEF)
        store.step(steps.build_candidates, ["shop", "index"], "candidates", BRIEF)
        store.step(steps.train_ranker, ["candidates"], "ranker", BRIEF)
        store.step(steps.evaluate, ["shop", "index", "candidates", "ranker"], "evaluation", BRIEF)
        inputs = ["shop", "features", "candidates", "ranker", "evaluation"]
        store.step(steps.off_policy, inputs, "verdict", registry, BRIEF)
        verdict = tmp_path / "pods" / "store" / "verdict"
        inputs.insert(2, "index")
        told = store.step(steps.register, inputs, "bundle", registry, BRIEF, verdict=verdict)
        assert told["version"] == 1
        shutil.rmtree(tmp_path / "pods")
        version = Registry(registry).get("champion" if told["aliases"] else 1)
        bundle = Registry(registry).resolve(version.number)
        assert verify(bundle).version == version.bundle_version == told["bundle"]
        assert Registry(registry).storage_uri(1).startswith("mlflow-artifacts:/")
    folder = Registry(tmp_path / "local")
    folder.register(bundle, {"ndcg@10": 0.5}, {}, "", "")
    assert (
        folder.storage_uri("champion")
        == f"file://{tmp_path}/local/artifacts/" + folder.storage_uri(1).split("/artifacts/", 1)[1]
    )
