"""The collector as a process of its own beside local servers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from longtail.errors import Unavailable
from serving.process import LOOPBACK, free_port, spawn, stop, tail

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0


@dataclass
class LocalCollector:
    """Takes events on loopback into `state` until `stop`; a recommender that reads `live` follows them.

    `launch` returns at once and `wait` when events are taken, so that other servers can start meanwhile.
    """

    state: Path
    pseudonym_key: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """Where events are sent: POST to `/v1/events` below it."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def live(self) -> str:
        """The address of its live store, for the recommender's `--live`."""
        return f"sqlite://{Path(self.state).resolve()}/live.db"

    @property
    def log(self) -> Path:
        """Its log file."""
        return Path(self.state) / "collector.log"

    def launch(self) -> LocalCollector:
        """Start the process."""
        words = ["--state", str(self.state), "--port", str(self.port), "--pseudonym_key", str(self.pseudonym_key)]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {"PYTHONPATH": path, "LONGTAIL_HOST": LOOPBACK}
        self.process = spawn([sys.executable, "-m", "serving.collector", *words], self.log, environment)
        return self

    def wait(self, timeout_s: float = START_S) -> str:
        """Its address, when it takes events.

        Raises:
            Unavailable: it did not start; the message carries the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while self.process is not None and self.process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=2):
                    return self.url
            except OSError:  # not there yet, or not ready
                time.sleep(0.05)
        raise Unavailable(f"the collector did not start:\n{tail(self.log, 6)}")

    def stop(self) -> None:
        """End it, with everything that it took on disk; safe to call twice."""
        if self.process is not None:
            stop(self.process)
            self.process = None

    def __enter__(self) -> LocalCollector:
        return self.launch()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
