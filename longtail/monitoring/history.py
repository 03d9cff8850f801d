"""The history table: every verdict there was, append-only, in one SQLite file."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from longtail.errors import InvalidInput
from longtail.monitoring.signal import Signal

COLUMNS = "name, part, day, value, threshold, severity, fired, reason, error"
TABLE = """
CREATE TABLE IF NOT EXISTS checks (
    id INTEGER PRIMARY KEY, checked_at INTEGER NOT NULL, name TEXT NOT NULL, part TEXT NOT NULL, day TEXT NOT NULL,
    value REAL, threshold REAL, severity TEXT NOT NULL, fired INTEGER NOT NULL, reason TEXT NOT NULL,
    error REAL
);
CREATE INDEX IF NOT EXISTS by_day ON checks (day, name, part, id);
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON checks BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON checks BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""
BUSY_S = 30.0


class History:
    """Rows of `checks`; a day that is checked again appends, and its newest verdicts count.

    Raises:
        InvalidInput: the file is no such table, or cannot be opened.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as connection:
                connection.executescript(TABLE)
                _widen(connection)
                connection.execute(f"SELECT {COLUMNS}, checked_at FROM checks LIMIT 0")
        except (sqlite3.Error, OSError) as error:
            raise InvalidInput(f"{self.path} cannot be used as a history of checks: {error}") from error

    def append(self, signals: Iterable[Signal], checked_at: int) -> None:
        """Add verdicts, all or none of them; `checked_at` in microseconds since 1970."""
        rows = [
            (
                checked_at,
                s.name,
                s.part,
                s.day,
                _null(s.value),
                _null(s.threshold),
                s.severity,
                s.fired,
                s.reason,
                s.error,
            )
            for s in signals
        ]
        with closing(self._open()) as connection, connection:
            connection.executemany(
                f"INSERT INTO checks (checked_at, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
            )

    def read(self, first: str = "", last: str = "9999", name: str = "") -> list[Signal]:
        """The newest verdict of each (day, name, part) with `first` <= day <= `last`, in that order."""
        query = f"""
            SELECT {COLUMNS} FROM checks WHERE id IN (
                SELECT max(id) FROM checks WHERE day >= ? AND day <= ? AND (? = '' OR name = ?)
                GROUP BY day, name, part
            ) ORDER BY day, name, part
        """
        with closing(self._open()) as connection:
            return [_signal(row) for row in connection.execute(query, (first, last, name, name))]

    def days(self) -> list[str]:
        """Every day that was checked, oldest first."""
        with closing(self._open()) as connection:
            return [day for (day,) in connection.execute("SELECT DISTINCT day FROM checks ORDER BY day")]

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=BUSY_S)


def _widen(connection: sqlite3.Connection) -> None:
    """A history that was begun without errors goes on with them."""
    if "error" not in {row[1] for row in connection.execute("PRAGMA table_info(checks)")}:
        connection.execute("ALTER TABLE checks ADD COLUMN error REAL")


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _signal(row: tuple) -> Signal:
    name, part, day, value, threshold, severity, fired, reason, error = row
    value, threshold = (math.nan if v is None else float(v) for v in (value, threshold))
    return Signal(name, part, day, value, threshold, severity, bool(fired), reason, float(error or 0))
