"""The list store of one machine: a SQLite file in WAL mode, microseconds a read."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from longtail.engine.lists import KEEP_S, Entry, StoredList
from longtail.errors import Unavailable

TABLES = """
CREATE TABLE IF NOT EXISTS lists (
    user TEXT NOT NULL, surface TEXT NOT NULL, list BLOB NOT NULL, written INTEGER NOT NULL,
    PRIMARY KEY (user, surface)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS lists_by_age ON lists (written);
"""
GET = "SELECT list, written FROM lists WHERE user = ? AND surface = ?"
PUT = "INSERT OR REPLACE INTO lists (user, surface, list, written) VALUES (?, ?, ?, ?)"
READ_TIMEOUT_S = 0.05
WRITE_TIMEOUT_S = 5.0
SIDE_FILES = ("-wal", "-shm")
DAMAGED = ("malformed", "not a database", "disk image", "no such table", "disk I/O error")


class SqliteLists:
    """A list store in the file `path`; one process writes, any number read and never wait for it.

    Without the file there are no lists. A damaged one is moved aside (`lists.db.corrupt-<time>`) by whoever writes
    next: the lists can all be computed again. Readers open the new file by themselves. `now` tells seconds since 1970.
    """

    def __init__(self, path: Path | str, *, now: Callable[[], float] = time.time) -> None:
        self.path, self._now = Path(path), now
        self._reading: tuple[tuple[int, int], sqlite3.Connection] | None = None

    async def get(self, user: str, surface: str) -> StoredList | None:
        try:
            connection = self._reader()
            row = connection.execute(GET, (user, surface)).fetchone() if connection is not None else None
            if row is None or row[1] < self._now() - KEEP_S:
                return None
            return StoredList.from_bytes(row[0])
        except (sqlite3.Error, ValueError, TypeError) as error:
            self._close_reader()
            raise Unavailable(f"the list store {self.path} cannot be read: {error}") from error

    async def put(self, lists: Sequence[Entry]) -> None:
        written = int(self._now())
        rows = [(user, surface, found.to_bytes(), written) for user, surface, found in lists]
        await asyncio.to_thread(self._write, lambda c: self._put(c, rows))

    async def forget(self, user: str) -> bool:
        if not self.path.exists():
            return False
        return await asyncio.to_thread(
            self._write, lambda c: c.execute("DELETE FROM lists WHERE user = ?", (user,)).rowcount > 0
        )

    async def close(self) -> None:
        self._close_reader()

    def _put(self, connection: sqlite3.Connection, rows: list[tuple]) -> bool:
        connection.executemany(PUT, rows)
        connection.execute("DELETE FROM lists WHERE written < ?", (int(self._now()) - KEEP_S,))
        return True

    def _write(self, work: Callable[[sqlite3.Connection], bool]) -> bool:
        """`work` in one transaction; where the file is damaged once more, in a new file."""
        try:
            try:
                return self._transaction(work)
            except sqlite3.Error as error:
                if not any(word in str(error) for word in DAMAGED):
                    raise
                self._move_aside()
                return self._transaction(work)
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"the list store {self.path} cannot be written: {error}") from error

    def _transaction(self, work: Callable[[sqlite3.Connection], bool]) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A connection for each batch: it costs a millisecond, and sees it when the file was replaced.
        with closing(sqlite3.connect(self.path, timeout=WRITE_TIMEOUT_S)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.executescript(TABLES)
            with connection:
                return work(connection)

    def _move_aside(self) -> None:
        stamp = f".corrupt-{time.strftime('%Y%m%dT%H%M%S')}-{time.monotonic_ns() % 1_000_000:06}"
        for suffix in ("", *SIDE_FILES):
            file = self.path.with_name(self.path.name + suffix)
            with suppress(FileNotFoundError):
                file.rename(file.with_name(self.path.name + stamp + suffix))

    def _reader(self) -> sqlite3.Connection | None:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            self._close_reader()
            return None
        which = (found.st_dev, found.st_ino)
        if self._reading is not None and self._reading[0] != which:
            self._close_reader()
        if self._reading is None:
            connection = sqlite3.connect(
                f"{self.path.as_uri()}?mode=rw", uri=True, timeout=READ_TIMEOUT_S, isolation_level=None,
                check_same_thread=False,
            )  # fmt: skip
            connection.execute("PRAGMA query_only=1")
            self._reading = (which, connection)
        return self._reading[1]

    def _close_reader(self) -> None:
        if self._reading is not None:
            with suppress(sqlite3.Error):
                self._reading[1].close()
            self._reading = None
