"""A second thread for work that comes alone: while a core would be idle, two answer sooner.

Only work that lets go of the interpreter's lock gains by it: compiled loops, FAISS, ONNX.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

SPARE = 0.5  # cores that have idled since the last look
LOOK_EVERY_S = 0.25
Part = TypeVar("Part")
_TICKS = os.sysconf("SC_CLK_TCK")
_core: Callable[[], int] = ctypes.CDLL(None).sched_getcpu


class Share(Protocol):
    """Does a task for each part of some work, and returns when all are done."""

    def __call__(self, task: Callable[[Part], None], parts: Sequence[Part]) -> None: ...


def in_turn(task: Callable[[Part], None], parts: Sequence[Part]) -> None:
    """One after the other."""
    for part in parts:
        task(part)


def idle_s() -> float:
    """Seconds that the machine's cores have idled since it started, all together."""
    with open("/proc/stat", "rb") as file:
        return int(file.readline().split()[4]) / _TICKS


class SecondThread:
    """Takes a part of its owner's work. One thread owns it: it is not thread-safe."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "second", self._begin)
        self._thread, self._off = 0, -1
        self._spare, self._looked, self._idle = False, time.monotonic(), idle_s()

    def share(self) -> Share:
        """How to do work now: `in_two` while the machine has a core to spare, else `in_turn`."""
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY_S:
            idle = idle_s()
            spare = idle - self._idle >= SPARE * (now - self._looked)
            self._spare = spare and len(os.sched_getaffinity(0)) > 1
            self._looked, self._idle = now, idle
        return self.in_two if self._spare else in_turn

    def in_two(self, task: Callable[[Part], None], parts: Sequence[Part]) -> None:
        """Owner and second thread each take the next part that is left.

        What a task raises is raised here, when both have stopped.
        """
        left = iter(parts)

        def work() -> None:
            for part in left:
                task(part)

        self._elsewhere()
        other = self._pool.submit(work)
        try:
            work()
        finally:
            begun = not other.cancel()
            if begun:
                wait([other])
        if begun:
            other.result()

    def _begin(self) -> None:
        self._thread = threading.get_native_id()

    def _elsewhere(self) -> None:
        """Keep the thread off the owner's core: the kernel may wake it just there, to take turns with him."""
        here = _core()
        if self._thread and here != self._off:
            with contextlib.suppress(OSError):  # the cores that there are may have changed in between
                os.sched_setaffinity(self._thread, os.sched_getaffinity(0) - {here})
            self._off = here
