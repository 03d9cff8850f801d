"""What each person did, for the request: the newest interactions of the log, and live events as they come in.

One SQLite file in WAL mode. `baked` holds what the log said, one packed row per user; `live` holds single events that
came after, once per event id. Item ids are kept as text, because their codes change with every bundle.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longtail.errors import InvalidInput
from longtail.events.log import Log
from longtail.features.live import LIVE_SESSIONS, UserHistory, to_histories
from longtail.schema import EVENT_CODE, EVENT_STRENGTH

LAST = 100
SEPARATOR = "\x1f"
__all__ = ["LAST", "HistorySize", "HistoryStore", "UserHistory", "to_histories"]
TABLES = """
CREATE TABLE IF NOT EXISTS baked (
    user_id TEXT PRIMARY KEY, n INTEGER NOT NULL, item_id TEXT NOT NULL, packed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS live (
    event_id TEXT PRIMARY KEY, user_id TEXT NOT NULL, time INTEGER NOT NULL, item_id TEXT NOT NULL,
    kind INTEGER NOT NULL, strength REAL NOT NULL, quantity REAL NOT NULL, session TEXT);
CREATE INDEX IF NOT EXISTS live_by_user ON live (user_id, time);
"""
PACKED = (
    ("time", np.dtype("<i8")), ("session", np.dtype("<i4")), ("strength", np.dtype("<f4")),
    ("quantity", np.dtype("<f4")), ("kind", np.dtype("i1")),
)  # fmt: skip


@dataclass(frozen=True)
class HistorySize:
    """`users` with a baked history, their `baked` events, `live` events, and `bytes` on disk."""

    users: int
    baked: int
    live: int
    bytes: int


class HistoryStore:
    """A history file, created when absent. Safe for several threads and processes: readers never wait for a writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._local = threading.local()
        self._connection().executescript(TABLES)

    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(self.path, timeout=10, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            self._local.connection = connection
        return self._local.connection

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        # Immediate: a transaction that starts as a reader fails at once when another writer is ahead of it.
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def append(self, user_id: str, events: Sequence[Mapping[str, object]]) -> int:
        """Keep the events that show interest; returns how many were new.

        An event has `event_id`, `item_id`, `event_type` and `time` (int microseconds), perhaps `value`, `quantity`,
        `session_id`. Impressions, skips and returns are no interest and are passed over; an event id counts once.

        Raises:
            InvalidInput: an event lacks a field or has an unknown type; none of the batch is kept.
        """
        rows = [row for event in events if (row := _live_row(user_id, event)) is not None]
        if not rows:
            return 0
        with self._write() as connection:
            before = connection.total_changes
            connection.executemany("INSERT OR IGNORE INTO live VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            return connection.total_changes - before

    def load(self, user_id: str, last: int = LAST) -> UserHistory:
        """The newest `last` interactions; empty for unknown people."""
        connection = self._connection()
        # One statement, so that both parts come from the same moment.
        found = connection.execute(
            "SELECT 1, item_id, packed, NULL, NULL, NULL, NULL FROM baked WHERE user_id = ?1 UNION ALL SELECT * FROM ("
            "SELECT 0, item_id, time, kind, strength, quantity, session FROM live WHERE user_id = ?1 "
            "ORDER BY time DESC, rowid DESC LIMIT ?2)",
            (user_id, last),
        ).fetchall()
        live = [row[1:] for row in found if not row[0]][::-1]
        baked = [_unpack(items, packed) for is_baked, items, packed, *_ in found if is_baked]
        parts = baked + ([_live_history(live)] if live else [])
        if not parts:
            parts = [_unpack("", b"")]
        joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in UserHistory.__dataclass_fields__}
        # Late events may be older than baked ones; ties keep the order they came in.
        order = np.argsort(joined["time"], kind="stable")[-last:] if last > 0 else np.empty(0, np.int64)
        return UserHistory(**{name: column[order] for name, column in joined.items()})

    def materialise(self, log: Log, user_ids: np.ndarray, item_ids: np.ndarray, until: int, last: int = LAST) -> int:
        """Replace all baked histories by the log's newest `last` interactions of every user; returns the events kept.

        Live events before `until` (microseconds: the log holds everything earlier) are dropped, since the log has them.
        """
        positives = log.positives
        indptr = positives.indptr()
        rows = _baked_rows(positives, np.maximum(indptr[1:] - last, indptr[:-1]), indptr[1:], user_ids, item_ids)
        with self._write() as connection:
            connection.execute("DELETE FROM baked")
            connection.executemany("INSERT INTO baked VALUES (?, ?, ?, ?)", rows)
            connection.execute("DELETE FROM live WHERE time < ?", (until,))
        return self.size().baked

    def forget(self, user_id: str) -> bool:
        """Erase a person's history; whether there was any."""
        with self._write() as connection:
            before = connection.total_changes
            connection.execute("DELETE FROM baked WHERE user_id = ?", (user_id,))
            connection.execute("DELETE FROM live WHERE user_id = ?", (user_id,))
            return connection.total_changes > before

    def size(self) -> HistorySize:
        """Rows and bytes, the write-ahead log included."""
        connection = self._connection()
        users, baked = connection.execute("SELECT count(*), coalesce(sum(n), 0) FROM baked").fetchone()
        (live,) = connection.execute("SELECT count(*) FROM live").fetchone()
        files = [self.path, self.path.with_name(self.path.name + "-wal")]
        return HistorySize(users, baked, live, sum(f.stat().st_size for f in files if f.is_file()))

    def close(self) -> None:
        """Close this thread's connection."""
        if hasattr(self._local, "connection"):
            self._local.connection.close()
            del self._local.connection


def _live_row(user_id: str, event: Mapping[str, object]) -> tuple | None:
    missing = [name for name in ("event_id", "item_id", "event_type", "time") if event.get(name) is None]
    if missing:
        raise InvalidInput(f"an event has no {', '.join(missing)}: every event needs them")
    kind = str(event["event_type"])
    if kind not in EVENT_CODE:
        raise InvalidInput(f"unknown event type {kind!r}: use one of {', '.join(EVENT_CODE)}")
    value, quantity = event.get("value"), event.get("quantity")
    strength = 0.0 if value is not None and float(value) < 0 else EVENT_STRENGTH[kind]  # type: ignore[arg-type]
    if strength <= 0:
        return None
    return (
        str(event["event_id"]), user_id, int(event["time"]), str(event["item_id"]), EVENT_CODE[kind], strength,  # type: ignore[call-overload]
        1.0 if quantity is None else float(quantity), event.get("session_id"),  # type: ignore[arg-type]
    )  # fmt: skip


def _live_history(rows: list[tuple]) -> UserHistory:
    item, time, kind, strength, quantity, session = zip(*rows, strict=True)
    numbers: dict[str | None, int] = {}
    codes = [numbers.setdefault(s, LIVE_SESSIONS + len(numbers)) for s in session]
    return UserHistory(
        np.array(item, object), np.array(time, np.int64), np.array(kind, np.int8), np.array(strength, np.float32),
        np.array(quantity, np.float32), np.array(codes, np.int32),
    )  # fmt: skip


def _baked_rows(
    log: Log, start: np.ndarray, stop: np.ndarray, user_ids: np.ndarray, item_ids: np.ndarray
) -> Iterator[tuple[str, int, str, bytes]]:
    columns = [np.asarray(getattr(log, name), dtype) for name, dtype in PACKED]
    for user in np.flatnonzero(stop > start):
        rows = slice(start[user], stop[user])
        packed = b"".join(column[rows].tobytes() for column in columns)
        yield str(user_ids[user]), int(stop[user] - start[user]), SEPARATOR.join(item_ids[log.item[rows]]), packed


def _unpack(items: str, packed: bytes) -> UserHistory:
    n = len(packed) // sum(dtype.itemsize for _, dtype in PACKED)
    columns, offset = {}, 0
    for name, dtype in PACKED:
        columns[name] = np.frombuffer(packed, dtype, n, offset)
        offset += n * dtype.itemsize
    return UserHistory(item_id=np.array(items.split(SEPARATOR) if n else [], object), **columns)
