"""Child processes that never outlive their parent, on loopback ports."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

LOOPBACK = "127.0.0.1"
_PR_SET_PDEATHSIG = 1
# Resolved before any fork: between fork and exec a child must not load libraries.
_LIBC = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port() -> int:
    """A loopback TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def spawn(
    argv: Sequence[str | os.PathLike[str]], log: Path | None, env: Mapping[str, str] | None = None
) -> subprocess.Popen:
    """Start a process in its own group; the kernel ends it when this thread ends.

    Both streams are appended to `log`; None: they are this process's. A group of its own keeps the terminal's Ctrl-C
    away from it: the parent decides the order in which parts stop.
    """
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") if log is not None else contextlib.nullcontext() as stream:
        return subprocess.Popen(
            [os.fspath(a) for a in argv],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT if stream else None,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )


def stop(process: subprocess.Popen, grace_s: float = 10.0) -> int:
    """Ask a process to end, then end its whole group; return its exit code."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    # Children of a dead leader (Triton's python stubs) are still in its group.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log file, for an error message."""
    if not log.is_file():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def wait_until(check, process: subprocess.Popen, timeout_s: float, poll_s: float = 0.05) -> bool:
    """Poll `check()` until it is true; False when the process ended or the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if check():
            return True
        if process.poll() is not None:
            return False
        time.sleep(poll_s)
    return False
