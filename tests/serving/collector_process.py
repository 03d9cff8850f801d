"""A real collector as a process, and what it has stored."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from longtail.events.spool import Spool
from serving.process import LOOPBACK, free_port, spawn, stop, tail

KEY = "a key of tests, sixteen bytes or more"


class CollectorProcess:
    """`python -m serving.collector` on a state folder; may be killed and started again."""

    def __init__(self, state: Path, config: dict[str, Any] | None = None, flags: tuple[str, ...] = ()) -> None:
        self.state, self.port = state, free_port()
        self.log = state.parent / f"{state.name}.log"
        self._flags = flags
        if config is not None:
            file = state.parent / f"{state.name}.yaml"
            file.write_text(yaml.safe_dump(config))
            self._flags += ("--config", str(file))
        self.process: subprocess.Popen | None = None

    def start(self, timeout_s: float = 60.0) -> CollectorProcess:
        argv = [sys.executable, "-m", "serving.collector", "--state", str(self.state), "--port", str(self.port)]
        self.process = spawn([*argv, *self._flags], self.log, {"LONGTAIL_PSEUDONYM_KEY": KEY, "OMP_NUM_THREADS": "1"})
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.ask("GET", "/healthz")[0] == 200:
                    return self
            except OSError:
                time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"the collector did not start:\n{tail(self.log)}")

    def kill(self) -> None:
        """End it without a chance to tidy up."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        if self.process is None:
            return 0
        code = stop(self.process, 60)
        self.process = None
        return code

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """(status, JSON or text, headers) of one request."""
        link = http.client.HTTPConnection(LOOPBACK, self.port, timeout=30)
        try:
            content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            link.request(method, path, content, headers or {})
            reply = link.getresponse()
            raw = reply.read()
            named = {k.lower(): v for k, v in reply.getheaders()}
            return reply.status, json.loads(raw) if "json" in named.get("content-type", "") else raw.decode(), named
        finally:
            link.close()

    def post(self, events: object, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Send a list of events, or any other body as it is."""
        return self.ask("POST", "/v1/events", {"events": events} if isinstance(events, list) else events, headers)

    def lines(self) -> list[dict[str, Any]]:
        """The structured lines of its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def __enter__(self) -> CollectorProcess:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()


def sealed(state: Path) -> list[dict[str, Any]]:
    """All rows of the sealed Parquet."""
    files = sorted((state / "events").glob("date=*/part-*.parquet"))
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def stored(state: Path) -> Counter[str]:
    """How often each event id is stored, once no collector runs: what is unsealed is sealed first."""
    spool = Spool(state)
    spool.seal()
    spool.close()
    return Counter(row["event_id"] for row in sealed(state))
