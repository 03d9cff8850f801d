"""A day of simulated events as columns, and the Parquet file that the days go to."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longtail.datasets.simulated_world import Truth
from longtail.schema import EVENT_CODE, EVENT_TYPES

SURFACES = ("homepage", "product", "search", "account")
DEVICES = ("mobile", "desktop", "tablet")
SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("event_type", pa.string()),
        ("timestamp", pa.int64()),
        ("session_id", pa.string()),
        ("surface", pa.string()),
        ("position", pa.int32()),
        ("request_id", pa.string()),
        ("value", pa.float64()),
        ("dwell_ms", pa.int64()),
        ("device", pa.string()),
        ("quantity", pa.float64()),
        ("propensity", pa.float64()),
        ("region", pa.string()),
        ("device_id", pa.string()),
    ]
)
_MISSING = {"position": -1, "request": -1, "dwell": -1, "value": np.nan, "quantity": np.nan, "propensity": np.nan}
_COPIED = ("user", "time", "device", "device_owner", "signed", "session", "surface", "request")


class DayLog:
    """Events of one day, collected in pieces; `time` of a piece counts microseconds from midnight."""

    def __init__(self, midnight_us: int) -> None:
        self.midnight_us = midnight_us
        self.pieces: list[dict[str, np.ndarray]] = []

    @staticmethod
    def rows(
        kind: str, base: dict[str, np.ndarray], items: np.ndarray, **columns: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """One piece: events of one type on `items` [n], the visit's columns [n] and optional ones."""
        piece = {name: base[name] for name in _COPIED if name in base}
        piece |= {name: values for name, values in columns.items() if values is not None}
        piece |= {"item": items, "kind": np.full(len(items), EVENT_CODE[kind], np.int8)}
        for name, missing in _MISSING.items():
            if name not in piece:
                piece[name] = np.full(len(items), missing)
        return piece

    def add(
        self, kind: str, base: dict[str, np.ndarray], items: np.ndarray, delay: np.ndarray, **columns: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Log events `delay` microseconds after the base; returns the base at that later time."""
        base = {**base, "time": base["time"] + delay}
        self.pieces.append(self.rows(kind, base, items, **columns))
        return base

    def extend(self, pieces: list[dict[str, np.ndarray]]) -> None:
        """Take over pieces that an earlier day made."""
        self.pieces.extend(pieces)

    def count(self, kind: str, n_items: int) -> np.ndarray:
        """Events of a type per item today (returns count too), int64 [n_items]."""
        of_kind = [p["item"] for p in self.pieces if len(p["kind"]) and p["kind"][0] == EVENT_CODE[kind]]
        return np.bincount(np.concatenate(of_kind), minlength=n_items) if of_kind else np.zeros(n_items, np.int64)

    def columns(self) -> dict[str, np.ndarray]:
        """All pieces as one, in time order."""
        joined = {name: np.concatenate([p[name] for p in self.pieces]) for name in self.pieces[0]}
        order = np.argsort(joined["time"], kind="stable")
        return {name: values[order] for name, values in joined.items()}


class EventWriter:
    """Writes days to a Parquet file, one row group a day; a context manager."""

    def __init__(self, path: Path, truth: Truth, regions: tuple[str, ...]) -> None:
        self.truth = truth
        self.regions = pa.array(regions, pa.string())
        self.user_names = pa.array(truth.user_ids.astype(object), pa.string())
        self.item_names = pa.array(truth.item_ids.astype(object), pa.string())
        self.rows = 0
        self._file = pq.ParquetWriter(path, SCHEMA, compression="zstd")

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, log: DayLog) -> None:
        """Append a day."""
        if not log.pieces or not sum(len(p["item"]) for p in log.pieces):
            return
        c = log.columns()
        n = len(c["item"])
        device = c["device_owner"] * len(DEVICES) + c["device"]
        columns = {
            "event_id": _numbered("e", self.rows + np.arange(n)),
            "user_id": self.user_names.take(pa.array(c["user"], mask=~c["signed"])),
            "item_id": self.item_names.take(pa.array(c["item"])),
            "event_type": pa.array(EVENT_TYPES, pa.string()).take(pa.array(c["kind"])),
            "timestamp": pa.array(log.midnight_us + c["time"]),
            "session_id": _numbered("s", c["session"]),
            "surface": pa.array(SURFACES, pa.string()).take(pa.array(c["surface"])),
            "position": pa.array(c["position"], mask=c["position"] < 0).cast(pa.int32()),
            "request_id": _numbered("r", c["request"]),
            "value": pa.array(c["value"], mask=np.isnan(c["value"])),
            "dwell_ms": pa.array(c["dwell"], mask=c["dwell"] < 0),
            "device": pa.array(DEVICES, pa.string()).take(pa.array(c["device"])),
            "quantity": pa.array(c["quantity"], mask=np.isnan(c["quantity"])),
            "propensity": pa.array(c["propensity"], mask=np.isnan(c["propensity"])),
            "region": self.regions.take(pa.array(self.truth.region[c["user"]])),
            "device_id": _numbered("d", device),
        }
        self._file.write_table(pa.table(columns, schema=SCHEMA), row_group_size=n)
        self.rows += n


def _numbered(prefix: str, numbers: np.ndarray) -> pa.Array:
    """ "<prefix><number>" as text, null for negative numbers."""
    text = pa.array(numbers, mask=numbers < 0).cast(pa.string())
    return pc.binary_join_element_wise(pa.scalar(prefix), text, pa.scalar(""))
