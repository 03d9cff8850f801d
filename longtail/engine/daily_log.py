"""Rows written to Parquet by the day, from a thread of its own: bounded, and off the path of requests."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from prometheus_client import Counter

from longtail.schema import DAY_US

logger = logging.getLogger("longtail.log")

WARN_EVERY_S = 60.0


class Dated(Protocol):
    """A row; `time` in microseconds since 1970."""

    @property
    def time(self) -> int: ...


Row = TypeVar("Row", bound=Dated)


class DailyLog(Generic[Row]):
    """Writes `<folder>/date=YYYY-MM-DD/part-*.parquet`.

    At most `room` rows wait; one more pushes the oldest out into a counter. A file is written each `every_s` seconds,
    or when `batch` rows are there. A disk that is full costs the rows that could not be written, nothing else. A kind
    of log says what its rows are called (`name`), how they become a table (`table`) and where they are counted.
    """

    name: str
    written: Counter
    dropped: Counter

    def __init__(self, folder: Path | str, room: int = 5000, batch: int = 1000, every_s: float = 5.0) -> None:
        self.folder = Path(folder)
        self._batch, self._every_s = batch, every_s
        self._waiting: deque[Row] = deque(maxlen=room)
        self._wake, self._closing = threading.Event(), False
        self._files = 0
        self._warned = -WARN_EVERY_S
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def table(self, rows: Sequence[Row]) -> pa.Table:
        """The rows as what is written."""
        raise NotImplementedError

    def add(self, rows: Sequence[Row]) -> None:
        """Queue rows; never waits."""
        waiting = self._waiting
        over = len(waiting) + len(rows) - (waiting.maxlen or 0)
        if over > 0:
            self.dropped.labels("full").inc(over)
        waiting.extend(rows)
        if len(waiting) >= self._batch:
            self._wake.set()

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what waits, and stop."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self._every_s)
            self._wake.clear()
            self._flush()
        self._flush()

    def _flush(self) -> None:
        # Only what waits now: under a steady stream this must come to an end.
        rows = [self._waiting.popleft() for _ in range(len(self._waiting))]
        rows.sort(key=lambda row: row.time // DAY_US)
        for day, of_day in groupby(rows, key=lambda row: row.time // DAY_US):
            self._write(int(day), list(of_day))

    def _write(self, day: int, rows: list[Row]) -> None:
        date = np.datetime64(day, "D")  # any day there can be: an error here would end the thread
        target = self.folder / f"date={date}" / f"part-{time.time_ns():020d}-{os.getpid()}-{self._files}.parquet"
        beside = target.with_name(f".{target.name}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(self.table(rows), beside)
            os.replace(beside, target)
        except Exception as error:  # noqa: BLE001 - the edge of the thread: nothing that waits may end it
            self.dropped.labels("write").inc(len(rows))
            self._give_up(beside, error)
            return
        self._files += 1
        self.written.inc(len(rows))

    def _give_up(self, beside: Path, error: Exception) -> None:
        try:
            beside.unlink(missing_ok=True)
        except OSError:
            self.dropped.labels("litter").inc()
        if time.monotonic() - self._warned >= WARN_EVERY_S:
            self._warned = time.monotonic()
            logger.warning("%s are not written to %s: %s", self.name, self.folder, error)
