"""One run at a time: a lock that a process and the run it started hold, and that is free when both are gone."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longtail.errors import LongtailError


class Busy(LongtailError):
    """Another run holds the lock; the message says whose."""

    exit_code = 0


@contextmanager
def only_one(path: Path, what: str) -> Iterator[int]:
    """Hold the lock file `path`, and yield its descriptor for a child to inherit.

    The lock belongs to the open file, not to its content or to a process id: a crash of everybody who has it open frees
    it, and a child that goes on without its parent keeps it. What a crash left in the file is of no consequence.

    Raises:
        Busy: somebody who lives holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{_holder(path)} is at it: nothing is started beside it") from None
        os.ftruncate(descriptor, 0)
        about = {"what": what, "pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        os.write(descriptor, json.dumps(about).encode())
        yield descriptor
    finally:
        os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        about = json.loads(path.read_text())
        return f"{about['what']} (process {about['pid']} on {about['host']}, or the run it started)"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
