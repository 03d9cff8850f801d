"""What every list store promises, held against each of them, and how each comes back from what breaks it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from longtail.engine.lists import KEEP_S, ListStore, StoredList, open_lists
from longtail.engine.lists_sqlite import SqliteLists
from longtail.errors import InvalidInput, Unavailable
from longtail.features.live import open_live
from tests.features.redis_server import RedisServer, why_no_redis


def made(n: int = 0, items: int = 3) -> StoredList:
    return StoredList(
        [f"i{n}-{i}" for i in range(items)], [-0.5 * i for i in range(items)], ["ease"] * items, "v1",
        1_700_000_000 + n, [n + i for i in range(items)],
    )  # fmt: skip


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    if cause := why_no_redis():
        pytest.skip(cause)
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.serving)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/state/lists.db"
    server: RedisServer = request.getfixturevalue("redis_server")
    server.flush()
    return server.url


def run(url: str, work):
    """`await work(store)` on a fresh store of a fresh loop."""

    async def go():
        store = open_lists(url)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(go())


def test_what_was_put_is_got_and_nothing_else(url: str):
    async def work(store: ListStore):
        assert await store.get("u1", "email") is None
        await store.put([("u1", "email", made(1)), ("u1", "homepage", made(2)), ("ü 2", "email", made(3, items=0))])
        return [
            await store.get(*k) for k in (("u1", "email"), ("u1", "homepage"), ("ü 2", "email"), ("ü 2", "homepage"))
        ]

    assert run(url, work) == [made(1), made(2), made(3, items=0), None]


def test_lists_without_codes_are_read_as_they_were_written():
    before = b'[["a","b"],[1.0,0.5],["ease","ease"],"v1",1700000000]'
    assert StoredList.from_bytes(before) == StoredList(["a", "b"], [1.0, 0.5], ["ease"] * 2, "v1", 1_700_000_000)


@pytest.mark.parametrize(
    "odd",
    [b"{}", b"[]", b"7", b"nothing", b'[["a"],["high"],["ease"],"v1",0]', b'[["a"],[null],["ease"],"v1",0]',
     b'[[7],[1.0],["ease"],"v1",0]', b'[["a"],[1.0],[null],"v1",0]', b'[["a"],[1.0],["ease"],null,0]',
     b'[["a"],[1.0],["ease"],"v1","now"]', b'[["a"],[1.0],["ease"],"v1",0,["nine"]]', b'[7,1.0,"ease","v1",0]'],
)  # fmt: skip
def test_what_is_no_list_is_refused(odd: bytes):
    with pytest.raises((ValueError, TypeError)):
        StoredList.from_bytes(odd)


def test_the_newest_list_wins_and_outlives_the_process(url: str):
    run(url, lambda store: store.put([("u", "email", made(1)), ("u", "email", made(2))]))
    run(url, lambda store: store.put([("u", "email", made(3))]))
    assert run(url, lambda store: store.get("u", "email")) == made(3)


def test_a_reader_sees_what_is_written_while_it_is_open(url: str):
    async def work(store: ListStore):
        other = open_lists(url)
        await other.put([("u", "email", made(1))])
        first = await store.get("u", "email")
        await other.put([("u", "email", made(2))])
        await other.close()
        return first, await store.get("u", "email")

    assert run(url, work) == (made(1), made(2))


def test_a_whole_shop_fits_through_one_put(url: str):
    users = [f"u{n}" for n in range(3000)]
    run(url, lambda store: store.put([(user, "email", made(n, items=10)) for n, user in enumerate(users)]))

    # Every fiftieth: a read gives up after 50 ms, which one of thousands may meet on a busy machine.
    async def work(store: ListStore):
        return [await store.get(user, "email") for user in users[::50]], await store.get(users[-1], "email")

    assert run(url, work) == ([made(n, items=10) for n in range(0, 3000, 50)], made(2999, items=10))


def test_forgetting_a_person_leaves_the_others(url: str):
    async def work(store: ListStore):
        await store.put([("a", "email", made(1)), ("a", "homepage", made(2)), ("b", "email", made(3))])
        forgot = await store.forget("a"), await store.forget("a"), await store.forget("nobody")
        return forgot, [await store.get(*k) for k in (("a", "email"), ("a", "homepage"), ("b", "email"))]

    assert run(url, work) == ((True, False, False), [None, None, made(3)])


@pytest.mark.parametrize("url", ["lists.db", "sqlite://lists.db", "sqlite:///", "http://x/0", "redis://", ""])
def test_an_address_that_names_no_store_is_refused(url: str):
    with pytest.raises(InvalidInput, match="names no list store"):
        open_lists(url)


def test_lists_that_nothing_replaces_go_after_a_month(tmp_path: Path):
    clock = [1_000_000.0]
    store = SqliteLists(tmp_path / "lists.db", now=lambda: clock[0])

    async def work():
        await store.put([("old", "email", made(1))])
        clock[0] += KEEP_S + 1
        gone = await store.get("old", "email")
        await store.put([("new", "email", made(2))])
        clock[0] -= KEEP_S
        return gone, await store.get("old", "email"), await store.get("new", "email")

    assert asyncio.run(work()) == (None, None, made(2))


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 1000])
def test_a_damaged_file_is_said_moved_aside_by_the_next_writer_and_mends_for_open_readers(tmp_path: Path, damage):
    path = tmp_path / "lists.db"

    async def work():
        reader, writer = SqliteLists(path), SqliteLists(path)
        await writer.put([(f"u{n}", "email", made(n)) for n in range(500)])
        assert await reader.get("u1", "email") == made(1)
        await reader.close()
        path.with_name("lists.db-wal").unlink(missing_ok=True)
        path.write_bytes(damage)
        with pytest.raises(Unavailable, match=r"lists\.db cannot be read"):
            await reader.get("u1", "email")
        await writer.put([("u1", "email", made(7))])
        found = await reader.get("u1", "email")
        await reader.close()
        return found

    assert asyncio.run(work()) == made(7)
    assert len(list(tmp_path.glob("lists.db.corrupt-*"))) == (1 if damage else 0)


def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path):
    import sqlite3

    async def work():
        store = SqliteLists(tmp_path / "lists.db")
        await store.put([("u", "email", made(1))])
        busy = sqlite3.connect(tmp_path / "lists.db", isolation_level=None)
        busy.execute("BEGIN EXCLUSIVE")
        start = time.perf_counter()
        found = await store.get("u", "email")
        busy.close()
        return found, time.perf_counter() - start

    found, seconds = asyncio.run(work())
    assert found == made(1) and seconds < 0.5


@pytest.mark.serving
@pytest.mark.parametrize("fault", ["stop", "hang"])
def test_without_its_server_redis_says_so_quickly_and_comes_back_by_itself(redis_server: RedisServer, fault: str):
    redis_server.flush()

    async def work():
        store = open_lists(redis_server.url)
        await store.put([("u", "email", made(1))])
        getattr(redis_server, fault)()
        try:
            for _ in range(3):
                start = time.perf_counter()
                with pytest.raises(Unavailable, match="does not answer"):
                    await store.get("u", "email")
                assert time.perf_counter() - start < 0.5
            if fault == "stop":
                with pytest.raises(Unavailable):
                    await store.put([("u", "email", made(2))])
        finally:
            redis_server.wake() if fault == "hang" else redis_server.start()
        async with asyncio.timeout(5):
            while True:
                try:
                    await store.put([("u", "email", made(3))])
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
        found = await store.get("u", "email")
        await store.close()
        return found

    assert asyncio.run(work()) == made(3)


def test_no_password_of_redis_stands_in_what_is_said():
    address = "redis://reader:s3cret@127.0.0.1:1/0?client_name=s3cret"

    async def told(answer) -> str:
        with pytest.raises(Unavailable) as error:
            await answer
        return str(error.value)

    for answer in (open_lists(address).get("u", "email"), open_live(address).load(["u"], 0)):
        said = asyncio.run(told(answer))
        assert "redis://127.0.0.1:1/0 does not answer" in said and "s3cret" not in said
