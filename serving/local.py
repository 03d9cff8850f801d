"""The whole of serving as local processes on loopback: Triton, retriever, recommender, and a collector if wanted."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from longtail.engine.bundle import verify
from longtail.engine.deployment import DEPLOYMENT, Deployment, DeploymentWatch
from longtail.errors import InvalidInput, LongtailError, Unavailable
from serving.collector.local import LocalCollector
from serving.process import LOOPBACK, free_port, spawn, stop, tail
from serving.ranker.models import Models
from serving.ranker.triton import Triton

logger = logging.getLogger("longtail.serve")

START_S = 180.0
RESTART_AFTER_S = 1.0
TEND_EVERY_S = 1.0
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class LocalServing:
    """Starts the servers of a deployment (or of one bundle), keeps them alive, and ends them all on exit.

    `state` takes the deployment file, logs, online stores and Triton's folders. Ports that are not given are free ones.
    `clock="data"` continues from the moment a bundle's data ends, for shops whose data lies in the past. A `collector`
    is started with the others; `live` names the store of live events where that is another than the collector's.
    `supervise` restarts a part that died, loads a ranker whose stub died, and follows the deployment file. Entering
    returns when a real recommendation came through.
    """

    bundle: Path | Deployment
    state: Path
    http_port: int | None = None
    retriever_port: int | None = None
    ranker_port: int | None = None
    clock: Literal["wall", "data"] = "wall"
    pseudonym_key: Path | None = None
    impressions: Path | None = None
    live: str | None = None
    collector: LocalCollector | None = None
    extra: Sequence[str] = ()
    supervise: bool = True
    report: Callable[[str], None] = logger.info
    processes: dict[str, subprocess.Popen] = field(default_factory=dict, init=False)
    triton: Triton = field(init=False)

    def __post_init__(self) -> None:
        given = self.bundle
        self.deployment = given if isinstance(given, Deployment) else Deployment.single(given)
        self.state = Path(self.state).resolve()
        self.http_port = self.http_port or free_port()
        self.retriever_port = self.retriever_port or free_port()
        self.triton = Triton(self.state / "rankers", self.state, http_port=self.ranker_port)
        self._models = Models(self.triton, lambda line: self.report(line))
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where recommendations are asked for: POST here."""
        return f"http://{LOOPBACK}:{self.http_port}/v1/models/recommender:predict"

    @property
    def ready_url(self) -> str:
        """Answers 200 when a recommendation comes through."""
        return f"http://{LOOPBACK}:{self.http_port}/v2/models/recommender/ready"

    @property
    def deployment_file(self) -> Path:
        """What the servers follow: a deployment written here takes over when it has proven itself."""
        return self.state / DEPLOYMENT

    def log(self, name: str) -> Path:
        """The log file of `triton`, `retriever`, `recommender` or `collector`."""
        return self.collector.log if name == "collector" and self.collector else self.state / f"{name}.log"

    def start(self, timeout_s: float = START_S) -> LocalServing:
        """Start everything at once and wait until a full recommendation came through.

        Raises:
            InvalidBundle: a bundle is altered or incomplete.
            InvalidInput: a port is taken.
            Unavailable: a server did not start; the message carries the end of its log.
            KeyboardInterrupt: `cancel` was called.
        """
        try:
            self.launch()
            self._wait(timeout_s)
        except BaseException:
            self.stop()
            raise
        if self.supervise:
            self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
            self._watcher.start()
        self.report(f"ready at {self.url}")
        return self

    def launch(self) -> None:
        """Start the processes without waiting for them; see `start`."""
        # The servers read every file themselves.
        versions = [verify(bundle, contents=False).version for bundle in self.deployment.bundles]
        self._check_ports()
        self.state.mkdir(parents=True, exist_ok=True)
        self.deployment.save(self.deployment_file)
        self._models.start(self.deployment)
        self.report(f"starting bundle {', '.join(versions)}")
        for name in ("triton", "retriever", *(["collector"] if self.collector else []), "recommender"):
            self._launch(name)

    def offer(self, offered: Path | Deployment) -> None:
        """Ask the running servers to take over another bundle or deployment; they refuse one that is not sound."""
        deployment = offered if isinstance(offered, Deployment) else Deployment.single(offered)
        deployment.save(self.deployment_file)

    def cancel(self) -> None:
        """From a signal handler or another thread: a `start` that still waits gives up with KeyboardInterrupt."""
        self._stopping.set()

    def stop(self) -> None:
        """End every server, the entrance first; safe to call twice."""
        self._stopping.set()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join(30)
        for name in ("recommender", "retriever"):
            if name in self.processes:
                stop(self.processes.pop(name))
        self.triton.stop()
        if self.collector is not None:
            self.collector.stop()

    def recommend(self, instance: dict[str, Any], timeout_s: float = 10.0) -> dict[str, Any]:
        """Ask for one list.

        Raises:
            InvalidInput: the request is malformed; the message names the field.
            Unavailable: nothing answered.
        """
        body = json.dumps({"instances": [instance]}).encode()
        request = urllib.request.Request(self.url, body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as reply:
                return json.load(reply)["predictions"][0]
        except urllib.error.HTTPError as error:
            message = error.read().decode(errors="replace")
            raise (InvalidInput if error.code == 400 else Unavailable)(message) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unavailable(f"{self.url} does not answer: {error}") from None

    def status(self) -> dict[str, Any]:
        """What serves and what was refused last, as the recommender says it.

        Raises:
            Unavailable: it does not answer.
        """
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self.http_port}/v1/status", timeout=5) as reply:
                return json.load(reply)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unavailable(f"the recommender does not say what it serves: {error}") from None

    def _launch(self, name: str) -> None:
        if name == "triton":
            self.triton.launch()
            self._models.restarted()
            return
        if name == "collector":
            if self.collector is not None:
                self.collector.launch()
            return
        module = [sys.executable, "-m", f"serving.{name}", "--deployment", str(self.deployment_file)]
        if name == "retriever":
            flags = ["--http_port", str(self.retriever_port)]
        else:
            flags = [
                "--state", str(self.state), "--http_port", str(self.http_port), "--clock", self.clock,
                "--retriever", f"{LOOPBACK}:{self.retriever_port}", "--ranker", self.triton.address, *self.extra,
            ]  # fmt: skip
            live = self.live or (self.collector.live if self.collector else None)
            given = {"--pseudonym_key": self.pseudonym_key, "--impressions": self.impressions, "--live": live,
                     "--experiments": self.state if self.impressions else None}  # fmt: skip
            flags += [word for flag, value in given.items() if value for word in (flag, str(value))]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        # One thread for arithmetic: several processes share the cores, and matrices are small.
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LONGTAIL_HOST": LOOPBACK}
        self.processes[name] = spawn([*module, *flags], self.log(name), {"PYTHONPATH": path, **threads})

    def _running(self) -> dict[str, subprocess.Popen]:
        found = {**self.processes, "triton": self.triton.process}
        if self.collector is not None:
            found["collector"] = self.collector.process
        return {name: process for name, process in found.items() if process is not None}

    def _check_ports(self) -> None:
        ports = [self.http_port, self.retriever_port, self.triton.http_port]
        for port in [*ports, *([self.collector.port] if self.collector else [])]:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((LOOPBACK, int(port or 0)))
                except OSError:
                    raise InvalidInput(f"port {port} is taken: choose another, or stop what listens there") from None

    def _wait(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        level = "no answer"
        while time.monotonic() < deadline and not self._stopping.is_set():
            for name, process in self._running().items():
                if process.poll() is not None:
                    raise Unavailable(f"{name} ended with code {process.returncode}:\n{tail(self.log(name), 6)}")
            try:
                answer = self.recommend({"k": 1}, timeout_s=5)
                level = f"{answer['level']} ({answer.get('cause')})"
                if answer["level"] == "full" and answer["items"]:
                    if self.collector is not None:
                        self.collector.wait()
                    return
            except Unavailable:
                level = "no answer"
            self._stopping.wait(0.2)
        if self._stopping.is_set():
            raise KeyboardInterrupt
        raise Unavailable(f"no full recommendation after {timeout_s:.0f} s, last: {level}; logs are in {self.state}")

    def _watch(self) -> None:
        """Restart what died, and let Triton hold the rankers that the deployment needs."""
        watch = DeploymentWatch(self.deployment_file)
        with contextlib.suppress(InvalidInput):
            watch.changed()  # what is served already
        while not self._stopping.wait(TEND_EVERY_S):
            for name, process in self._running().items():
                if process.poll() is not None and not self._stopping.is_set():
                    self.report(f"{name} ended with code {process.returncode}, starting it again")
                    stop(process)
                    self._stopping.wait(RESTART_AFTER_S)
                    if not self._stopping.is_set():
                        self._launch(name)
            try:
                found = watch.changed()
                if found is not None:
                    self._models.take(found)
            except LongtailError as error:
                self.report(f"not taken: {error}")
            if self.triton.process is not None and self.triton.process.poll() is None:
                self._models.tend()
                with contextlib.suppress(Unavailable):
                    self._models.drop([Path(bundle) for bundle in self.status()["bundles"]])

    def __enter__(self) -> LocalServing:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
