"""Requests of past windows: when they are made, what they know, and what they led to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.events import Log, Requests
from longtail.ranking.groups import Unit, Wanted, requests_of_window
from longtail.schema import DAY_US
from tests.tiny import START, log_of, random_log

# Person 0: two days before the window and two in it; person 1 only in it; person 2 only before; person 3 after.
EVENTS = [(0, 5, 1), (0, 6, 2), (0, 5, 10), (0, 7, 10.1), (0, 8, 12), (1, 1, 11), (1, 2, 11.2), (2, 3, 4), (3, 9, 17)]
WINDOW = (START + 10 * DAY_US, START + 17 * DAY_US)


def asked(
    log: Log, unit: Unit, repeats: bool = True, gain: np.ndarray | None = None, limit: int = 100, seed: int = 0,
    known_only: bool = False, last: int = 1000, weight: np.ndarray | None = None,
) -> tuple[Requests, Wanted]:  # fmt: skip
    ones = np.ones(len(log), np.float32)
    segment = np.arange(log.n_users, dtype=np.int32)
    return requests_of_window(
        log, ones if gain is None else gain, ones if weight is None else weight, segment, *WINDOW, unit, repeats, limit,
        seed, last, known_only,
    )  # fmt: skip


def table(requests: Requests, wanted: Wanted) -> list[tuple[int, float, list[int], list[int]]]:
    """(user, day asked, history, wanted) of each request."""
    h, out = requests.history, []
    for b in range(len(requests)):
        past = h.item[h.indptr[b] : h.indptr[b + 1]].tolist()
        led_to = wanted.item[wanted.indptr[b] : wanted.indptr[b + 1]].tolist()
        out.append((int(requests.user[b]), (requests.time[b] - START) / DAY_US, past, led_to))
    return out


@pytest.fixture
def log() -> Log:
    return log_of(EVENTS, 4, 10)


def test_once_a_person_and_window(log: Log) -> None:
    assert table(*asked(log, "window")) == [(0, 10, [5, 6], [5, 7, 8]), (1, 10, [], [1, 2])]


def test_at_each_session_start(log: Log) -> None:
    found = table(*asked(log, "session"))
    assert found == [(0, 10, [5, 6], [5, 7]), (0, 12, [5, 6, 5, 7], [8]), (1, 11, [], [1, 2])]


def test_before_each_event(log: Log) -> None:
    found = [(user, past, led_to) for user, _, past, led_to in table(*asked(log, "event"))]
    assert found == [(0, [5, 6], [5]), (0, [5, 6, 5], [7]), (0, [5, 6, 5, 7], [8]), (1, [], [1]), (1, [1], [2])]


def test_what_a_person_had_is_no_label_without_repeats(log: Log) -> None:
    assert table(*asked(log, "window", repeats=False))[0] == (0, 10, [5, 6], [7, 8])
    had_it = log_of([(0, 5, 1), (0, 5, 11)], 1, 10)
    assert table(*asked(had_it, "window", repeats=False)) == [], "nothing new is wanted: no request"


def test_people_without_a_history_can_be_left_out(log: Log) -> None:
    assert [row[0] for row in table(*asked(log, "window", known_only=True))] == [0]


def test_only_the_newest_events_are_carried(log: Log) -> None:
    assert table(*asked(log, "session", last=1))[1][2] == [7]


def test_events_without_gain_lead_to_no_request_and_are_no_label(log: Log) -> None:
    gain = np.where(np.isin(log.item, [7, 1, 2]), 0, 1).astype(np.float32)
    assert [(row[0], row[3]) for row in table(*asked(log, "window", gain=gain))] == [(0, [5, 8])]


def test_an_item_counts_with_its_best_gain() -> None:
    log = log_of([(0, 1, 9), (0, 2, 10), (0, 2, 11), (0, 3, 12)], 1, 4)
    _, wanted = asked(log, "window", gain=np.array([1, 0.1, 0.9, 0.3], np.float32))
    assert np.allclose(wanted.gain, [0.9, 0.3])
    found = wanted.label(np.array([0, 0, 0]), np.array([3, 2, 1]))
    assert np.allclose(found, [0.3, 0.9, 0]) and found.dtype == np.float32


def test_the_weight_of_a_request_is_the_mean_over_its_items() -> None:
    log = log_of([(0, 1, 9), (0, 2, 10), (0, 2, 11), (0, 3, 12)], 1, 4)
    _, wanted = asked(log, "window", weight=np.array([9, 1, 4, 2], np.float32))
    assert np.allclose(wanted.weight, [3])


def test_limit_draws_by_seed() -> None:
    log = log_of([(u, i, d) for u in range(50) for i, d in ((1, 1), (2, 11))], 50, 3)
    first, again, other = (asked(log, "window", limit=10, seed=s)[0].user.tolist() for s in (0, 0, 1))
    assert first == again == sorted(first) and len(first) == 10 and first != other


def test_a_window_in_which_nothing_happened() -> None:
    requests, wanted = asked(log_of([(0, 1, 1)], 1, 3), "session")
    assert len(requests) == 0 and wanted.indptr.tolist() == [0]
    assert wanted.label(np.array([0]), np.array([1])).tolist() == [0]


@given(st.integers(0, 10**6), st.sampled_from(["window", "session", "event"]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_no_look_ahead(seed: int, unit: Unit, repeats: bool) -> None:
    """Histories end before the request; labels come from the window, at or after the request."""
    log = random_log(6, 8, 60, days=20, seed=seed)
    requests, wanted = asked(log, unit, repeats)
    h = requests.history
    assert np.all(h.time < requests.time[h.rows])
    assert np.all((requests.time >= WINDOW[0]) & (requests.time < WINDOW[1]))
    inside = (log.time >= WINDOW[0]) & (log.time < WINDOW[1])
    for b, (user, _, past, led_to) in enumerate(table(requests, wanted)):
        after = inside & (log.user == user) & (log.time >= requests.time[b])
        assert led_to and set(led_to) <= set(log.item[after].tolist())
        before = (log.user == user) & (log.time < requests.time[b])
        assert past == log.item[before].tolist()
        assert repeats or not set(led_to) & set(past)
    if unit == "window" and repeats:
        pairs = set(zip(log.user[inside].tolist(), log.item[inside].tolist(), strict=True))
        assert len(wanted.item) == len(pairs), "nothing of the window is lost"
