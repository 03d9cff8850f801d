"""A served history is the log's history, plus each live event and each event of the session once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from longtail.engine.baked import BakedPeople, write_people
from longtail.engine.ids import IdTable
from longtail.engine.online import StoredPeople, lay_out
from longtail.engine.parts import Bundle
from longtail.engine.people import merged, requests_of
from longtail.engine.schema import parse
from longtail.errors import InvalidBundle, Unavailable
from longtail.events import Histories
from longtail.events.log import histories_before
from longtail.features.live import LiveEvent, open_live
from longtail.schema import EVENT_CODE
from tests.features.shop import make_catalogue, make_log

LOG, CATALOGUE = make_log(), make_catalogue()
USER_IDS = np.array([f"u{u:02}" for u in range(LOG.n_users)], object)
SEGMENT = (np.arange(LOG.n_users) % 3 - 1).astype(np.int32)
END = int(LOG.time.max()) + 1
MINUTE = 60_000_000
START = 1_700_000_000_000_000  # microseconds: a moment that a request may name


def assert_same(got: Histories, expected: Histories) -> None:
    for field in fields(Histories):
        assert getattr(got, field.name).dtype == getattr(expected, field.name).dtype
        np.testing.assert_array_equal(getattr(got, field.name), getattr(expected, field.name), err_msg=field.name)


def one(*events: tuple[int, int, int]) -> Histories:
    """One person's (time, item, session), oldest first."""
    n = len(events)
    time, item, session = zip(*events, strict=True) if n else ((), (), ())
    return Histories(
        np.array([0, n]), np.array(item, np.int32), np.array(time, np.int64), np.full(n, EVENT_CODE["click"], np.int8),
        np.ones(n, np.float32), np.ones(n, np.float32), np.array(session, np.int32),
    )  # fmt: skip


@pytest.fixture
def baked(tmp_path: Path) -> BakedPeople:
    write_people(tmp_path, LOG, USER_IDS[::-1], SEGMENT, np.array(["north", "south"], object))
    return BakedPeople.open(tmp_path)


def test_baked_histories_are_the_histories_of_training(baked: BakedPeople):
    rng = np.random.default_rng(0)
    for users in (np.arange(LOG.n_users), np.array([3]), np.array([24]), rng.integers(0, LOG.n_users, 7)):
        expected = histories_before(LOG.positives, users, np.full(len(users), END), last=100)
        rows = baked.ids.find(list(USER_IDS[::-1][users]))
        assert_same(baked.histories(rows), expected)
        np.testing.assert_array_equal(baked.segment_of(rows), SEGMENT[users])


def test_unknown_people_have_nothing(baked: BakedPeople):
    rows = baked.ids.find(["nobody", USER_IDS[3], "", "u030", "u03\0", "é" * 300])
    assert (rows < 0).tolist() == [True, False, True, True, True, True]
    found = baked.histories(rows)
    assert found.lengths[[0, 2, 3, 4, 5]].sum() == 0 < found.lengths[1]
    assert_same(baked.histories(np.array([-1])), Histories.empty(1))
    assert baked.segment_of(np.array([-1])).tolist() == [-1]


def test_nothing_is_read_into_memory_when_people_are_opened(baked: BakedPeople):
    for column in (baked.ids.ids, baked.segment, baked.history.indptr, baked.history.item, baked.history.time):
        base = column
        while isinstance(base.base, np.ndarray):
            base = base.base
        assert isinstance(base, np.memmap)


def test_people_who_did_nothing(tmp_path: Path):
    nothing = replace(LOG.select(np.zeros(len(LOG), bool)), n_users=2)
    write_people(tmp_path, nothing, np.array(["b", "a"], object), np.array([0, -1], np.int32), np.array(["north"]))
    people = BakedPeople.open(tmp_path)
    assert_same(people.histories(people.ids.find(["a", "b"])), Histories.empty(2))
    assert people.segment_of(people.ids.find(["a", "b"])).tolist() == [-1, 0]


def test_people_that_do_not_fit_are_refused(tmp_path: Path):
    with pytest.raises(InvalidBundle, match="people"):
        BakedPeople.open(tmp_path)
    write_people(tmp_path, LOG, USER_IDS, SEGMENT, np.array(["north", "south"], object))
    np.save(tmp_path / "people" / "item.npy", np.zeros(3, np.int32))
    with pytest.raises(InvalidBundle, match="different lengths"):
        BakedPeople.open(tmp_path)
    (tmp_path / "people" / "about.json").write_text(json.dumps({"segments": []}))
    with pytest.raises(InvalidBundle, match="train again"):
        BakedPeople.open(tmp_path)


def test_ids_of_any_text_are_found_again():
    texts = ["é", "z", "", "10", "9", "Ａ", "a" * 256, "emoji 😀"]
    table = IdTable.of(texts)
    unknown = ["a" * 257, "zz", "😀", "a\0"]
    assert table.find(texts).tolist() == list(range(len(texts)))
    assert table.find(unknown).tolist() == [-1] * 4
    assert [int(table.find([text])[0]) for text in texts + unknown] == [*range(len(texts)), *[-1] * 4]
    assert IdTable.of([]).find(["a"]).tolist() == [-1]


def test_merging_keeps_each_persons_time_order_and_the_newest():
    first = replace(one((1, 10, 0), (5, 11, 0), (9, 12, 1)), indptr=np.array([0, 2, 3]))
    second = replace(one((5, 20, 2), (7, 21, 2), (3, 22, 3)), indptr=np.array([0, 2, 3]))
    both = merged(first, second)
    assert both.item.tolist() == [10, 11, 20, 21, 22, 12] and both.indptr.tolist() == [0, 4, 6]
    assert merged(first, second, last=1).item.tolist() == [21, 12]


def requests_with(history: Histories, *events: dict, now: int = START + 1000 * MINUTE):
    (instance,) = parse({"instances": [{"context": {"events": list(events)}}]}).instances
    codes = [np.array([int(e["item_id"]) for e in events], np.int64)]
    return requests_of([instance], history, codes, np.array([-1]), now).history


def stamp(minute: int) -> str:
    return datetime.fromtimestamp(START // 1_000_000 + minute * 60, UTC).isoformat()


def test_the_session_goes_on_from_what_is_stored():
    stored = one((START + 980 * MINUTE, 1, 7))
    event = {"item_id": "5", "event_type": "click"}
    assert requests_with(stored, event).session.tolist() == [7, 7]
    assert requests_with(one((START + 900 * MINUTE, 1, 7)), event).session.tolist() == [7, 8]
    assert requests_with(one(), event).session.tolist() == [0]


def test_session_events_are_ordered_by_time_and_never_later_than_now():
    got = requests_with(
        one((START + 990 * MINUTE, 1, 0), (START + 1000 * MINUTE, 2, 0)),
        {"item_id": "3", "timestamp": stamp(2000)},
        {"item_id": "4", "timestamp": stamp(985)},
        {"item_id": "-1", "timestamp": stamp(985)},
        {"item_id": "6", "event_type": "impression"},
    )
    assert got.item.tolist() == [4, 1, 3]  # item 2 is stored with the very moment of the request
    assert got.time[-1] == START + 1000 * MINUTE - 1


def test_an_event_that_is_stored_already_counts_once():
    stored = one((START + 990 * MINUTE, 1, 0))
    got = requests_with(
        stored,
        {"item_id": "1", "event_type": "click", "timestamp": stamp(990)},
        {"item_id": "1", "event_type": "purchase", "timestamp": stamp(990)},
        {"item_id": "1", "event_type": "click", "timestamp": stamp(991)},
    )
    assert got.kind.tolist() == [EVENT_CODE["click"], EVENT_CODE["purchase"], EVENT_CODE["click"]]


@dataclass
class Shop:
    bundle: Bundle
    state: Path
    folder: Path


@pytest.fixture(scope="module")
def opened(bundle_folder, tmp_path_factory) -> Shop:
    bundle, state = Bundle.open(bundle_folder), tmp_path_factory.mktemp("state")
    return Shop(bundle, state, lay_out(bundle, state))


def test_the_store_of_a_bundle_is_laid_out_once_and_beside_that_of_others(opened: Shop):
    assert opened.folder == opened.state / "people" / opened.bundle.manifest.version
    before = (opened.folder / "features" / "online.db").stat().st_mtime_ns
    assert lay_out(opened.bundle, opened.state) == opened.folder
    assert (opened.folder / "features" / "online.db").stat().st_mtime_ns == before
    other = replace(opened.bundle, manifest=replace(opened.bundle.manifest, version="other"))
    assert lay_out(other, opened.state) != opened.folder
    assert sorted(p.name for p in (opened.state / "people").iterdir()) == sorted(
        [opened.bundle.manifest.version, "other"]
    )


def test_a_store_that_lost_a_file_is_laid_out_again(bundle_folder, tmp_path):
    bundle = Bundle.open(bundle_folder)
    folder = lay_out(bundle, tmp_path)
    for path in folder.rglob("registry.db"):
        path.unlink()
    assert lay_out(bundle, tmp_path) == folder
    user, _ = asyncio.run(StoredPeople(bundle, folder).features(["u3"]))
    assert any(column.any() for column in user.values())


def test_features_of_another_moment_are_refused(opened: Shop, tmp_path: Path):
    with pytest.raises(InvalidBundle, match="another catalogue or moment"):
        lay_out(replace(opened.bundle, as_of=5), tmp_path)
    assert not list((tmp_path / "people").iterdir())


def test_callers_ids_are_pseudonymised_and_guests_have_nothing(opened: Shop):
    people = StoredPeople(opened.bundle, opened.folder, pseudonym=lambda u: f"u{u}")
    history, segment, causes = asyncio.run(people.histories(["3", None, "nobody"]))
    user, categories = asyncio.run(people.features(["3", None, "nobody", "\ud800"]))
    assert history.lengths[0] > 0 and history.lengths[1:].sum() == 0 and causes == []
    assert segment[0] >= 0 and segment[1:].tolist() == [-1, -1]
    assert user["n_all"][0] > 0 and user["n_all"][1:].sum() == 0 and len(categories) == 4
    whole, alone = asyncio.run(people.features([None, "3"])), asyncio.run(people.features(["3"]))
    for name, column in whole[0].items():
        assert column.tolist() == [0, *alone[0][name].tolist()]
    assert whole[1].indptr.tolist() == [0, *alone[1].indptr.tolist()]


def test_the_segment_is_the_one_of_the_fallback_lists(opened: Shop):
    people = StoredPeople(opened.bundle, opened.folder)
    segments = dict(zip(*np.unique(opened.bundle.fallback.segments, return_index=True), strict=True))
    names = BakedPeople.open(opened.bundle.folder)
    row = names.ids.find(["u3"])
    _, segment, _ = asyncio.run(people.histories(["u3"]))
    assert segment.tolist() == [segments[names.segments[names.segment_of(row)[0]]]]


def test_live_events_join_the_history_and_those_of_the_log_do_not_count_twice(opened: Shop, tmp_path: Path):
    bundle, as_of = opened.bundle, opened.bundle.as_of
    url = f"sqlite://{tmp_path}/live.db"
    items = bundle.catalogue.item_ids
    events = [
        LiveEvent("e1", "u3", str(items[5]), "click", as_of + 5),
        LiveEvent("e2", "u3", str(items[6]), "purchase", as_of + 3),
        LiveEvent("e3", "u3", "not in this bundle", "click", as_of + 4),
        LiveEvent("e4", "u3", str(items[7]), "click", as_of - 1),
    ]

    async def scenario() -> tuple[Histories, Histories, Histories]:
        writer, reader = open_live(url, writer=True), open_live(url)
        plain = StoredPeople(bundle, opened.folder)
        people = StoredPeople(bundle, opened.folder, live=reader)
        before = (await people.histories(["u3"]))[0]
        await writer.append(events)
        after = (await people.histories(["u4", None, "u3"]))[0]
        baked = (await plain.histories(["u4", None, "u3"]))[0]
        await writer.close()
        await reader.close()
        return before, after, baked

    before, after, baked = asyncio.run(scenario())
    assert after.lengths.tolist()[:2] == baked.lengths.tolist()[:2]
    mine = after.take(np.array([2]))
    assert mine.item[-2:].tolist() == [6, 5]
    assert_same(before, baked.take(np.array([2])))
    np.testing.assert_array_equal(mine.item[:-2], before.item[-(len(mine.item) - 2) :])


def test_without_the_live_store_the_baked_part_stands_in(opened: Shop):
    class Down:
        async def load(self, user_ids, since, last=100):
            raise Unavailable("redis is away")

    people = StoredPeople(opened.bundle, opened.folder, live=Down())  # type: ignore[arg-type]
    history, segment, causes = asyncio.run(people.histories(["u3"]))
    assert causes == ["live: Unavailable"] and history.lengths[0] > 0 and segment[0] >= 0
