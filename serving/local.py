"""The whole of serving as local processes on loopback: Triton, retriever, recommender."""

from __future__ import annotations

import http.client
import json
import logging
import os
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
from longtail.errors import InvalidInput, Unavailable
from serving.process import LOOPBACK, free_port, spawn, stop, tail
from serving.ranker.triton import Triton

logger = logging.getLogger("longtail.serve")

START_S = 180.0
RESTART_AFTER_S = 1.0
PROBE_EVERY_S = 2.0
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class LocalServing:
    """Starts the three servers of a bundle, keeps them alive, and ends them all on exit.

    `state` takes logs, online stores and Triton's backend. Ports that are not given are free ones. `clock="data"`
    continues from the moment the bundle's data ends, for shops whose data lies in the past. `supervise` restarts a part
    that died and reloads a ranker whose stub died. Entering returns when a real recommendation came through.
    """

    bundle: Path
    state: Path
    http_port: int | None = None
    retriever_port: int | None = None
    ranker_port: int | None = None
    clock: Literal["wall", "data"] = "wall"
    pseudonym_key: Path | None = None
    impressions: Path | None = None
    extra: Sequence[str] = ()
    supervise: bool = True
    report: Callable[[str], None] = logger.info
    processes: dict[str, subprocess.Popen] = field(default_factory=dict, init=False)
    triton: Triton = field(init=False)

    def __post_init__(self) -> None:
        self.bundle, self.state = Path(self.bundle).resolve(), Path(self.state).resolve()
        self.http_port = self.http_port or free_port()
        self.retriever_port = self.retriever_port or free_port()
        self._retriever_http = free_port()
        self.triton = Triton(self.bundle / "ranker", self.state, grpc_port=self.ranker_port)
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

    def log(self, name: str) -> Path:
        """The log file of `triton`, `retriever` or `recommender`."""
        return self.state / f"{name}.log"

    def start(self, timeout_s: float = START_S) -> LocalServing:
        """Start everything at once and wait until a full recommendation came through.

        Raises:
            InvalidBundle: the bundle is altered or incomplete.
            InvalidInput: a port is taken.
            Unavailable: a server did not start; the message carries the end of its log.
            KeyboardInterrupt: `cancel` was called.
        """
        manifest = verify(self.bundle, contents=False)  # the servers read every file themselves
        self._check_ports()
        self.state.mkdir(parents=True, exist_ok=True)
        try:
            self.report(f"starting bundle {manifest.version}")
            for name in ("triton", "retriever", "recommender"):
                self._launch(name)
            self._wait(timeout_s)
        except BaseException:
            self.stop()
            raise
        if self.supervise:
            self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
            self._watcher.start()
        self.report(f"ready at {self.url}")
        return self

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

    def _launch(self, name: str) -> None:
        if name == "triton":
            self.triton.launch()
            return
        module = [sys.executable, "-m", f"serving.{name}", "--bundle", str(self.bundle)]
        if name == "retriever":
            flags = ["--http_port", str(self._retriever_http), "--grpc_port", str(self.retriever_port)]
        else:
            flags = [
                "--state", str(self.state), "--http_port", str(self.http_port), "--clock", self.clock,
                "--retriever", f"{LOOPBACK}:{self.retriever_port}", "--ranker", self.triton.grpc_address, *self.extra,
            ]  # fmt: skip
            flags += ["--pseudonym_key", str(self.pseudonym_key)] if self.pseudonym_key else []
            flags += ["--impressions", str(self.impressions)] if self.impressions else []
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        # One thread for arithmetic: several processes share the cores, and matrices are small.
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LONGTAIL_HOST": LOOPBACK}
        self.processes[name] = spawn([*module, *flags], self.log(name), {"PYTHONPATH": path, **threads})

    def _check_ports(self) -> None:
        import socket

        for port in (self.http_port, self.retriever_port, self.triton.grpc_port):
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
            for name, process in {**self.processes, "triton": self.triton.process}.items():
                if process is not None and process.poll() is not None:
                    raise Unavailable(f"{name} ended with code {process.returncode}:\n{tail(self.log(name), 6)}")
            try:
                answer = self.recommend({"k": 1}, timeout_s=5)
                level = f"{answer['level']} ({answer.get('cause')})"
                if answer["level"] == "full" and answer["items"]:
                    return
            except Unavailable:
                level = "no answer"
            self._stopping.wait(0.2)
        if self._stopping.is_set():
            raise KeyboardInterrupt
        raise Unavailable(f"no full recommendation after {timeout_s:.0f} s, last: {level}; logs are in {self.state}")

    def _watch(self) -> None:
        """Restart what died. Triton's stub is watched by real inferences: its health stays 200 without one."""
        failures = 0
        while not self._stopping.wait(PROBE_EVERY_S):
            for name, process in list({**self.processes, "triton": self.triton.process}.items()):
                if process is not None and process.poll() is not None and not self._stopping.is_set():
                    self.report(f"{name} ended with code {process.returncode}, starting it again")
                    stop(process)
                    self._stopping.wait(RESTART_AFTER_S)
                    if not self._stopping.is_set():
                        self._launch(name)
                        failures = -15  # a server that is starting is not a dead stub
            triton = self.triton.process
            if triton is None or triton.poll() is not None:
                continue
            failures = 0 if self.triton.answers() else failures + 1
            if failures >= 2 and not self._stopping.is_set():
                self.report("the ranker answers no inference, loading it again")
                failures = 0 if self.triton.reload() else -5

    def __enter__(self) -> LocalServing:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
