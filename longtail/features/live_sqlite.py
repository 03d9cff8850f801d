"""The live store of one machine: a SQLite file in WAL mode, microseconds a read."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from longtail.errors import Unavailable
from longtail.features.live import KEEP_EVENTS, KEEP_US, LiveEvent, UserHistory
from longtail.schema import EVENT_CODE

TABLES = """
CREATE TABLE IF NOT EXISTS live (
    n INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, user_id TEXT NOT NULL, time INTEGER NOT NULL,
    item_id TEXT NOT NULL, kind INTEGER NOT NULL, quantity REAL NOT NULL, session TEXT);
CREATE INDEX IF NOT EXISTS live_by_user ON live (user_id, time, n);
CREATE INDEX IF NOT EXISTS live_by_time ON live (time);
"""
INSERT = (
    "INSERT OR IGNORE INTO live (event_id, user_id, time, item_id, kind, quantity, session) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
NEWEST = (
    "SELECT item_id, time, kind, quantity, session FROM live INDEXED BY live_by_user "
    "WHERE user_id = ? AND time >= ? ORDER BY time DESC, n DESC LIMIT ?"
)
TRIM = (
    "DELETE FROM live WHERE n IN (SELECT n FROM live INDEXED BY live_by_user WHERE user_id = ? "
    "ORDER BY time DESC, n DESC LIMIT -1 OFFSET ?)"
)
PRUNE_EVERY_S = 60.0
WRITE_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 0.05
SIDE_FILES = ("-wal", "-shm")
CHECKED = "SELECT count(*) FROM sqlite_master WHERE name IN ('live', 'live_by_user', 'live_by_time')"
DAMAGED = ("malformed", "not a database", "disk image", "no such table", "no such index", "disk I/O error")
Result = TypeVar("Result")


class SqliteLive:
    """A live store in the file `path`. Readers never wait for the writer and never make the file.

    A file that is damaged is moved aside (`live.db.corrupt-<time>`) by the writer, who starts a new one; a reader that
    meets the damage says so with a mark beside the file (`live.db.suspect`), since the writer may still hold good pages
    in memory. Readers open the new file by themselves. `now` tells microseconds since 1970.
    """

    def __init__(
        self, path: str | Path, *, writer: bool = False, now: Callable[[], int] = lambda: time.time_ns() // 1000
    ) -> None:
        self.path, self.writer = Path(path), writer
        self._suspect = self.path.with_name(self.path.name + ".suspect")
        self._now = now
        self._reading: tuple[int, sqlite3.Connection] | None = None
        self._writing: tuple[int | None, sqlite3.Connection] | None = None
        self._thread = ThreadPoolExecutor(1, "live") if writer else None
        self._grown: set[str] = set()
        self._pruned = 0.0
        self._renewed = False

    async def append(self, events: Sequence[LiveEvent]) -> int:
        rows = [
            (e.event_id, e.user_id, e.time, e.item_id, EVENT_CODE[e.event_type], e.quantity, e.session_id)
            for e in events
            if e.shows_interest
        ]
        if not rows:
            return 0
        return await self._in_thread(lambda: self._mended(lambda c: self._insert(c, rows)))

    async def load(self, user_ids: Sequence[str], since: int, last: int = 100) -> list[UserHistory]:
        try:
            connection = self._reader()
            if connection is None:
                return [UserHistory.empty() for _ in user_ids]
            found = [connection.execute(NEWEST, (u, since, last)).fetchall() for u in user_ids]
        except sqlite3.Error as error:
            self._close_reader()
            if _is_damage(error):
                with suppress(OSError):
                    self._suspect.touch()
            raise Unavailable(f"the live store {self.path} cannot be read: {error}") from error
        return [UserHistory.of_live(rows[::-1]) for rows in found]

    async def forget(self, user_id: str) -> bool:
        return await self._in_thread(
            lambda: self._mended(lambda c: c.execute("DELETE FROM live WHERE user_id = ?", (user_id,)).rowcount > 0)
        )

    async def tend(self) -> bool:
        await self._in_thread(self._tend)
        renewed, self._renewed = self._renewed, False
        return renewed

    async def close(self) -> None:
        self._close_reader()
        if self._thread is not None:
            await self._in_thread(self._close_writer)
            self._thread.shutdown()

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        """Writes run in one thread of their own: a checkpoint syncs the disk, and the loop must not wait."""
        if self._thread is None:
            raise Unavailable(f"the live store {self.path} was opened for reading")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _insert(self, connection: sqlite3.Connection, rows: list[tuple]) -> int:
        before = connection.total_changes
        connection.executemany(INSERT, rows)
        self._grown.update(row[1] for row in rows)
        return connection.total_changes - before

    def _tend(self) -> None:
        if self._suspect.exists():
            if not self._sound():
                self._move_aside()
            self._suspect.unlink(missing_ok=True)
        if not self._same_seen():
            self._close_writer()
        grown, self._grown = self._grown, set()
        prune = time.monotonic() - self._pruned > PRUNE_EVERY_S

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(TRIM, [(user, KEEP_EVENTS) for user in grown])
            if prune:
                connection.execute("DELETE FROM live WHERE time < ?", (self._now() - KEEP_US,))

        self._mended(work)
        self._pruned = time.monotonic() if prune else self._pruned

    def _same_seen(self) -> bool:
        """Whether others see in the file what this writer, with its pages in memory, believes to be there."""
        if self._writing is None or self._writing[0] != _inode(self.path):
            return self._writing is None
        last = "SELECT max(n) FROM live"
        try:
            with closing(sqlite3.connect(self.path, timeout=WRITE_TIMEOUT_S)) as other:
                return other.execute(last).fetchone() == self._writing[1].execute(last).fetchone()
        except sqlite3.Error:
            return False

    def _mended(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """`work` in one transaction; on a damaged file once more in a new one."""
        try:
            try:
                return self._transaction(work)
            except sqlite3.Error as error:
                self._close_writer()
                if not _is_damage(error):
                    raise
                # A new connection looks at the file afresh, and moves it aside if it is not whole.
                return self._transaction(work)
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"the live store {self.path} cannot be written: {error}") from error

    def _transaction(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        connection = self._writer()
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        return result

    def _writer(self) -> sqlite3.Connection:
        if self._writing is not None and self._writing[0] != _inode(self.path):
            self._close_writer()  # the file was removed or replaced: what is written to it now nobody would read
        if self._writing is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not self._sound():
                self._move_aside()
            connection = sqlite3.connect(
                self.path, timeout=WRITE_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.executescript(TABLES)
            self._writing = (_inode(self.path), connection)
        return self._writing[1]

    def _reader(self) -> sqlite3.Connection | None:
        inode = _inode(self.path)
        if self._reading is not None and self._reading[0] != inode:
            self._close_reader()
        if inode is None:
            return None
        if self._reading is None:
            connection = sqlite3.connect(
                f"{self.path.as_uri()}?mode=rw", uri=True, timeout=READ_TIMEOUT_S, isolation_level=None,
                check_same_thread=False,
            )  # fmt: skip
            connection.execute("PRAGMA query_only=1")
            self._reading = (inode, connection)
        return self._reading[1]

    def _sound(self) -> bool:
        """Whether a fresh look at the file finds it whole."""
        try:
            with closing(sqlite3.connect(self.path, timeout=WRITE_TIMEOUT_S)) as connection:
                whole = connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
                return whole and connection.execute(CHECKED).fetchone()[0] == 3
        except sqlite3.DatabaseError as error:
            return not _is_damage(error)

    def _move_aside(self) -> None:
        """Rename the file and what belongs to it; the writer's next connection makes a new one."""
        self._close_writer()
        stamp = f".corrupt-{time.strftime('%Y%m%dT%H%M%S')}-{time.monotonic_ns() % 1_000_000:06}"
        # The file itself first: readers open nothing while it is away.
        for suffix in ("", *SIDE_FILES):
            file = self.path.with_name(self.path.name + suffix)
            with suppress(FileNotFoundError):
                file.rename(file.with_name(self.path.name + stamp + suffix))
        self._renewed = True

    def _close_writer(self) -> None:
        if self._writing is not None:
            with suppress(sqlite3.Error):
                self._writing[1].close()
            self._writing = None

    def _close_reader(self) -> None:
        if self._reading is not None:
            with suppress(sqlite3.Error):
                self._reading[1].close()
            self._reading = None


def _inode(path: Path) -> int | None:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None


def _is_damage(error: sqlite3.Error) -> bool:
    text = str(error)
    return any(word in text for word in DAMAGED)
