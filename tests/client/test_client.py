"""The client against the real edge on a real socket, with stalls and refusals where a test wants them."""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from longtail.client import AsyncClient, Client, Event, Refused
from longtail.errors import InvalidInput, Unavailable
from longtail.yaml_model import parse_yaml
from serving.edge.app import Edge
from serving.edge.guard import Guard, GuardConfig
from serving.edge.http import respond
from serving.edge.keys import digest_of
from serving.process import free_port
from tests.serving.live_app import live


async def whole(receive) -> bytes:
    """A body, however many pieces it comes in."""
    body, more = b"", True
    while more:
        piece = await receive()
        body, more = body + piece.get("body", b""), piece.get("more_body", False)
    return body


class Shop:
    """A recommender that stalls or fails as told, and a collector that counts each id once."""

    def __init__(self) -> None:
        self.stalls: list[float] = []
        self.codes: list[int] = []
        self.bodies: list[dict] = []
        self.given_up = 0
        self.stored: set[str] = set()
        self.headers: list[tuple[bytes, bytes]] = []

    async def answer(self, body: bytes) -> bytes:
        asked = json.loads(body)["instances"]
        self.bodies.append(asked[0])
        try:
            await asyncio.sleep(self.stalls.pop(0) if self.stalls else 0)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if asked[0].get("surface") == "nowhere":
            raise InvalidInput("instances[0].surface: nowhere is none of homepage, cart")
        return json.dumps({"predictions": [self.made(a, len(self.bodies)) for a in asked]}).encode()

    def made(self, asked: dict, nth: int) -> dict:
        items = [{"item_id": f"i{n}", "score": 1 - n / 10, "source": "ease", "reason": "r"} for n in range(3)]
        return {
            "request_id": str(nth),
            "items": items,
            "model_version": "v1",
            "variant": "a",
            "level": "full",
            "new": 1,
        }

    async def inner(self, scope, receive, send):
        if scope["path"] != "/v1/events":
            return await respond(send, 404, b'{"error": "not here"}', b"id")
        events = json.loads(await whole(receive))["events"]
        fine = [e for e in events if e.get("item_id")]
        new = {e["event_id"] for e in fine} - self.stored
        self.stored |= new
        rejected = [
            {"index": n, "event_id": e["event_id"], "reason": "item_id: missing"}
            for n, e in enumerate(events)
            if not e.get("item_id")
        ]
        answer = {"accepted": len(new), "duplicates": len(fine) - len(new), "rejected": rejected}
        return await respond(send, 200 if fine else 400, json.dumps(answer).encode(), b"id")

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and self.codes:
            await receive()
            code = self.codes.pop(0)
            return await respond(send, code, b'{"error": "told to"}', b"id", headers=self.headers)
        return await self.edge(scope, receive, send)


@pytest.fixture
def shop():
    found = Shop()
    found.edge = Edge(found.inner, found, Guard(GuardConfig()))
    with live(found) as url:
        found.url = url
        yield found


def test_a_list_comes_typed(shop):
    with Client(shop.url) as client:
        found = client.recommend(user_id="u1", surface="cart", k=3, context={"items": ["i9"]})
    assert [i.item_id for i in found.items] == ["i0", "i1", "i2"] and found.items[0].propensity == 1.0
    assert (found.level, found.model_version, found.variant, found.made) == ("full", "v1", "a", "live")
    assert found.raw["new"] == 1
    assert shop.bodies == [{"user_id": "u1", "surface": "cart", "k": 3, "context": {"items": ["i9"]}}]


def test_many_lists_in_one_call_and_a_guest(shop):
    async def go():
        async with AsyncClient(shop.url) as client:
            many = await client.recommend_many([{"user_id": "a"}, {"user_id": "b"}])
            await client.recommend()
            return many

    assert len(asyncio.run(go())) == 2 and shop.bodies[-1] == {"surface": "homepage"}


def test_what_the_caller_did_wrong_is_told_at_once_in_the_servers_words(shop):
    with Client(shop.url) as client, pytest.raises(InvalidInput, match="nowhere is none of homepage, cart"):
        client.recommend(surface="nowhere")
    assert len(shop.bodies) == 1  # asking again would not help


@pytest.mark.parametrize("code", [429, 502, 503, 504])
def test_a_passing_failure_is_asked_again(shop, code):
    shop.codes = [code, code]
    with Client(shop.url, retries=2) as client:
        assert client.recommend().level == "full"
    shop.codes = [code, code]
    with Client(shop.url, retries=1) as client, pytest.raises(Unavailable, match=f"{code}: told to"):
        client.recommend()


def test_retry_after_is_waited_for_but_never_beyond_the_deadline(shop):
    shop.codes, shop.headers = [429], [(b"retry-after", b"1")]
    with Client(shop.url, timeout_s=3) as client:
        begin = time.monotonic()
        assert client.recommend().level == "full"
        assert 1 <= time.monotonic() - begin < 2
    shop.codes, shop.headers = [429], [(b"retry-after", b"60")]
    with Client(shop.url, timeout_s=3) as client, pytest.raises(Unavailable, match="429"):
        begin = time.monotonic()
        client.recommend()
    assert time.monotonic() - begin < 1


def test_the_deadline_holds_over_all_tries(shop):
    shop.stalls = [5, 5, 5]
    begin = time.monotonic()
    with Client(shop.url, timeout_s=0.3, retries=5) as client, pytest.raises(Unavailable, match=r"within 0\.3 s"):
        client.recommend()
    assert time.monotonic() - begin < 1


def test_a_server_that_is_not_there_is_one_clear_error():
    with Client(f"http://127.0.0.1:{free_port()}", timeout_s=1) as client, pytest.raises(Unavailable):
        client.recommend()


def test_a_server_that_comes_up_within_the_deadline_is_found(shop):
    port = free_port()

    async def go():
        async with AsyncClient(f"http://127.0.0.1:{port}", timeout_s=10, retries=50) as client:
            asked = asyncio.create_task(client.recommend())
            await asyncio.sleep(0.3)
            with socket.create_server(("127.0.0.1", port)) as listener:
                listener.setblocking(False)
                line, _ = await asyncio.get_running_loop().sock_accept(listener)
                with line:
                    answer = json.dumps({"predictions": [shop.made({}, 1)]}).encode()
                    line.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)
                    return await asked

    assert asyncio.run(go()).level == "full"


def test_a_late_answer_is_asked_for_a_second_time_and_the_second_wins(shop):
    shop.stalls = [2.0, 0.0]
    with Client(shop.url, hedge_after_s=0.05, timeout_s=3) as client:
        begin = time.monotonic()
        found = client.recommend()
        took = time.monotonic() - begin
    assert found.request_id == "2" and 0.05 <= took < 1 and len(shop.bodies) == 2


def test_the_first_wins_where_the_second_is_later_still(shop):
    shop.stalls = [0.2, 2.0]
    with Client(shop.url, hedge_after_s=0.05, timeout_s=3) as client:
        begin = time.monotonic()
        client.recommend()
        assert time.monotonic() - begin < 1


def test_a_quick_answer_is_never_asked_for_twice(shop):
    with Client(shop.url, hedge_after_s=0.5) as client:
        for _ in range(20):
            client.recommend()
    assert len(shop.bodies) == 20


def test_a_second_request_that_fails_leaves_the_first_its_time(shop):
    shop.stalls = [0.3]

    async def go():
        async with AsyncClient(shop.url, hedge_after_s=0.05, timeout_s=3, retries=0) as client:
            asked = asyncio.create_task(client.recommend())
            await asyncio.sleep(0.03)
            shop.codes = [503]
            return await asked

    assert asyncio.run(go()).request_id == "1"


def test_hedging_cuts_the_tail(shop):
    """Every tenth answer stalls: without a hedge that is the 95th percentile, with one it is not."""

    def p95(hedge: float | None) -> float:
        times = []
        with Client(shop.url, hedge_after_s=hedge, timeout_s=5) as client:
            client.recommend()
            for n in range(40):
                shop.stalls = [0.3, 0.0] if n % 10 == 9 else []
                begin = time.monotonic()
                client.recommend()
                times.append(time.monotonic() - begin)
        return statistics.quantiles(times, n=20)[-1]

    without, hedged = p95(None), p95(0.05)
    assert without > 0.25 and hedged < without / 2


def test_the_loser_of_a_hedge_does_not_hold_a_connection(shop):
    async def go():
        async with AsyncClient(shop.url, hedge_after_s=0.02, timeout_s=3) as client:
            for _ in range(5):
                shop.stalls = [1.0, 0.0]
                await client.recommend()
            pool = client._http._transport._pool
            return len(pool.connections)

    assert asyncio.run(go()) <= 2


def test_keys(shop):
    key = "lt_secret"
    config = f'keys: [{{name: shop, sha256: "{digest_of(key.encode())}"}}]'
    shop.edge = Edge(shop.inner, shop, Guard(parse_yaml(config, GuardConfig)))
    with Client(shop.url, key=key) as client:
        assert client.recommend().level == "full"
    with Client(shop.url) as client, pytest.raises(Refused, match="API key is needed"):
        client.recommend()


def test_events_get_ids_and_times_and_count_once(shop):
    clicked = Event("i1", "click", user_id="u1", request_id="r", position=0)
    assert clicked.event_id != Event("i1", "click").event_id
    with Client(shop.url, events_url=shop.url) as client:
        first = client.send_events([clicked, {"item_id": "i2", "event_type": "view", "user_id": "u1"}])
        assert (first.accepted, first.duplicates) == (2, 0)
        again = client.send_events([clicked])
        assert (again.accepted, again.duplicates) == (0, 1)
        sent = clicked.as_json()
        assert datetime.fromisoformat(sent["timestamp"]).tzinfo is not None and "value" not in sent


def test_rejected_events_are_named_by_their_place_in_what_was_sent(shop):
    events = [Event(f"i{n}", "view") for n in range(700)] + [{"item_id": "", "event_type": "view", "event_id": "bad"}]
    with Client(shop.url, events_url=shop.url) as client:
        receipt = client.send_events(events)
        assert receipt.accepted == 700
        assert [(r.index, r.event_id) for r in receipt.rejected] == [(700, "bad")]
        assert client.send_events([{"item_id": "", "event_type": "view"}]).rejected  # none was right: still told why
        assert client.send_events([]) == type(receipt)(0, 0)


def test_events_sent_twice_after_a_failure_count_once(shop):
    shop.codes = [503]
    with Client(shop.url, events_url=shop.url) as client:
        assert client.send_events([Event("i1", "click", timestamp=datetime(2024, 5, 1, tzinfo=UTC))]).accepted == 1


def test_a_client_without_a_collector_says_so(shop):
    with Client(shop.url) as client, pytest.raises(InvalidInput, match="events_url"):
        client.send_events([Event("i1", "click")])


def test_a_stranger_on_the_port_is_told_apart(shop):
    with Client(shop.url + "/elsewhere") as client, pytest.raises(InvalidInput, match="not there"):
        client.recommend()


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", ""])
def test_what_is_no_address_is_told_before_anything_is_sent(url):
    with pytest.raises(InvalidInput, match="address"):
        Client(url)


def test_a_closed_client_says_so(shop):
    client = Client(shop.url)
    client.close()
    client.close()
    with pytest.raises(InvalidInput, match="closed"):
        client.recommend()


def test_it_can_be_imported_where_nothing_of_the_recommender_is_wanted():
    code = (
        "import sys, longtail.client\n"
        "heavy = {'numpy', 'pandas', 'pyarrow', 'pydantic', 'kserve', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
