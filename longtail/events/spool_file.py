"""The SQLite file behind the spool: one owner, durable transactions, and what happens when the file is damaged."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from longtail.errors import InvalidInput, LongtailError, Unavailable

TABLES = """
CREATE TABLE IF NOT EXISTS event (
    n INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS seen (id BLOB PRIMARY KEY, day INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seal (name TEXT PRIMARY KEY, upto INTEGER NOT NULL, written INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS place (
    topic TEXT NOT NULL, part INTEGER NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (topic, part)) WITHOUT ROWID;
"""
BUSY_S = 10.0
# An I/O error may be a file cut short: the check that follows tells.
DAMAGED = ("malformed", "not a database", "disk image", "disk I/O error")


class SpoolFull(LongtailError):
    """No room for more events now: the sender keeps them and tries again later."""

    http_status = 429


class SpoolFile:
    """`path` in WAL mode with `synchronous=FULL`: a transaction that ended is on disk.

    One thread writes at a time; reads have a connection of their own and neither wait for a writer's sync nor hold it
    up. An error that smells of damage leaves a mark beside the file (`.suspect`); opened with that mark, the whole file
    is checked, and a damaged one is moved aside (`.corrupt-<time>`).

    Raises:
        InvalidInput: another process owns the file.
        Unavailable: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark = path.with_name(path.name + ".suspect")
        self._lock, self._reading_lock = threading.Lock(), threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._owned = _own(path.with_name(path.name + ".lock"))
        try:
            self.moved_aside = self._open()
        except BaseException:
            os.close(self._owned)
            raise

    @property
    def suspect(self) -> bool:
        """Whether the file seems damaged."""
        return self._mark.exists()

    def reopen(self) -> Path | None:
        """Look at the file again; where it was moved to, if it was damaged and the present one is new."""
        with self._lock, self._reading_lock:
            self._close()
            return self._open()

    def read(self, statement: str, values: Sequence[object] = ()) -> list[tuple]:
        """The rows of a query.

        Raises:
            Unavailable: the file cannot be read.
        """
        with self._reading_lock:
            try:
                return self._reading.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise self._failure(error) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything in the block or nothing, durable when the block ends.

        Raises:
            SpoolFull: the disk is full.
            Unavailable: the file cannot be written.
        """
        with self._lock:
            try:
                self._writing.execute("BEGIN IMMEDIATE")
                try:
                    yield self._writing
                    self._writing.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):
                        self._writing.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise self._failure(error) from error

    def close(self) -> None:
        """Let another process own the file."""
        with self._lock, self._reading_lock:
            self._close()
            os.close(self._owned)

    def _failure(self, error: sqlite3.Error) -> LongtailError:
        if "full" in str(error):
            return SpoolFull("the disk is full")
        if _is_damage(error):
            with suppress(OSError):
                self._mark.touch()
        return Unavailable(f"the spool {self.path} does not work: {error}")

    def _open(self) -> Path | None:
        aside = None
        try:
            self._connect(whole=self.suspect)
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise Unavailable(f"the spool {self.path} cannot be opened: {error}") from error
            aside = self._move_aside()
            self._connect(whole=False)
        self._mark.unlink(missing_ok=True)
        return aside

    def _connect(self, whole: bool) -> None:
        with suppress(AttributeError):
            self._close()
        self._writing = _connection(self.path)
        self._reading = _connection(self.path)
        try:
            self._writing.execute("PRAGMA journal_mode=WAL")
            self._writing.execute("PRAGMA synchronous=FULL")
            self._writing.executescript(TABLES)
            self._reading.execute("PRAGMA query_only=1")
            if whole and (found := self._writing.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(f"database disk image is malformed: {found}")
        except BaseException:
            self._close()
            raise

    def _move_aside(self) -> Path:
        stamp = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:6]}"
        aside = self.path.with_name(f"{self.path.name}.corrupt-{stamp}")
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        return aside

    def _close(self) -> None:
        for connection in (self._reading, self._writing):
            with suppress(sqlite3.Error):
                connection.close()


def readable(damaged: Path, statement: str, at_once: int = 100) -> Iterator[list[tuple]]:
    """The rows of a query on a damaged file, up to where the damage starts."""
    with suppress(sqlite3.Error), closing(_connection(damaged)) as connection:
        cursor = connection.execute(statement)
        while rows := cursor.fetchmany(at_once):
            yield rows


def _connection(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


def _is_damage(error: sqlite3.Error) -> bool:
    return any(word in str(error) for word in DAMAGED)


def _own(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InvalidInput(f"another process writes to {path.parent}: stop it or choose another folder") from None
    return descriptor
