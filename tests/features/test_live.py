"""What every live store promises, held against each of them, and how each comes back from what breaks it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from longtail.errors import InvalidInput, Unavailable
from longtail.features.live import KEEP_EVENTS, KEEP_US, LIVE_SESSIONS, LiveEvent, LiveStore, open_live, to_histories
from longtail.features.live_sqlite import SqliteLive
from tests.features.redis_server import RedisServer, why_no_redis

NOW = time.time_ns() // 1000
SECOND = 1_000_000


def event(n: int, **changes: object) -> LiveEvent:
    base = LiveEvent(f"e{n}", "u", "i1", "click", NOW - 1000 * SECOND + n, session_id="s")
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    if cause := why_no_redis():
        pytest.skip(cause)
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.serving)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/live.db"
    server: RedisServer = request.getfixturevalue("redis_server")
    server.flush()
    return server.url


def run(url: str, work, writer: bool = True):
    """`await work(store)` on a fresh store of a fresh loop."""

    async def go():
        store = open_live(url, writer=writer)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(go())


def test_events_come_back_oldest_first_with_the_types_of_a_log(url: str):
    sent = [
        event(2, item_id="i3", event_type="purchase", quantity=3.0, session_id="t"),
        event(0),
        event(1, item_id="i2", event_type="add_to_cart"),
    ]

    async def work(store: LiveStore):
        assert await store.append(sent) == 3
        return (await store.load(["u"], 0))[0]

    history = run(url, work)
    assert history.item_id.tolist() == ["i1", "i2", "i3"]
    assert history.strength.tolist() == [1, 3, 5] and history.quantity.tolist() == [1, 1, 3]
    assert history.kind.tolist() == [2, 3, 4] and history.time.tolist() == [e.time for e in (sent[1], sent[2], sent[0])]
    a, b, c = history.session
    assert a == b != c and min(history.session) >= LIVE_SESSIONS
    assert [history.kind.dtype, history.time.dtype, history.strength.dtype] == [np.int8, np.int64, np.float32]
    coded = to_histories([history], {"i1": 7, "i3": 9})
    assert coded.item.tolist() == [7, 9] and coded.indptr.tolist() == [0, 2]


def test_an_event_id_counts_once_whatever_comes_with_it(url: str):
    async def work(store: LiveStore):
        assert await store.append([event(0), event(0), event(1)]) == 2
        assert await store.append([event(0, time=NOW), event(1), event(2)]) == 1
        return (await store.load(["u"], 0))[0]

    assert run(url, work).time.tolist() == [event(n).time for n in range(3)]


def test_exposure_and_returns_are_no_interest(url: str):
    rows = [event(0, event_type="impression"), event(1, event_type="skip"), event(2, event_type="purchase", value=-4.0)]

    async def work(store: LiveStore):
        assert await store.append(rows) == 0 and await store.append([]) == 0
        return await store.load(["u"], 0)

    assert len(run(url, work)[0]) == 0


def test_an_unknown_type_keeps_the_whole_batch_out(url: str):
    async def work(store: LiveStore):
        with pytest.raises(InvalidInput, match="wish"):
            await store.append([event(0), event(1, event_type="wish")])
        return await store.load(["u"], 0)

    assert len(run(url, work)[0]) == 0


def test_only_the_newest_since_a_moment_are_read(url: str):
    async def work(store: LiveStore):
        await store.append([event(n) for n in range(10)])
        since = await store.load(["u", "nobody", "u"], event(7).time)
        assert [len(h) for h in since] == [3, 0, 3]
        last = (await store.load(["u"], 0, last=4))[0]
        assert last.time.tolist() == [event(n).time for n in range(6, 10)]
        assert len((await store.load(["u"], 0, last=0))[0]) == 0
        return await store.load([], 0)

    assert run(url, work) == []


def test_events_of_one_instant_keep_their_order(url: str):
    items = [f"i{n}" for n in (5, 1, 9, 3)]

    async def work(store: LiveStore):
        await store.append([event(n, item_id=item, time=NOW) for n, item in zip((8, 2, 5, 1), items, strict=True)])
        return (await store.load(["u"], 0))[0]

    assert run(url, work).item_id.tolist() == items


def test_strange_ids_survive(url: str):
    odd = ["a b", "ü\U0001f600", "x\x1fy", "a:{b}", "0", "%s'\"", "\n"]

    async def work(store: LiveStore):
        for n, text in enumerate(odd):
            assert await store.append([event(n, event_id=text, user_id=text, item_id=text, session_id=text)]) == 1
        return await store.load(odd, 0)

    assert [h.item_id.tolist() for h in run(url, work)] == [[text] for text in odd]


def test_what_is_too_old_or_too_much_goes(url: str):
    async def work(store: LiveStore):
        old = event(999_999, time=NOW - KEEP_US - 60 * SECOND, user_id="old")
        await store.append([old, *(event(n) for n in range(KEEP_EVENTS + 50))])
        await store.tend()
        assert len((await store.load(["old"], 0))[0]) == 0
        return (await store.load(["u"], 0, last=1000))[0]

    kept = run(url, work)
    assert len(kept) == KEEP_EVENTS and kept.time[-1] == event(KEEP_EVENTS + 49).time


def test_forgetting_leaves_nothing(url: str):
    async def work(store: LiveStore):
        await store.append([event(0), event(1, user_id="v")])
        assert await store.forget("u") and not await store.forget("u")
        return await store.load(["u", "v"], 0)

    assert [len(h) for h in run(url, work)] == [0, 1]


def test_another_process_sees_what_was_appended(url: str):
    async def work():
        reader, writer = open_live(url), open_live(url, writer=True)
        assert len((await reader.load(["u"], 0))[0]) == 0
        await writer.append([event(0)])
        seen = len((await reader.load(["u"], 0))[0])
        await reader.close()
        await writer.close()
        return seen

    assert asyncio.run(work()) == 1


@pytest.mark.parametrize("url", ["live.db", "sqlite://live.db", "sqlite:///", "kafka://x", "redis://"])
def test_an_address_that_names_no_store_is_refused(url: str):
    with pytest.raises(InvalidInput, match="live store"):
        open_live(url)


def test_readers_never_wait_or_see_half_a_batch(tmp_path: Path):
    failures: list[object] = []
    done = threading.Event()

    def read() -> None:
        async def loop() -> None:
            store = SqliteLive(tmp_path / "live.db")
            while not done.is_set():
                try:
                    seen = (await store.load(["busy"], 0, last=1000))[0]
                except Unavailable as error:
                    failures.append(error)
                    continue
                if len(seen) % 5:
                    failures.append(len(seen))
            await store.close()

        asyncio.run(loop())

    async def write(store: LiveStore) -> int:
        return sum([await store.append([event(b * 5 + k, user_id="busy") for k in range(5)]) for b in range(40)])

    run(f"sqlite://{tmp_path}/live.db", lambda store: store.append([event(1000)]))
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        assert run(f"sqlite://{tmp_path}/live.db", write) == 200
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not failures


@pytest.mark.parametrize("damage", ["garbage", "middle", "truncated", "half", "removed"])
@pytest.mark.parametrize("found_by", ["writer", "reader", "new writer"])
def test_a_damaged_file_is_moved_aside_and_made_anew(tmp_path: Path, damage: str, found_by: str):
    path = tmp_path / "live.db"

    async def work() -> None:
        reader, writer = SqliteLive(path), SqliteLive(path, writer=True)
        await writer.append([event(n) for n in range(500)])
        assert len((await reader.load(["u"], 0))[0]) == 100
        if found_by == "new writer":
            await writer.close()
        _damage(path, damage)
        if found_by == "new writer":
            writer = SqliteLive(path, writer=True)
            await writer.tend()
        elif found_by == "reader":
            for _ in range(3):  # a reader with good pages in memory may serve them once more
                try:
                    await SqliteLive(path).load(["u"], 0)
                    await reader.load(["u"], 0)
                except Unavailable:
                    break
            await writer.tend()
        # Whoever finds it: within two beats of the writer events come through again.
        for beat in range(3):
            await writer.tend()
            await writer.append([event(1000 + beat, user_id="w")])
            try:
                seen = [len((await store.load(["w"], 0))[0]) for store in (reader, SqliteLive(path))]
                break
            except Unavailable:
                assert beat < 2
        assert min(seen) >= 1
        await writer.append([event(1000, user_id="w")])
        assert await writer.append([event(1000, user_id="w")]) == 0
        await reader.close()
        await writer.close()

    asyncio.run(work())
    assert not path.with_name("live.db.suspect").exists()


def _damage(path: Path, how: str) -> None:
    if how == "removed":
        for file in path.parent.glob("live.db*"):
            file.unlink()
        return
    size = path.stat().st_size
    with path.open("r+b") as file:
        if how == "garbage":
            file.write(b"\xa5" * size)
        elif how == "middle":
            file.seek(4096)
            file.write(b"\xa5" * (size - 4096))
        else:
            file.truncate(0 if how == "truncated" else size // 2)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def test_a_store_made_anew_is_said_once(tmp_path: Path):
    async def work(store: LiveStore):
        await store.append([event(0)])
        assert not await store.tend()
        _damage(tmp_path / "live.db", "garbage")
        (tmp_path / "live.db.suspect").touch()
        return await store.tend(), await store.tend(), await store.append([event(0)])

    assert run(f"sqlite://{tmp_path}/live.db", work) == (True, False, 1)
    assert len(list(tmp_path.glob("live.db.corrupt-*"))) >= 1


@pytest.mark.serving
def test_a_redis_that_goes_is_said_quickly_and_one_that_comes_back_is_used():
    if cause := why_no_redis():
        pytest.skip(cause)

    async def quickly(call) -> None:
        start = time.monotonic()
        with pytest.raises(Unavailable, match="does not answer"):
            await call
        assert time.monotonic() - start < 0.5

    async def work(server: RedisServer) -> None:
        store = open_live(server.url)
        await store.append([event(0)])
        for round_ in range(3):
            server.stop()
            for _ in range(3):
                await quickly(store.load(["u"], 0))
                await quickly(store.append([event(1)]))
            server.start()
            assert await store.append([event(round_)]) == 1
            assert len((await store.load(["u"], 0))[0]) == 1
        server.hang()
        await quickly(store.load(["u"], 0))
        await quickly(store.append([event(7)]))
        server.wake()
        await asyncio.sleep(0.05)
        await store.append([event(7)])
        for _ in range(3):  # no answer of a call that gave up is taken for that of a later one
            assert [len(h) for h in await store.load(["u", "v"], 0)] == [2, 0]
        await store.close()

    with RedisServer() as server:
        asyncio.run(work(server))


@pytest.mark.serving
def test_every_writer_hears_once_that_redis_lost_everything():
    if cause := why_no_redis():
        pytest.skip(cause)

    async def work(server: RedisServer) -> None:
        one, two = open_live(server.url, writer=True), open_live(server.url, writer=True)
        assert [await one.tend(), await two.tend(), await one.tend()] == [True, False, False]
        for _ in range(2):
            server.stop()
            with pytest.raises(Unavailable, match="does not answer"):
                await one.tend()
            server.start()
            assert [await store.tend() for store in (two, one, two, one)] == [True, True, False, False]
        await one.close()
        await two.close()

    with RedisServer() as server:
        asyncio.run(work(server))


@pytest.mark.serving
def test_many_people_at_once_in_redis_and_their_keys_expire():
    if cause := why_no_redis():
        pytest.skip(cause)

    async def work(server: RedisServer) -> None:
        store = open_live(server.url)
        people = [f"p{n}" for n in range(1000)]
        assert await store.append([event(n, user_id=p) for n, p in enumerate(people)]) == 1000
        assert sum(len(h) for h in await store.load(people[:100], 0)) == 100
        left = [await store._redis.pttl(key) async for key in store._redis.scan_iter()]  # type: ignore[attr-defined]
        assert len(left) == 2000 and all(0 < ms <= KEEP_US // 1000 for ms in left)
        await store.close()

    with RedisServer() as server:
        asyncio.run(work(server))
