"""Processes that outlive their starter and are found again by another: the parts of a cluster."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
# Init of a sandbox: it reaps what loses its parent, and with it everything in the sandbox ends.
_INIT = """
set -e
mount --make-rshared /
for folder in /run /var/log /var/lib/cni; do mkdir -p $folder; mount -t tmpfs tmpfs $folder; done
ip link set lo up
touch {there}
while :; do sleep 3600 & wait $!; done
"""


class Processes:
    """Started under one folder, which keeps their logs and a list of them, so that `stop` may come from elsewhere.

    `sandbox` puts them into network, mount and process namespaces of their own (needs root): interfaces, packet
    filters, mounts and every process that they leave behind then vanish with the sandbox's first process. With
    `tied` they end when the starter does, however that ends.
    """

    def __init__(self, folder: Path, sandbox: bool = False, tied: bool = False) -> None:
        self.folder = folder
        self._tied = tied
        self._list = folder / "processes.json"
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        if sandbox and not self._read():
            self._unshare()

    @property
    def prefix(self) -> list[str]:
        """Words that run a command inside the sandbox; none where there is none."""
        inside = next((p["inside"] for p in self._read() if "inside" in p), None)
        return ["nsenter", f"--target={inside}", "--net", "--mount", "--pid", "--"] if inside else []

    def start(self, name: str, argv: Sequence[str | os.PathLike[str]], env: dict[str, str] | None = None) -> None:
        """Start a process in the background; both streams go to `logs/<name>.log`."""
        self._spawn(name, [*self.prefix, *argv], env)

    def running(self, name: str) -> bool:
        """Whether a process of this name was started and has not ended."""
        return any(p["name"] == name and _born(p["pid"]) == p["born"] for p in self._read())

    def tail(self, name: str, lines: int = 8) -> str:
        """The end of its log."""
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])

    def log(self, name: str) -> Path:
        """Its log file."""
        return self.folder / "logs" / f"{name}.log"

    def stop(self, grace_s: float = 5.0) -> None:
        """End all, the last started first; safe to call twice, and from another process than the starter."""
        alive = [p for p in reversed(self._read()) if _born(p["pid"]) == p["born"]]
        for kind in (signal.SIGTERM, signal.SIGKILL):
            for process in alive:
                # The first process of a sandbox ignores what it does not handle, and everything hangs on it.
                _kill(process.get("inside", process["pid"]), signal.SIGKILL if "inside" in process else kind)
            deadline = time.monotonic() + grace_s
            while alive and time.monotonic() < deadline:
                alive = [p for p in alive if _born(p["pid"]) == p["born"]]
                time.sleep(0.05)
        self._list.unlink(missing_ok=True)

    def _unshare(self) -> None:
        there = self.folder / "sandbox"
        there.unlink(missing_ok=True)
        script = _INIT.format(there=there)
        words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        outside = self._spawn("sandbox", [*words, "--propagation", "private", "bash", "-c", script])
        deadline = time.monotonic() + 10
        while not there.exists():
            if outside.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no namespaces for the node (root is needed): {self.tail('sandbox')}")
            time.sleep(0.02)
        children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()
        listed = self._read()
        listed[0]["inside"] = int(children[0])
        self._list.write_text(json.dumps(listed))

    def _spawn(
        self, name: str, argv: Sequence[str | os.PathLike[str]], env: dict[str, str] | None = None
    ) -> subprocess.Popen:
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                [os.fspath(word) for word in argv], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **(env or {})}, start_new_session=True,
                preexec_fn=_end_with_parent if self._tied else None,
            )  # fmt: skip
        listed = [*self._read(), {"name": name, "pid": process.pid, "born": _born(process.pid)}]
        self._list.write_text(json.dumps(listed))
        return process

    def _read(self) -> list[dict]:
        return json.loads(self._list.read_text()) if self._list.is_file() else []


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _born(pid: int) -> str | None:
    """When the kernel started this process: the number may belong to another one by now. None: it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _kill(pid: int, kind: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, kind)
