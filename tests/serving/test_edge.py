"""The fast path over real sockets, in front of KServe's real app."""

from __future__ import annotations

import asyncio
import json
import logging
import time

import httpx
import pytest
from kserve import Model
from prometheus_client import REGISTRY

from longtail.errors import InvalidInput, Unavailable
from longtail.yaml_model import parse_yaml
from serving.edge.app import PREDICT, Edge
from serving.edge.guard import Guard, GuardConfig
from serving.edge.keys import digest_of
from tests.serving.live_app import connect, kserve_app, live


class Sayer(Model):
    """Does what the body says: echo, be wrong, be down, break."""

    def __init__(self) -> None:
        super().__init__("recommender")
        self.ready = True
        self.started = 0

    async def answer(self, body: bytes) -> bytes:
        self.started += 1
        if body == b"wrong":
            raise InvalidInput("instances[0].k: too small")
        if body == b"down":
            raise Unavailable("no bundle yet")
        if body == b"break":
            raise ZeroDivisionError("a mistake")
        if body == b"slow":
            await asyncio.sleep(0.3)
        return b'{"size": %d}' % len(body)

    async def predict(self, payload, headers=None):
        return {"predictions": [payload]}


@pytest.fixture(scope="module")
def edge():
    guard = Guard(parse_yaml("max_body_bytes: 100000\nbody_timeout_s: 0.5", GuardConfig))
    with live(Edge(kserve_app(Sayer()), Sayer(), guard)) as url:
        yield url


def raw(url: str, sent: bytes, shut: bool = False) -> bytes:
    """What comes back for these bytes until the connection closes; `shut`: nothing more will be sent."""
    with connect(url) as line:
        line.sendall(sent)
        if shut:
            line.shutdown(1)
        got = b""
        while chunk := line.recv(65536):
            got += chunk
        return got


def head(length: int | None = None, *more: bytes, path: str = PREDICT) -> bytes:
    size = [b"Content-Length: %d" % length] if length is not None else []
    lines = [f"POST {path} HTTP/1.1".encode(), b"Host: edge", *size, *more]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def test_a_body_comes_whole_with_a_length_or_in_chunks(edge):
    def chunks():
        for _ in range(10):
            yield b"x" * 7000

    with httpx.Client(base_url=edge) as client:
        assert client.post(PREDICT, content=b"x" * 70_000).json() == {"size": 70_000}
        answer = client.post(PREDICT, content=chunks())
    assert answer.json() == {"size": 70_000} and answer.headers["content-type"] == "application/json"
    assert len(answer.headers["x-request-id"]) == 32


def test_an_error_is_one_line_of_json_and_the_connection_goes_on(edge):
    with connect(edge) as line:
        for body, code, message in [
            (b"wrong", b"400", b"instances[0].k"), (b"down", b"503", b"no bundle yet"),
            (b"break", b"500", b"internal error"), (b"fine", b"200", b"size"),
        ]:  # fmt: skip
            line.sendall(head(len(body)) + body)
            answer = line.recv(65536)
            while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
                answer += line.recv(65536)
            assert answer.split()[1] == code and message in answer and b"connection: close" not in answer


def test_what_nobody_expected_is_counted_and_its_traceback_logged_once(edge, caplog):
    def count() -> float:
        return REGISTRY.get_sample_value("longtail_edge_errors_total", {"error": "ZeroDivisionError"}) or 0

    before = count()
    guard = Guard(GuardConfig())
    with caplog.at_level(logging.ERROR, "longtail.edge"), live(Edge(kserve_app(Sayer()), Sayer(), guard)) as url:
        for _ in range(3):
            answer = httpx.post(url + PREDICT, content=b"break", headers={"X-Request-Id": "who-1"})
            assert answer.status_code == 500 and "who-1" in answer.json()["error"]
            assert "mistake" not in answer.text  # the inside of the server is not for clients
    assert count() - before == 3
    mine = [r for r in caplog.records if r.name == "longtail.edge"]
    assert len(mine) == 3 and [bool(r.exc_info) for r in mine] == [True, False, False]
    assert all("who-1" in r.getMessage() for r in mine)


def test_pipelined_requests_are_answered_in_order(edge):
    with connect(edge) as line:
        line.sendall(b"".join(head(n) + b"x" * n for n in (1, 2, 3)) + head(0, b"Connection: close"))
        got = b""
        while chunk := line.recv(65536):
            got += chunk
    assert [int(part.split(b"}")[0]) for part in got.split(b'{"size": ')[1:]] == [1, 2, 3, 0]


def test_a_body_over_the_limit_hears_413_before_it_is_sent(edge):
    with connect(edge) as line:
        line.sendall(head(100_001))
        assert b" 413 " in line.recv(65536)
    answer = raw(edge, head(1 << 40))
    assert b" 413 " in answer and b"connection: close" in answer


def test_a_client_that_sends_all_of_a_long_body_first_still_hears_413_and_may_go_on(edge):
    with httpx.Client(base_url=edge) as client:
        assert client.post(PREDICT, content=b"x" * 5_000_000).status_code == 413
        assert client.post(PREDICT, content=b"x").status_code == 200

        def chunks():
            for _ in range(1000):
                yield b"x" * 10_000

        answer = client.post(PREDICT, content=chunks())
        assert answer.status_code == 413 and "100000 bytes" in answer.json()["error"]


def test_a_body_that_stops_half_way_is_408(edge):
    begin = time.monotonic()
    answer = raw(edge, head(10) + b"x")
    assert b" 408 " in answer and time.monotonic() - begin < 4


def test_a_client_that_waits_for_100_continue_is_told_to_go_on_or_not_to(edge):
    with connect(edge) as line:
        line.sendall(head(5, b"Expect: 100-continue"))
        assert b"100 Continue" in line.recv(65536)
        line.sendall(b"hello")
        assert b'{"size": 5}' in line.recv(65536)
    with connect(edge) as line:
        line.sendall(head(200_000, b"Expect: 100-continue"))
        assert b" 413 " in line.recv(65536)


def test_clients_that_leave_at_any_moment_harm_nobody(edge, caplog):
    for sent in (head(10), head(10) + b"x", head(4) + b"slow", head(None, b"Transfer-Encoding: chunked") + b"5\r\nab"):
        for _ in range(5):
            with connect(edge) as line:
                line.sendall(sent)
    time.sleep(0.5)
    assert httpx.post(edge + PREDICT, content=b"x").status_code == 200
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        head(None, b"Content-Length: x"),
        head(None, b"Content-Length: 1", b"Content-Length: 2"),
        head(None, b"Transfer-Encoding: chunked") + b"zz\r\n",
    ],
)
def test_what_is_not_http_is_400_and_no_more(edge, sent):
    assert b" 400 " in raw(edge, sent, shut=True)
    assert httpx.post(edge + PREDICT, content=b"x").status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_told_which_one_it_takes(edge, method):
    answer = httpx.request(method, edge + PREDICT)
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"


def test_everything_else_is_answered_by_kserve(edge):
    with httpx.Client(base_url=edge) as client:
        assert client.get("/nowhere").status_code == 404
        assert client.post("/v1/models/other:predict", json={}).status_code == 404
        assert client.get("/v2/models/recommender/ready").json()["ready"] is True
        assert "longtail_refused_total" in client.get("/metrics").text
        assert client.get("/v2").headers["x-request-id"]
        assert client.post("/v2/models/recommender/infer", content=b"x" * 100_001).status_code == 413


def test_keys_hold_for_the_fast_path_and_for_kserve_alike():
    config = f'keys: [{{name: shop, sha256: "{digest_of(b"secret")}"}}]\nrate: {{per_second: 0.001, burst: 3}}'
    with live(Edge(kserve_app(Sayer()), Sayer(), Guard(parse_yaml(config, GuardConfig)))) as url:
        good = {"X-API-Key": "secret"}
        assert httpx.post(url + PREDICT, content=b"x").status_code == 401
        assert httpx.post(url + "/v2/models/recommender/infer", json={}).status_code == 401
        assert httpx.get(url + "/v2/models/recommender/ready").status_code == 200
        codes = [httpx.post(url + PREDICT, content=b"x", headers=good).status_code for _ in range(4)]
        assert codes == [200, 200, 200, 429]
        assert int(httpx.post(url + PREDICT, content=b"x", headers=good).headers["retry-after"]) > 100
        assert httpx.get(url + "/v2/models/recommender/ready").status_code == 200


def test_a_request_in_flight_is_answered_when_the_server_stops():
    with live(Edge(kserve_app(Sayer()), Sayer(), Guard(GuardConfig()))) as url:
        line = connect(url)
        line.sendall(head(4) + b"slow")
        time.sleep(0.1)
    with line:
        assert json.loads(line.recv(65536).split(b"\r\n\r\n")[1]) == {"size": 4}
