"""The log of what was shown, with position, propensity and features: bounded, off the path of requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longtail.engine.daily_log import DailyLog
from longtail.metrics import IMPRESSIONS, IMPRESSIONS_DROPPED

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


class ImpressionLog(DailyLog[Impression]):
    """What was shown, see `DailyLog`.

    `features` says whose features the engine puts into a row: of no candidate, of those shown, or of all.
    """

    name, written, dropped = "impressions", IMPRESSIONS, IMPRESSIONS_DROPPED

    def __init__(
        self, folder: Path | str, features: Features = "shown", room: int = 5000, batch: int = 1000,
        every_s: float = 5.0,
    ) -> None:  # fmt: skip
        self.features = features
        super().__init__(folder, room, batch, every_s)

    def table(self, rows: Sequence[Impression]) -> pa.Table:
        """The rows as a table of `SCHEMA`."""
        return table_of(rows)


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
        yield from each_row(pq.ParquetFile(path).read())


def each_row(table: pa.Table) -> Iterator[tuple[Impression, np.ndarray]]:
    """The lists of a table of `SCHEMA`: (the row, features float32 [candidates, F])."""
    times = table["time"].cast(pa.int64()).to_pylist()
    for row, micros in zip(table.to_pylist(), times, strict=True):
        row |= {"time": micros} | {n: np.array(row[n], np.int64) for n in _ARRAYS}
        flat = np.frombuffer(row["features"], "<f4")
        n = len(row["candidates"])
        yield Impression(**row), flat.reshape(n, -1) if n else flat.reshape(0, 0)


_ARRAYS = [f.name for f in fields(Impression) if f.type == "np.ndarray"]
