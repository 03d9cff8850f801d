"""The playground as a process of its own beside local servers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from longtail.errors import Unavailable
from serving.process import LOOPBACK, spawn, stop, tail

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0


@dataclass
class LocalPlayground:
    """Serves the page of a bundle in front of a recommender at `url` until `stop`; port 0 is a free one.

    `launch` returns at once and `wait` when the page is there, so that other servers can start meanwhile.
    """

    bundle: Path
    url: str
    log: Path
    collector: str = ""
    port: int = 0
    process: subprocess.Popen | None = field(default=None, init=False)

    def launch(self) -> LocalPlayground:
        """Start the process."""
        words = ["--bundle", str(self.bundle), "--url", self.url, "--port", str(self.port)]
        words += ["--collector", self.collector] if self.collector else []
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.log.unlink(missing_ok=True)  # the address of an earlier run is no address
        self.process = spawn([sys.executable, "-m", "serving.playground", *words], self.log, {"PYTHONPATH": path})
        return self

    def wait(self, timeout_s: float = START_S) -> str:
        """The address of the page, when it is served.

        Raises:
            Unavailable: it did not start; the message carries the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while self.process is not None and self.process.poll() is None and time.monotonic() < deadline:
            for line in self.log.read_text().splitlines() if self.log.is_file() else []:
                if line.startswith(f"playground: http://{LOOPBACK}:"):
                    return line.split()[1]
            time.sleep(0.05)
        raise Unavailable(f"the playground did not start:\n{tail(self.log, 6)}")

    def stop(self) -> None:
        """End it; safe to call twice."""
        if self.process is not None:
            stop(self.process)
            self.process = None

    def __enter__(self) -> LocalPlayground:
        return self.launch()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
