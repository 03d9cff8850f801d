"""The log of what was shown, with position, propensity and features: bounded, off the path of requests."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longtail.metrics import IMPRESSIONS, IMPRESSIONS_DROPPED

logger = logging.getLogger("longtail.impressions")

DAY_US = 86_400_000_000
WARN_EVERY_S = 60.0
# `candidates` are item indices of `model_version`; `features` holds their float32 [n, F] rows, little-endian.
SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("user_id", pa.string()),
        ("session_id", pa.string()),
        ("surface", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("variant", pa.string()),
        ("model_version", pa.string()),
        ("level", pa.string()),
        ("made", pa.string()),
        ("items", pa.list_(pa.string())),
        ("propensity", pa.list_(pa.float64())),
        ("score", pa.list_(pa.float64())),
        ("source", pa.list_(pa.string())),
        ("segment", pa.int32()),
        ("history_item", pa.list_(pa.int32())),
        ("history_time", pa.list_(pa.int64())),
        ("candidates", pa.list_(pa.int64())),
        ("features", pa.binary()),
    ]
)
NOTHING = np.empty(0, np.int64)
Features = Literal["none", "shown", "candidates"]


@dataclass(slots=True)
class Impression:
    """One shown list, see `SCHEMA`; `time` in microseconds since 1970, `user_id` a pseudonym."""

    request_id: str
    user_id: str | None
    session_id: str | None
    surface: str
    time: int
    variant: str
    model_version: str
    level: str
    made: str
    items: list[str]
    propensity: list[float]
    score: list[float]
    source: list[str]
    segment: int = -1
    history_item: np.ndarray = field(default_factory=lambda: NOTHING)
    history_time: np.ndarray = field(default_factory=lambda: NOTHING)
    candidates: np.ndarray = field(default_factory=lambda: NOTHING)
    features: bytes = b""


class ImpressionLog:
    """Writes `<folder>/date=YYYY-MM-DD/part-*.parquet` from a thread of its own.

    At most `room` lists wait; one more pushes the oldest out into a counter. A file is written each `every_s` seconds,
    or when `batch` lists are there. A disk that is full costs the lists that could not be written, nothing else.
    `features` says whose features the engine puts into a row: of no candidate, of those shown, or of all.
    """

    def __init__(
        self, folder: Path | str, features: Features = "shown", room: int = 5000, batch: int = 1000,
        every_s: float = 5.0,
    ) -> None:  # fmt: skip
        self.folder = Path(folder)
        self.features = features
        self._batch, self._every_s = batch, every_s
        self._waiting: deque[Impression] = deque(maxlen=room)
        self._wake, self._closing = threading.Event(), False
        self._written = 0
        self._warned = -WARN_EVERY_S
        self._thread = threading.Thread(target=self._run, name="impressions", daemon=True)
        self._thread.start()

    def add(self, shown: Sequence[Impression]) -> None:
        """Queue shown lists; never waits."""
        waiting = self._waiting
        over = len(waiting) + len(shown) - (waiting.maxlen or 0)
        if over > 0:
            IMPRESSIONS_DROPPED.labels("full").inc(over)
        waiting.extend(shown)
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

    def _write(self, day: int, rows: list[Impression]) -> None:
        date = np.datetime64(day, "D")  # any day there can be: an error here would end the thread
        target = self.folder / f"date={date}" / f"part-{time.time_ns():020d}-{os.getpid()}-{self._written}.parquet"
        beside = target.with_name(f".{target.name}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table_of(rows), beside)
            os.replace(beside, target)
        except Exception as error:  # noqa: BLE001 - the edge of the thread: nothing that waits may end it
            IMPRESSIONS_DROPPED.labels("write").inc(len(rows))
            self._give_up(beside, error)
            return
        self._written += 1
        IMPRESSIONS.inc(len(rows))

    def _give_up(self, beside: Path, error: Exception) -> None:
        try:
            beside.unlink(missing_ok=True)
        except OSError:
            IMPRESSIONS_DROPPED.labels("litter").inc()
        if time.monotonic() - self._warned >= WARN_EVERY_S:
            self._warned = time.monotonic()
            logger.warning("impressions are not written to %s: %s", self.folder, error)


def table_of(rows: Sequence[Impression]) -> pa.Table:
    """The rows as a table of `SCHEMA`."""
    columns: list[pa.Array] = []
    for column in SCHEMA:
        values = [getattr(row, column.name) for row in rows]
        if values and isinstance(values[0], np.ndarray):
            offsets = np.concatenate([[0], np.cumsum([len(v) for v in values])]).astype(np.int32)
            flat = pa.array(np.concatenate(values), column.type.value_type)
            columns.append(pa.ListArray.from_arrays(pa.array(offsets), flat))
        else:
            columns.append(pa.array(values, column.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def read_impressions(folder: Path | str) -> list[tuple[Impression, np.ndarray]]:
    """`each_impression`, all at once."""
    return list(each_impression(folder))


def each_impression(folder: Path | str) -> Iterator[tuple[Impression, np.ndarray]]:
    """Every logged list in the order of the files, a file at a time: (the row, features float32 [candidates, F])."""
    for path in sorted(Path(folder).glob("date=*/part-*.parquet")):
        table = pq.ParquetFile(path).read()
        times = table["time"].cast(pa.int64()).to_pylist()
        for row, micros in zip(table.to_pylist(), times, strict=True):
            row |= {"time": micros} | {n: np.array(row[n], np.int64) for n in _ARRAYS}
            flat = np.frombuffer(row["features"], "<f4")
            n = len(row["candidates"])
            yield Impression(**row), flat.reshape(n, -1) if n else flat.reshape(0, 0)


_ARRAYS = [f.name for f in fields(Impression) if f.type == "np.ndarray"]
