"""The collector as its senders and its operators see it."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from longtail.errors import InvalidInput, Unavailable
from longtail.features.live import open_live
from longtail.identity import Pseudonymiser, guest_id
from longtail.monitoring.exposition import write_metrics
from longtail.monitoring.signal import Signal
from serving.collector.config import CollectorConfig
from serving.collector.server import bound, build
from tests.features.redis_server import RedisServer, why_no_redis
from tests.serving.collector_process import KEY, CollectorProcess, sealed, stored

pytestmark = pytest.mark.serving
PSEUDONYMS = Pseudonymiser(KEY.encode())
SEALS_NOW = {"seal": {"every_s": 0.2}}


def event(n: object, **columns: object) -> dict[str, Any]:
    base = {"event_id": f"e{n}", "user_id": f"shopper-{n}", "item_id": "i1", "event_type": "click"}
    return {**base, **columns}


def live(state: Path, user: str) -> list[str]:
    """The items of a person in the live store."""

    async def load() -> list[str]:
        store = open_live(f"sqlite://{state}/live.db")
        try:
            return (await store.load([user], 0))[0].item_id.tolist()
        finally:
            await store.close()

    return asyncio.run(load())


def until(check, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CollectorProcess]:
    with CollectorProcess(tmp_path_factory.mktemp("collector") / "state", {"limits": {"batch": 50}}) as process:
        yield process


def test_one_event_and_many_each_counted_once(collector: CollectorProcess):
    assert collector.post(event("one"))[:2] == (200, {"accepted": 1, "duplicates": 0, "rejected": []})
    batch = [event("one"), event("two"), event("two"), event("three")]
    assert collector.post(batch)[:2] == (200, {"accepted": 2, "duplicates": 2, "rejected": []})


def test_every_row_has_its_verdict(collector: CollectorProcess):
    events = [
        event("v1"), event("v2", event_type="wish"), {**event("v3"), "event_id": None}, "no event",
        event("v4", value="3"), event("v5"),
    ]  # fmt: skip
    status, answer, _ = collector.post(events)
    assert status == 200 and (answer["accepted"], answer["duplicates"]) == (2, 0)
    assert answer["rejected"] == [
        {"index": 1, "event_id": "ev2", "reason": "event_type is unknown"},
        {"index": 2, "event_id": None, "reason": "event_id is missing"},
        {"index": 3, "event_id": None, "reason": "an event is an object with named values"},
        {"index": 4, "event_id": "ev4", "reason": "value is not a number"},
    ]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "not valid JSON"),
        (b"{", 400, "not valid JSON"),
        (b"[]", 400, "one event as an object"),
        (b"3", 400, "one event as an object"),
        (b'{"events": {}}', 400, "at least one"),
        (b'{"events": []}', 400, "at least one"),
        (b'{"events": [{}]}', 400, "event_id is missing"),
        (b'{"event_id": "x"}', 400, "item_id is missing"),
        (b'{"event_id": "\xff"}', 400, "not valid JSON"),
        (b'{"events":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "JSON"),
        (json.dumps({"events": [event(n) for n in range(51)]}).encode(), 413, "split"),
        (b" " * (1 << 20) + b"{}", 413, "longer than"),
    ],
)
def test_a_body_that_makes_no_sense_is_refused_with_a_reason(
    collector: CollectorProcess, body: bytes, status: int, says: str
):
    got, answer, headers = collector.post(body)
    assert got == status and says in json.dumps(answer) and headers["x-request-id"]


def test_other_paths_and_methods(collector: CollectorProcess):
    assert collector.ask("GET", "/v1/events")[0] == 405
    assert collector.ask("POST", "/v1/other", {})[0] == 404
    assert collector.ask("GET", "/healthz")[0] == 200
    assert collector.ask("GET", "/readyz")[1]["ready"] is True
    assert collector.post(event("id"), **{"X-Request-Id": "mine-7"})[2]["x-request-id"] == "mine-7"
    metrics = collector.ask("GET", "/metrics")[1]
    assert 'longtail_collector_events_total{verdict="accepted"}' in metrics and "longtail_spool_events" in metrics


def test_what_monitoring_found_is_told_with_the_metrics(tmp_path: Path):
    file = tmp_path / "monitoring" / "monitor.prom"
    with CollectorProcess(tmp_path / "state", flags=("--findings", str(file))) as process:
        assert "longtail_monitor" not in process.ask("GET", "/metrics")[1]  # nothing was checked so far
        found = [
            Signal("ctr", "homepage", "2024-03-01", 0.01, 0.02, "warning", True, "fewer clicks", 0.001),
            Signal("index_age", "", "2024-03-01", 1.0, 7.0, "warning", False, "young enough"),
        ]
        write_metrics(file, found, 10**12, 2 * 10**12)
        told = process.ask("GET", "/metrics")[1]
        assert 'longtail_monitor_fired{check="ctr",part="homepage",severity="warning"} 1.0' in told
        assert 'longtail_monitor_fired{check="index_age",part="",severity="warning"} 0.0' in told
        assert "longtail_monitor_run_seconds 2e+06" in told
        file.write_text("not { metrics")
        told = process.ask("GET", "/metrics")[1]
        assert "longtail_monitor" not in told and "longtail_collector_events_total" in told


def test_the_next_read_of_the_live_store_knows_the_click(collector: CollectorProcess):
    collector.post(event("l1", user_id="ann", item_id="lamp", session_id="s1"))
    collector.post([event("l2", user_id=None, item_id="rug", session_id="s2"), event("l3", event_type="impression")])
    assert live(collector.state, PSEUDONYMS.of("ann")) == ["lamp"]
    assert live(collector.state, guest_id(PSEUDONYMS.of("s2", "session"))) == ["rug"]
    assert live(collector.state, PSEUDONYMS.of("shopper-l3")) == []


def test_what_is_stored_holds_no_id_of_the_shop(tmp_path: Path):
    names = {"user_id": "ann@example.org", "session_id": "session-4711", "device_id": "imei-0815"}
    now = time.time()
    with CollectorProcess(tmp_path / "state", SEALS_NOW) as collector:
        sent = event("p", **names, value=2, position=0, colour="red", timestamp="2024-10-03T10:00:00Z")
        assert collector.post(sent)[0] == 200
        until(lambda: sealed(collector.state))
        collector.post({**sent, "event_id": "later", "timestamp": None})
    for file in tmp_path.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not [name for name in names.values() if name.encode() in content], file
    (row,) = (row for row in sealed(collector.state) if row["event_id"] == "ep")
    assert row["user_id"] == PSEUDONYMS.of(names["user_id"]) and len(row["device_id"]) == 32
    assert row["session_id"] == PSEUDONYMS.of(names["session_id"], "session")
    assert json.loads(row["extra"]) == {"colour": "red"} and (row["value"], row["position"]) == (2.0, 0)
    assert abs(row["received_at"].timestamp() - now) < 60 and row["timestamp"].year == 2024
    assert (collector.state / "events" / "date=2024-10-03").is_dir()
    assert stored(collector.state) == {"ep": 1, "later": 1}


def test_a_stop_finishes_what_was_taken(tmp_path: Path):
    with CollectorProcess(tmp_path / "state") as collector:
        answers: list[int] = []

        def send(sender: int) -> None:
            for n in range(1000):
                try:
                    answers.append(collector.post([event(f"{sender}-{n}-{k}") for k in range(5)])[0])
                except (OSError, http.client.HTTPException):
                    return

        senders = [threading.Thread(target=send, args=(k,)) for k in range(4)]
        for sender in senders:
            sender.start()
        until(lambda: len(answers) > 40)
        assert collector.process is not None
        collector.process.send_signal(signal.SIGTERM)
        assert collector.process.wait(60) == 0
        for sender in senders:
            sender.join()
    kept = stored(collector.state)
    assert set(kept.values()) == {1} and len(kept) >= 5 * answers.count(200) > 0
    assert set(answers) <= {200, 503}
    assert [line["event"] for line in collector.lines()] == ["started", "sealed", "stopped"]
    assert len(sealed(collector.state)) == len(kept), "what was taken lies where an import reads it"


def test_a_full_spool_says_when_to_come_back_and_loses_nothing(tmp_path: Path):
    config = {"limits": {"spool_mb": 0.01, "free_mb": 0}, "seal": {"every_s": 1.5}}
    with CollectorProcess(tmp_path / "state", config) as collector:
        accepted, refused = [], 0
        deadline = time.monotonic() + 60
        n = 0
        while time.monotonic() < deadline and (refused == 0 or len(accepted) < 100):
            status, _, headers = collector.post(event(n))
            if status == 200:
                accepted.append(f"e{n}")
                n += 1
            else:
                assert status == 429 and int(headers["retry-after"]) >= 1
                refused += 1
                time.sleep(0.1)
        assert refused and len(accepted) >= 100
    assert stored(collector.state) == dict.fromkeys(accepted, 1)


def test_a_full_disk_is_429_and_not_ready_until_there_is_room(tmp_path: Path):
    with CollectorProcess(tmp_path / "state", {"limits": {"free_mb": 2**40}}) as collector:
        status, answer, headers = collector.post(event(0))
        assert status == 429 and "disk" in answer["error"] and headers["retry-after"]
        status, answer, _ = collector.ask("GET", "/readyz")
        assert status == 503 and "disk" in answer["trouble"]
        assert "store_failed" in [line["event"] for line in collector.lines()]
    assert stored(collector.state) == {}


def test_too_many_waiting_events_are_turned_away_and_the_others_kept(tmp_path: Path):
    with CollectorProcess(tmp_path / "state", {"limits": {"pending": 20}}) as collector:

        def send(n: int) -> tuple[int, dict[str, str]]:
            status, _, headers = collector.post([event(f"{n}-{k}") for k in range(10)])
            return status, headers

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(send, range(300)))
    statuses = {status for status, _ in answers}
    assert statuses <= {200, 429} and 200 in statuses
    assert all("retry-after" in headers for status, headers in answers if status == 429)
    kept = stored(collector.state)
    for n, (status, _) in enumerate(answers):
        assert [kept[f"e{n}-{k}"] for k in range(10)] == [1 if status == 200 else 0] * 10


def test_a_broken_live_store_is_made_anew_and_filled_again(tmp_path: Path):
    with CollectorProcess(tmp_path / "state", SEALS_NOW) as collector:
        collector.post(event(1, user_id="ann", item_id="lamp"))
        until(lambda: sealed(collector.state))
        collector.post(event(2, user_id="ann", item_id="rug"))
        with sqlite3.connect(collector.state / "live.db") as store:
            store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (collector.state / "live.db").write_bytes(b"\xa5" * 8192)
        until(lambda: "live_store_filled" in [line["event"] for line in collector.lines()])
        assert collector.post(event(3, user_id="ann", item_id="cup"))[0] == 200
        assert sorted(live(collector.state, PSEUDONYMS.of("ann"))) == ["cup", "lamp", "rug"]
        assert len(list(collector.state.glob("live.db.corrupt-*"))) == 1


def test_a_redis_that_comes_back_empty_is_filled_again(tmp_path: Path):
    if cause := why_no_redis():
        pytest.skip(cause)

    def known(url: str) -> int:
        async def load() -> int:
            store = open_live(url)
            try:
                return len((await store.load([PSEUDONYMS.of("ann")], 0))[0])
            except Unavailable:
                return -1
            finally:
                await store.close()

        return asyncio.run(load())

    with RedisServer() as redis, CollectorProcess(tmp_path / "state", SEALS_NOW, ("--live", redis.url)) as collector:
        collector.post(event(1, user_id="ann"))
        until(lambda: known(redis.url) == 1 and sealed(collector.state))
        redis.stop()
        assert collector.post(event(2, user_id="ann"))[0] == 200
        assert collector.ask("GET", "/readyz")[0] == 200
        redis.start()
        until(lambda: known(redis.url) == 2, 30)


def test_events_that_a_crash_kept_from_the_live_store_reach_it_at_the_next_start(tmp_path: Path):
    with CollectorProcess(tmp_path / "state") as collector:
        collector.post(event(1, user_id="ann", item_id="lamp"))
        collector.kill()
        with sqlite3.connect(collector.state / "live.db") as store:
            store.execute("DELETE FROM live")
        collector.start()
        until(lambda: live(collector.state, PSEUDONYMS.of("ann")) == ["lamp"])


def test_keys_and_rates_are_the_guard_s(tmp_path: Path):
    from serving.edge.keys import digest_of

    guard = tmp_path / "guard.yaml"
    guard.write_text(f"keys:\n- {{name: shop, sha256: {digest_of(b'secret')}}}\nrate: {{per_second: 0.1, burst: 3}}\n")
    with CollectorProcess(tmp_path / "state", flags=("--guard", str(guard))) as collector:
        assert collector.post(event(0))[0] == 401
        statuses = [collector.post(event(n), Authorization="Bearer secret")[0] for n in range(4)]
        assert statuses == [200, 200, 200, 429]
        assert collector.ask("GET", "/readyz")[0] == 200


def test_two_collectors_never_share_a_folder(tmp_path: Path):
    with CollectorProcess(tmp_path / "state") as collector:
        second = CollectorProcess(collector.state)
        with pytest.raises(RuntimeError, match="another process"):
            second.start()


def test_a_port_that_is_taken_or_is_none_is_said_in_one_line():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(InvalidInput, match="cannot listen on 127.0.0.1 port .*in use"):
            bound("127.0.0.1", other.getsockname()[1])
    with pytest.raises(InvalidInput, match="0-65535"):
        bound("127.0.0.1", 65536)


def test_a_state_folder_that_cannot_be_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LONGTAIL_PSEUDONYM_KEY", KEY)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="--state .*file"):
        build(tmp_path / "file", CollectorConfig(), None, None, None)


def test_a_mistake_in_the_configuration_names_line_and_key(tmp_path: Path):
    file = tmp_path / "collector.yaml"
    file.write_text("limits:\n  batch: 0\n")
    with pytest.raises(InvalidInput, match=r"line 2: limits\.batch"):
        CollectorConfig.load(file)
    file.write_text("sink: kafka\n")
    with pytest.raises(InvalidInput, match="kafka.servers"):
        CollectorConfig.load(file)
