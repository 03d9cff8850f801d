"""The ledger: why each run started, what became of it, and why others did not start; in SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from longtail.errors import InvalidInput
from longtail.retraining.decision import Decision, Past
from longtail.retraining.policy import Action

State = Literal["decided", "started", "succeeded", "failed", "lost", "done", "kept"]
OPEN = ("decided", "started")
BUSY_S = 30.0
TABLES = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY, action TEXT NOT NULL, day TEXT NOT NULL, reason TEXT NOT NULL, triggers TEXT NOT NULL,
    state TEXT NOT NULL, decided_at REAL NOT NULL, started_at REAL, ended_at REAL, attempts INTEGER NOT NULL DEFAULT 0,
    seen INTEGER NOT NULL DEFAULT 1, version INTEGER, cpu_s REAL, outcome TEXT NOT NULL DEFAULT '');
CREATE UNIQUE INDEX IF NOT EXISTS one_at_a_time ON runs ((1)) WHERE state IN ('decided', 'started');
CREATE TABLE IF NOT EXISTS steps (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs (id), at REAL NOT NULL, state TEXT NOT NULL,
    note TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON steps BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON steps BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""
COLUMNS = (
    "id, action, day, reason, triggers, state, decided_at, started_at, ended_at, attempts, seen, version, cpu_s, "
    "outcome"
)


@dataclass(frozen=True)
class Run:
    """A row: a training, an alert (`done`), or one that was not started (`kept`; `seen` passes found the same reason).

    Times are seconds since 1970; `version` is what it registered, `outcome` what came of it in words.
    """

    id: int
    action: str
    day: str
    reason: str
    triggers: list[dict]
    state: State
    decided_at: float
    started_at: float | None
    ended_at: float | None
    attempts: int
    seen: int
    version: int | None
    cpu_s: float | None
    outcome: str


class Ledger:
    """The ledger in the file `path`; any number of processes may read, transactions keep writers apart.

    Raises:
        InvalidInput: the file cannot be used.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.executescript(TABLES)
                connection.execute(f"SELECT {COLUMNS} FROM runs LIMIT 0")
        except (sqlite3.Error, OSError) as error:
            raise InvalidInput(f"{self.path} cannot be used as a ledger of runs: {error}") from error

    def decide(self, decision: Decision, now: float) -> int:
        """A row for the decision, before anything is done about it; its id.

        What is kept back for the reason it was kept back for last time counts in the row that is there.
        """
        state: State = "kept" if decision.action is None else "done" if decision.action == "alert" else "decided"
        action = decision.action or decision.kept
        triggers = json.dumps([asdict(t) for t in decision.triggers])
        with self._open() as connection:
            if state == "kept":
                last = connection.execute("SELECT id, state, action, day FROM runs ORDER BY id DESC LIMIT 1").fetchone()
                if last and last[1:] == ("kept", action, decision.day):
                    connection.execute("UPDATE runs SET seen = seen + 1 WHERE id = ?", last[:1])
                    return int(last[0])
            ended = None if state == "decided" else now
            row = (action, decision.day, decision.reason, triggers, state, now, ended)
            statement = (
                "INSERT INTO runs (action, day, reason, triggers, state, decided_at, ended_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)"
            )
            run = int(connection.execute(statement, row).lastrowid or 0)
            self._step(connection, run, now, state, decision.reason)
            return run

    def start(self, run: int, now: float) -> None:
        """The run starts (again)."""
        with self._open() as connection:
            connection.execute(
                "UPDATE runs SET state = 'started', started_at = coalesce(started_at, ?), attempts = attempts + 1 "
                "WHERE id = ?", (now, run),
            )  # fmt: skip
            self._step(connection, run, now, "started", "")

    def note(self, run: int, now: float, state: State, note: str) -> None:
        """Something worth knowing happened to an open run that leaves it open."""
        with self._open() as connection:
            self._step(connection, run, now, state, note)

    def trained(self, run: int, now: float, outcome: str, version: int, cpu_s: float | None) -> None:
        """The run has registered a version, and goes on with its deployment."""
        with self._open() as connection:
            connection.execute(
                "UPDATE runs SET outcome = ?, version = ?, cpu_s = ? WHERE id = ?", (outcome, version, cpu_s, run)
            )
            self._step(connection, run, now, "started", f"{outcome}; it is deployed now")

    def end(
        self, run: int, now: float, state: State, outcome: str, version: int | None = None, cpu_s: float | None = None
    ) -> None:
        """The run is over; `version` and `cpu_s` stay what they were where they are not given."""
        with self._open() as connection:
            connection.execute(
                "UPDATE runs SET state = ?, ended_at = ?, outcome = ?, version = coalesce(?, version), "
                "cpu_s = coalesce(?, cpu_s) WHERE id = ?", (state, now, outcome, version, cpu_s, run),
            )  # fmt: skip
            self._step(connection, run, now, state, outcome)

    def open_run(self) -> Run | None:
        """The run that was decided or started and has not ended."""
        return next((run for run in self.runs() if run.state in OPEN), None)

    def runs(self) -> list[Run]:
        """Every row, newest first."""
        with self._open() as connection:
            rows = connection.execute(f"SELECT {COLUMNS} FROM runs ORDER BY id DESC").fetchall()
        names = COLUMNS.split(", ")
        return [Run(**dict(zip(names, row, strict=True)) | {"triggers": json.loads(row[4])}) for row in rows]

    def steps(self, run: int) -> list[tuple[float, str, str]]:
        """(time, state, note) of everything that happened to a run, oldest first."""
        with self._open() as connection:
            return connection.execute("SELECT at, state, note FROM steps WHERE run = ? ORDER BY id", (run,)).fetchall()

    def past(self, now: float) -> list[Past]:
        """The runs and alerts as `decide` reads them."""
        known: dict[str, Action] = {name: name for name in get_args(Action)}
        found = []
        for run in self.runs():
            if run.action in known and run.state != "kept":
                began, failed = run.started_at or run.decided_at, run.state in ("failed", "lost")
                about = frozenset((t["check"], t["part"]) for t in run.triggers)
                found.append(Past(known[run.action], run.day, began, _seconds(run, now), failed, about))
        return found

    @staticmethod
    def _step(connection: sqlite3.Connection, run: int, now: float, state: State, note: str) -> None:
        connection.execute("INSERT INTO steps (run, at, state, note) VALUES (?, ?, ?, ?)", (run, now, state, note))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=BUSY_S)) as connection:
            connection.execute("PRAGMA synchronous=FULL")
            with connection:
                yield connection


def _seconds(run: Run, now: float) -> float:
    return (run.ended_at or now) - run.started_at if run.started_at is not None else 0.0
