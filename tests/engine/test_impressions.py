"""The impression log: every list once, the oldest goes first, and a disk that fails costs rows, never a request."""

from __future__ import annotations

import time

import numpy as np

from longtail.engine.impressions import Impression, ImpressionLog, read_impressions
from longtail.metrics import IMPRESSIONS_DROPPED
from longtail.schema import DAY_US

NOON = 19_800 * DAY_US + DAY_US // 2


def shown(n: int, time: int = NOON, candidates: int = 2) -> Impression:
    return Impression(
        f"r{n}", "u" if n % 2 else None, None, "homepage", time, "champion", "v1", "full", "live", ["a", "b"],
        [1.0, 0.25], [2.0, -1.0], ["ease", "next"], 3, np.array([4, 5], np.int32), np.array([6, 7], np.int64),
        np.arange(candidates), np.arange(candidates * 3, dtype="<f4").tobytes(),
    )  # fmt: skip


def dropped(cause: str) -> float:
    return IMPRESSIONS_DROPPED.labels(cause)._value.get()


def test_lists_come_back_as_they_were_shown_each_under_its_day(tmp_path):
    log = ImpressionLog(tmp_path)
    log.add([shown(0), shown(1, candidates=0), shown(2, NOON + DAY_US)])
    log.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["date=2024-03-18", "date=2024-03-19"]
    rows = {row.request_id: (row, features) for row, features in read_impressions(tmp_path)}
    assert set(rows) == {"r0", "r1", "r2"}
    row, features = rows["r0"]
    assert (row.time, row.user_id, row.items, row.propensity, row.segment) == (NOON, None, ["a", "b"], [1.0, 0.25], 3)
    assert row.history_item.tolist() == [4, 5] and row.candidates.tolist() == [0, 1]
    assert features.tolist() == [[0, 1, 2], [3, 4, 5]] and rows["r1"][1].shape[0] == 0


def test_a_full_queue_drops_the_oldest_and_counts_them(tmp_path):
    before = dropped("full")
    log = ImpressionLog(tmp_path, room=10, every_s=60)
    for n in range(25):
        log.add([shown(n)])
    log.close()
    assert [row.request_id for row, _ in read_impressions(tmp_path)] == [f"r{n}" for n in range(15, 25)]
    assert dropped("full") - before == 15


def test_a_disk_that_fails_is_a_counter_and_writing_goes_on_when_it_recovers(tmp_path):
    before = dropped("write")
    folder = tmp_path / "log"
    folder.write_text("a file where the folder should be")
    log = ImpressionLog(folder, batch=1, every_s=0.05)
    log.add([shown(0)])
    deadline = time.monotonic() + 5
    while dropped("write") == before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert dropped("write") - before == 1
    folder.unlink()
    log.add([shown(1)])
    log.close()
    assert [row.request_id for row, _ in read_impressions(folder)] == ["r1"]
    assert not list(folder.rglob(".*"))


def test_adding_costs_microseconds_while_the_writer_works(tmp_path):
    # The thread's own time, of all but the slowest few: neither the machine's other work nor a look for garbage over
    # all that a test session keeps is the log's.
    log = ImpressionLog(tmp_path, room=2000, batch=100)
    took = []
    for n in range(3000):
        row = [shown(n)]
        start = time.thread_time()
        log.add(row)
        took.append(time.thread_time() - start)
    log.close()
    assert sorted(took)[-30] < 0.05
