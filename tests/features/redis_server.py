"""A real Redis on a free loopback port, ended with the test."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time

from serving.process import LOOPBACK, free_port


def why_no_redis() -> str | None:
    """None where Redis can be started."""
    return None if shutil.which("redis-server") else "redis-server is not installed"


class RedisServer:
    """Starts on entering; `stop` and `start` take it away and bring it back, `hang` and `wake` freeze it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://{LOOPBACK}:{self.port}/0"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", LOOPBACK, "--save", "", "--appendonly", "no"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                if self._say(b"PING\r\n").startswith(b"+PONG"):
                    return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"redis-server did not answer on port {self.port}")

    def stop(self) -> None:
        if self._process is not None:
            self.wake()
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def hang(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        self._say(b"FLUSHALL\r\n")

    def _say(self, command: bytes) -> bytes:
        with socket.create_connection((LOOPBACK, self.port), timeout=1) as link:
            link.sendall(command)
            return link.recv(100)

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
