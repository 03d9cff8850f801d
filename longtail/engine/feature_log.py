"""The features that were served, for proof that training computes the same: bounded, off the request's path."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longtail.events import Requests
from longtail.metrics import FEATURE_LOG_DROPPED
from longtail.retrieval.candidates import Candidates

logger = logging.getLogger("longtail.engine")

# `features` holds the float32 [n, F] rows of `items`, little-endian, row by row.
SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("user_id", pa.string()),
        ("time_us", pa.int64()),
        ("segment", pa.int32()),
        ("history_item", pa.list_(pa.int32())),
        ("history_time", pa.list_(pa.int64())),
        ("items", pa.list_(pa.int64())),
        ("features", pa.binary()),
    ]
)
_LAST = object()


class FeatureLog:
    """Writes one Parquet file per batch of requests into a folder; when it falls behind, requests are not logged.

    `pseudonym` is applied to user ids before anything is written.
    """

    def __init__(
        self, folder: Path, pseudonym: object = None, batch: int = 200, wait_s: float = 1.0, room: int = 1000
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._pseudonym = pseudonym if callable(pseudonym) else (lambda user_id: user_id)
        self._batch, self._wait_s = batch, wait_s
        self._queue: queue.Queue = queue.Queue(room)
        self._written = 0
        self._thread = threading.Thread(target=self._run, name="feature-log", daemon=True)
        self._thread.start()

    def add(
        self, request_ids: Sequence[str], user_ids: Sequence[str | None], requests: Requests, candidates: Candidates,
        features: np.ndarray,
    ) -> None:  # fmt: skip
        """Queue one answered batch; never waits."""
        history = requests.history
        bounds = np.searchsorted(candidates.rows, np.arange(len(requests) + 1))
        for b, request_id in enumerate(request_ids):
            mine, past = slice(bounds[b], bounds[b + 1]), slice(history.indptr[b], history.indptr[b + 1])
            user = user_ids[b]
            row = {
                "request_id": request_id, "user_id": None if user is None else self._pseudonym(user),
                "time_us": int(requests.time[b]), "segment": int(requests.segment[b]),
                "history_item": history.item[past], "history_time": history.time[past],
                "items": candidates.items[mine], "features": np.ascontiguousarray(features[mine], "<f4").tobytes(),
            }  # fmt: skip
            try:
                self._queue.put_nowait(row)
            except queue.Full:
                FEATURE_LOG_DROPPED.labels("full").inc()

    def close(self) -> None:
        """Write what is queued and stop."""
        self._queue.put(_LAST)
        self._thread.join(10)

    def _run(self) -> None:
        rows: list[dict] = []
        deadline = time.monotonic() + self._wait_s
        while True:
            try:
                row = self._queue.get(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty:
                row = None
            if row is not None and row is not _LAST:
                rows.append(row)
            if rows and (row is _LAST or len(rows) >= self._batch or time.monotonic() >= deadline):
                self._write(rows)
                rows = []
            if time.monotonic() >= deadline:
                deadline = time.monotonic() + self._wait_s
            if row is _LAST:
                return

    def _write(self, rows: list[dict]) -> None:
        name = f"{time.time_ns():020d}-{os.getpid()}-{self._written:06d}.parquet"
        beside = self.folder / f".{name}"
        try:
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), beside)
            os.replace(beside, self.folder / name)
            self._written += 1
        except (OSError, pa.ArrowException) as error:
            beside.unlink(missing_ok=True)
            FEATURE_LOG_DROPPED.labels("write").inc(len(rows))
            logger.warning("served features were not written: %s", error)


def read_feature_log(folder: Path) -> list[tuple[dict, np.ndarray]]:
    """Every logged request in order: (its columns, features float32 [n, F])."""
    out = []
    for path in sorted(Path(folder).glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            flat = np.frombuffer(row.pop("features"), "<f4")
            out.append((row, flat.reshape(len(row["items"]), -1) if row["items"] else flat.reshape(0, 0)))
    return out
