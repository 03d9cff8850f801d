"""A served history is the log's history, plus each live event once."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from longtail.errors import InvalidInput
from longtail.events.log import histories_before
from longtail.features.history import HistoryStore, UserHistory, to_histories
from tests.features.shop import make_catalogue, make_log

LOG, CATALOGUE = make_log(), make_catalogue()
USER_IDS = np.array([f"u{u:02}" for u in range(LOG.n_users)], object)
INDEX = {item: code for code, item in enumerate(CATALOGUE.item_ids)}
END = int(LOG.time.max()) + 1


def event(n: int, **changes: object) -> dict[str, object]:
    base = {"event_id": f"e{n}", "item_id": "i001", "event_type": "click", "time": END + n, "session_id": "s"}
    return {**base, **changes}


@pytest.fixture
def store(tmp_path: Path) -> HistoryStore:
    store = HistoryStore(tmp_path / "histories.db")
    store.materialise(LOG, USER_IDS, CATALOGUE.item_ids, until=END)
    return store


def test_materialised_histories_are_the_histories_of_training(store: HistoryStore):
    users = np.arange(LOG.n_users)
    expected = histories_before(LOG.positives, users, np.full(len(users), END), last=100)
    got = to_histories([store.load(user_id) for user_id in USER_IDS], INDEX)
    for name in ("indptr", "item", "time", "kind", "strength", "quantity", "session"):
        assert getattr(got, name).dtype == getattr(expected, name).dtype
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)
    store.materialise(LOG, USER_IDS, CATALOGUE.item_ids, until=END, last=7)
    newest = to_histories([store.load(user_id) for user_id in USER_IDS], INDEX)
    np.testing.assert_array_equal(newest.item, histories_before(LOG.positives, users, np.full(len(users), END), 7).item)
    assert store.size().baked == len(newest.item) and store.size().bytes > 0


def test_live_events_follow_the_log_and_count_once(store: HistoryStore):
    before = store.load("u03", last=1000)
    sent = [event(0), event(1, session_id="t", event_type="purchase", quantity=3), event(2, item_id="i002")]
    assert store.append("u03", sent) == 3
    assert store.append("u03", sent) == 0
    after = store.load("u03", last=1000)
    assert len(after) == len(before) + 3
    assert after.item_id[-3:].tolist() == ["i001", "i001", "i002"]
    assert after.strength[-3:].tolist() == [1, 5, 1] and after.quantity[-3:].tolist() == [1, 3, 1]
    a, b, c = after.session[-3:]
    assert a == c != b and not {a, b} & set(before.session)
    assert store.load("u03", last=2).time.tolist() == [END + 1, END + 2]


def test_exposure_and_returns_are_no_interest(store: HistoryStore):
    rows = [event(0, event_type="impression"), event(1, event_type="skip"), event(2, event_type="purchase", value=-4.0)]
    assert store.append("new", rows) == 0 and len(store.load("new")) == 0


def test_a_bad_event_keeps_the_whole_batch_out(store: HistoryStore):
    for bad, message in ((event(1, event_type="wish"), "wish"), (event(1, event_id=None), "event_id")):
        with pytest.raises(InvalidInput, match=message):
            store.append("new", [event(0), bad])
    assert len(store.load("new")) == 0


def test_late_events_are_put_in_time_order(store: HistoryStore):
    store.append("u03", [event(0), event(1, time=0)])
    times = store.load("u03", last=1000).time
    assert times[0] == 0 and (np.diff(times) >= 0).all()


def test_a_new_log_replaces_the_events_it_covers(store: HistoryStore):
    store.append("u03", [event(0), event(50)])
    store.materialise(LOG, USER_IDS, CATALOGUE.item_ids, until=END + 50)
    assert store.size().live == 1
    assert store.load("u03").time[-1] == END + 50


def test_unknown_items_and_empty_histories_are_left_out(store: HistoryStore):
    store.append("a", [event(0, item_id="gone"), event(1)])
    got = to_histories([store.load("nobody"), store.load("a"), store.load("nobody")], INDEX)
    assert got.indptr.tolist() == [0, 0, 1, 1] and got.item.tolist() == [1]
    assert len(to_histories([], INDEX)) == 0


def test_forgetting_leaves_nothing(store: HistoryStore):
    store.append("u03", [event(0)])
    assert store.forget("u03") and not store.forget("u03")
    assert len(store.load("u03")) == 0 and len(store.load("u04")) > 0


def test_readers_never_wait_or_see_half_a_batch(store: HistoryStore):
    failures: list[object] = []
    done = threading.Event()

    def read() -> None:
        other = HistoryStore(store.path)
        while not done.is_set():
            seen: UserHistory = other.load("busy", last=1000)
            if len(seen) % 5:
                failures.append(len(seen))
        other.close()

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for batch in range(40):
            assert store.append("busy", [event(batch * 5 + k) for k in range(5)]) == 5
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not failures and len(store.load("busy", last=1000)) == 200
