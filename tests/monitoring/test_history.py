from __future__ import annotations

import math
import sqlite3
from dataclasses import replace

import pytest

from longtail.errors import InvalidInput
from longtail.monitoring.history import TABLE, History
from longtail.monitoring.signal import Signal

A = Signal("ctr", "surface home", "2024-03-01", 0.1, 0.2, "critical", False, "0.1 as usual", 0.01)
B = Signal("model_age", "", "2024-03-01", math.nan, math.nan, "warning", False, "no bundle")


def test_what_is_appended_is_read_back_the_newest_verdict_of_a_day_counts(tmp_path):
    history = History(tmp_path / "new" / "history.db")
    history.append([A, B], 1)
    history.append([replace(A, day="2024-03-02"), replace(A, value=0.5, fired=True)], 2)
    read = History(tmp_path / "new" / "history.db").read()
    assert [(s.day, s.name, s.value if s.value == s.value else None, s.fired) for s in read] == [
        ("2024-03-01", "ctr", 0.5, True), ("2024-03-01", "model_age", None, False), ("2024-03-02", "ctr", 0.1, False),
    ]  # fmt: skip
    assert history.read("2024-03-02", "2024-03-02", "ctr") == [replace(A, day="2024-03-02")]
    assert history.days() == ["2024-03-01", "2024-03-02"]


def test_nothing_that_was_said_can_be_changed(tmp_path):
    history = History(tmp_path / "history.db")
    history.append([A], 1)
    with sqlite3.connect(history.path) as connection:
        for statement in ("UPDATE checks SET fired = 1", "DELETE FROM checks"):
            with pytest.raises(sqlite3.Error, match="append only"):
                connection.execute(statement)


def test_a_history_that_was_begun_without_errors_goes_on(tmp_path):
    with sqlite3.connect(tmp_path / "history.db") as connection:
        connection.executescript(TABLE.replace(",\n    error REAL", ""))
        connection.execute(
            "INSERT INTO checks VALUES (1, 1, 'ctr', 'surface home', '2024-02-29', 0.1, 0.2, 'critical', 0, 'as usual')"
        )
    history = History(tmp_path / "history.db")
    history.append([A], 2)
    old, new = history.read()
    assert old.interval is None and new.interval == pytest.approx((0.0804, 0.1196))


def test_another_file_is_refused(tmp_path):
    (tmp_path / "history.db").write_text("not a database, by far")
    with pytest.raises(InvalidInput, match="history of checks"):
        History(tmp_path / "history.db")
