"""The recommender's calls to the servers behind it, against servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import uvloop
from kserve import InferRequest, InferResponse

from longtail.errors import InvalidInput
from serving import hop as hops
from serving.hop import Hop, HopFailed
from serving.process import free_port
from serving.tensors import arrays_of, raw_request, raw_response, read_raw, version_of

ARRAYS = {
    "item": np.arange(5, dtype=np.int32), "kind": np.array([1, 2, 3], np.int8), "time": np.array([7], np.int64),
    "scores": np.arange(6, dtype=np.float32).reshape(3, 2), "none": np.empty((0, 4), np.float32),
}  # fmt: skip
Arrays = dict[str, np.ndarray]
Serve = Callable[[Arrays], Awaitable[bytes | None]]


def http(body: bytes = b"", length: object = None, status: int = 200, more: str = "") -> bytes:
    """A whole response of a server; `length` of the JSON."""
    said = "" if length is None else f"Inference-Header-Content-Length: {length}\r\n"
    return f"HTTP/1.1 {status} x\r\n{said}{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


def tensors(arrays: Arrays, version: str = "v1") -> bytes:
    return http(*raw_response("m", arrays, version))


async def echo(arrays: Arrays) -> bytes:
    return tensors(arrays)


class Listening:
    """A server that answers with the bytes that `serve` makes, or closes the connection where it makes None."""

    def __init__(self, serve: Serve, port: int = 0, host: str = "127.0.0.1") -> None:
        self.serve, self.port, self.host = serve, port, host
        self.opened = self.answered = 0
        self.open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Listening:
        self.server = await asyncio.start_server(self._connected, self.host, self.port)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        self.hang_up()

    def hang_up(self) -> None:
        for writer in self.open:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.open.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                assert head.startswith("post /v2/models/m/infer http/1.1\r\nhost: ")
                lengths = dict(line.split(": ") for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(lengths["content-length"]))
                said = read_raw(body, int(lengths["inference-header-content-length"]), "inputs")
                asked = asyncio.ensure_future(self.serve(said.arrays))
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait([asked, gone], return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    asked.cancel()
                    break
                gone.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await gone
                answer = asked.result()
                if answer is None:
                    break
                self.answered += 1
                writer.write(answer)
        writer.close()
        self.open.discard(writer)


def against(serve: Serve, ask: Callable[[Hop, Listening], Awaitable[Any]], runner: Callable = asyncio.run) -> Any:
    """What `ask` makes of a hop to a server that answers each call as `serve` does."""

    async def both() -> Any:
        async with Listening(serve) as server:
            hop = Hop("m", f"127.0.0.1:{server.port}")
            try:
                return await asyncio.wait_for(ask(hop, server), 60)
            finally:
                hop.close()

    return runner(both())


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_arrays_travel_both_ways_as_they_are_on_either_loop_over_one_connection(runner: Callable) -> None:
    async def ask(hop: Hop, server: Listening) -> list[Arrays]:
        found = [await hop(ARRAYS, "v1") for _ in range(3)]
        assert server.opened == 1
        return found

    for found in against(echo, ask, runner):
        assert list(found) == list(ARRAYS)
        for name, values in ARRAYS.items():
            np.testing.assert_array_equal(found[name], values)
            assert found[name].dtype == values.dtype and found[name].flags.aligned
            assert not found[name].flags.writeable


def test_what_is_sent_is_the_open_inference_protocol_as_kserve_reads_it() -> None:
    turned = np.arange(6, dtype=np.int64).reshape(2, 3).T
    request = InferRequest.from_bytes(*raw_request({**ARRAYS, "turned": turned}, "v1"), "m")
    for name, values in arrays_of(request).items():
        np.testing.assert_array_equal(values, ARRAYS.get(name, turned))
    assert version_of(request) == "v1" and request.parameters["binary_data_output"] is True
    assert version_of(InferRequest.from_bytes(*raw_request(ARRAYS, None), "m")) is None
    answer = InferResponse.from_bytes(*raw_response("m", ARRAYS, "v1", "7"))
    assert answer.parameters["bundle_version"] == "v1" and answer.id == "7"
    for tensor in answer.outputs:
        np.testing.assert_array_equal(tensor.as_numpy(), ARRAYS[tensor.name])


def test_calls_at_once_get_their_own_answers_of_any_size() -> None:
    async def serve(arrays: Arrays) -> bytes:
        await asyncio.sleep(0.01 * (3 - arrays["n"][0] % 4))  # the later one is answered first
        return tensors({"n": np.repeat(arrays["n"], 2_000_000)})

    async def ask(hop: Hop, server: Listening) -> None:
        for _ in range(2):
            many = await asyncio.gather(*(hop({"n": np.array([n])}) for n in range(4)))
            assert [int(found["n"][-1]) for found in many] == list(range(4)) and server.opened == 4

    against(serve, ask)


def test_an_answer_may_come_in_pieces_and_in_chunks() -> None:
    whole, length = raw_response("m", ARRAYS, "v1")
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (whole[:9], whole[9:])) + b"0\r\n\r\n"
    head = f"HTTP/1.1 200 x\r\ninference-header-content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n"

    async def serve(arrays: Arrays) -> bytes:
        return head.encode() + chunks

    async def ask(hop: Hop, _: Listening) -> None:
        for _ in range(2):
            np.testing.assert_array_equal((await hop(ARRAYS))["scores"], ARRAYS["scores"])

    against(serve, ask)


def test_a_call_that_is_given_up_ends_on_the_server_too_and_the_next_one_is_answered() -> None:
    ended = asyncio.Event()

    async def serve(arrays: Arrays) -> bytes:
        if arrays["n"][0] == 0:
            try:
                await asyncio.sleep(3600)
            finally:
                ended.set()
        return tensors(arrays)

    async def ask(hop: Hop, _: Listening) -> None:
        await hop({"n": np.array([7])})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await hop({"n": np.array([0])})
        assert (await hop({"n": np.array([1])}))["n"][0] == 1
        await ended.wait()

    against(serve, ask)


def test_closing_lets_calls_in_flight_be_answered_and_the_next_call_connects_again() -> None:
    asked = asyncio.Event()

    async def serve(arrays: Arrays) -> bytes:
        asked.set()
        await asyncio.sleep(0.2)
        return tensors(arrays)

    async def ask(hop: Hop, server: Listening) -> None:
        call = asyncio.create_task(hop(ARRAYS))
        await asked.wait()
        hop.close()
        assert (await call)["time"][0] == 7
        await until(lambda: not server.open)
        assert (await hop(ARRAYS))["time"][0] == 7 and server.opened == 2

    against(serve, ask)


def test_a_server_that_was_started_again_is_found_again_at_once() -> None:
    async def both() -> None:
        port = free_port()
        hop = Hop("m", f"127.0.0.1:{port}")
        for _ in range(2):
            with pytest.raises(HopFailed) as failed:
                await hop(ARRAYS)
            assert failed.value.cause == "unavailable"
            async with Listening(echo, port):
                for _ in range(2):
                    await hop(ARRAYS)
        hop.close()

    asyncio.run(both())


def test_a_connection_that_the_server_closed_meanwhile_fails_no_call() -> None:
    async def ask(hop: Hop, server: Listening) -> None:
        for n in range(1, 5):
            await asyncio.gather(*(hop(ARRAYS) for _ in range(n)))
            server.hang_up()  # the client hears of it only now, or when it sends
            if n % 2:
                await until(lambda: not server.open)

    against(echo, ask)

    async def last_words(arrays: Arrays) -> bytes:
        return http(*raw_response("m", arrays, "v1"), more="Connection: close\r\n")

    async def ask_again(hop: Hop, server: Listening) -> None:
        for n in range(3):
            await hop(ARRAYS)
            assert server.opened == n + 1

    against(last_words, ask_again)


@contextlib.asynccontextmanager
async def named(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> AsyncIterator[tuple[Hop, list[str]]]:
    """A hop to a name with these addresses, all at one port; the list may change."""
    found, port = list(hosts), free_port()

    async def getaddrinfo(host: str, at: int, **_: object) -> list[tuple]:
        assert (host, at) == ("shop", port)
        if not found:
            raise socket.gaierror("no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    hop = Hop("m", f"shop:{port}")
    yield hop, found
    hop.close()


def test_all_addresses_of_a_name_take_turns_and_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hops, "SHUN_S", 0.2)
    monkeypatch.setattr(hops, "LOOK_UP_S", 0.4)

    async def go() -> None:
        async with named(monkeypatch, "127.0.0.1", "127.0.0.2") as (hop, addresses):
            port = int(hop.address.split(":")[1])
            async with Listening(echo, port) as one, Listening(echo, port, "127.0.0.2") as two:
                for _ in range(10):
                    await hop(ARRAYS)
                assert (one.answered, two.answered) == (5, 5) and (one.opened, two.opened) == (1, 1)
                async with Listening(echo, port, "127.0.0.3") as three:
                    addresses.append("127.0.0.3")
                    async with asyncio.timeout(30):
                        while not three.answered:  # found without anybody's closing a connection
                            await hop(ARRAYS)
                            await asyncio.sleep(0.05)
                # The third, then the second, are gone with their connections, but not from the name: no call fails.
                two.server.close()
                two.hang_up()
                for _ in range(20):
                    await hop(ARRAYS)
                    await asyncio.sleep(0.02)
                addresses[:] = ["127.0.0.1"]
                before = one.answered
                await asyncio.sleep(0.5)
                for _ in range(4):
                    await hop(ARRAYS)
                    await asyncio.sleep(0.05)
                assert one.answered == before + 4
                addresses.clear()  # nobody answers for names any more: those of before are asked
                await asyncio.sleep(0.5)
                for _ in range(4):
                    await hop(ARRAYS)
                    await asyncio.sleep(0.05)

    asyncio.run(go())


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def test_a_server_that_takes_connections_and_drops_them_costs_no_call_where_there_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hops, "SHUN_S", 0.02)

    async def go() -> None:
        async with named(monkeypatch, "127.0.0.1", "127.0.0.2") as (hop, _):
            port = int(hop.address.split(":")[1])
            drops = await asyncio.start_server(hang_up, "127.0.0.2", port)
            async with drops, Listening(echo, port) as good:
                for n in range(20):
                    await hop(ARRAYS)
                    assert good.answered == n + 1
                    await asyncio.sleep(0.01)

    asyncio.run(go())


def test_a_request_that_ends_its_servers_visits_two_of_them_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    visited = []

    async def dies(arrays: Arrays) -> None:
        visited.append(arrays)

    async def go() -> None:
        hosts = [f"127.0.0.{n}" for n in range(1, 6)]
        async with named(monkeypatch, *hosts) as (hop, _), contextlib.AsyncExitStack() as servers:
            for host in hosts:
                await servers.enter_async_context(Listening(dies, int(hop.address.split(":")[1]), host))
            with pytest.raises(HopFailed) as failed:
                await hop(ARRAYS)
            assert failed.value.cause == "unavailable" and len(visited) == 2

    asyncio.run(go())


def test_what_rests_for_long_is_closed_before_the_server_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hops, "LOOK_UP_S", 0.1)
    monkeypatch.setattr(hops, "REST_S", 0.5)

    async def serve(arrays: Arrays) -> bytes:
        await asyncio.sleep(0.05)
        return tensors(arrays)

    async def ask(hop: Hop, server: Listening) -> None:
        await asyncio.gather(*(hop(ARRAYS) for _ in range(8)))
        assert len(server.open) == 8
        async with asyncio.timeout(30):
            while len(server.open) > 1:
                await hop(ARRAYS)
        assert server.opened == 8

    against(serve, ask)


def test_first_calls_look_a_name_up_together(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = []

    async def go() -> None:
        async with named(monkeypatch, "127.0.0.1") as (hop, _):
            loop = asyncio.get_running_loop()
            plain = loop.getaddrinfo

            async def slow(*given: Any, **more: Any) -> list[tuple]:
                looked_up.append(given)
                await asyncio.sleep(0.05)
                return await plain(*given, **more)

            monkeypatch.setattr(loop, "getaddrinfo", slow)
            async with Listening(echo, int(hop.address.split(":")[1])):
                await asyncio.gather(*(hop(ARRAYS) for _ in range(20)))
        assert len(looked_up) == 1

    asyncio.run(go())


def test_closing_after_its_loop_has_ended_is_quiet() -> None:
    async def go() -> Hop:
        async with Listening(echo) as server:
            hop = Hop("m", f"127.0.0.1:{server.port}")
            await hop(ARRAYS)
        return hop

    hop = asyncio.run(go())
    hop.close()
    with pytest.raises(HopFailed):  # and it may be asked again, on another loop
        asyncio.run(hop(ARRAYS))


def test_a_name_that_nobody_knows_is_a_cause_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        async with named(monkeypatch) as (hop, addresses):
            for _ in range(2):
                with pytest.raises(HopFailed, match="no such name") as failed:
                    await hop(ARRAYS)
                assert failed.value.cause == "unavailable"
            addresses.append("127.0.0.1")
            async with Listening(echo, int(hop.address.split(":")[1])):
                assert (await hop(ARRAYS))["time"][0] == 7

    asyncio.run(go())


def body_of(*outputs: dict, raw: bytes = b"12345678", **more: object) -> bytes:
    head = json.dumps({"outputs": list(outputs), "parameters": {"bundle_version": "v1"}, **more}).encode()
    return http(head + raw, len(head))


def one(**changes: object) -> dict:
    return {"name": "n", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}, **changes}


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (http(b'{"error": "busy"}', status=503), "service_unavailable"),
        (http(b"no", status=400), "bad_request"),
        (http(status=299), "unknown"),
        (b"HTTP/1.1 101 x\r\nupgrade: ws\r\nconnection: upgrade\r\n\r\n", "malformed"),
        (b"HTTP/1.1 103 x\r\nlink: a\r\n\r\n" + http(status=503), "service_unavailable"),
        (None, "unavailable"),
        (b"nonsense\r\n\r\n", "malformed"),
        (http(b"{}", "soon"), "malformed"),
        (http(b"{}"), "malformed"),
        (http(b"{}", 2), "malformed"),
        (http(b"[]", 2), "malformed"),
        (http(b'{"outputs": 7}', 14), "malformed"),
        (body_of(one(), raw=b"1234567"), "malformed"),
        (body_of(one(), raw=b"123456789"), "malformed"),
        (body_of(one(shape=[2**62, 2**62])), "malformed"),
        (body_of(one(shape=[-1])), "malformed"),
        (body_of(one(shape=["1"])), "malformed"),
        (body_of(one(shape=7)), "malformed"),
        (body_of(one(datatype="BYTES")), "malformed"),
        (body_of(one(datatype=[])), "malformed"),
        (body_of(one(name=[])), "malformed"),
        (body_of(one(parameters={})), "malformed"),
        (body_of(one(parameters={"binary_data_size": "8"})), "malformed"),
        (body_of(one(parameters={"binary_data_size": -8})), "malformed"),
        (body_of({"name": "n", "datatype": "INT64", "shape": [1], "data": [7]}, raw=b""), "malformed"),
        (body_of(one(), parameters=[7]), "malformed"),
        (body_of(one(), parameters={"bundle_version": ["v1"]}), "malformed"),
        (body_of(one(), id=7), "malformed"),
        (body_of(one(), parameters={}), "other_bundle"),
        (tensors(ARRAYS, "another"), "other_bundle"),
    ],
)
def test_whatever_a_server_says_is_an_answer_or_a_cause(answer: bytes | None, cause: str) -> None:
    async def serve(arrays: Arrays) -> bytes | None:
        return answer if arrays["n"][0] else tensors(arrays)

    async def ask(hop: Hop, _: Listening) -> None:
        for _ in range(2):
            with pytest.raises(HopFailed) as failed:
                await hop({"n": np.array([1])}, "v1")
            assert failed.value.cause == cause
            await hop({"n": np.array([0])}, "v1")  # and the next call is answered

    against(serve, ask)


def test_what_nobody_asked_for_is_nobodys_answer() -> None:
    async def serve(arrays: Arrays) -> bytes:
        return tensors(arrays) + tensors({"n": np.array([666])})

    async def ask(hop: Hop, server: Listening) -> None:
        for n in range(5):
            assert (await hop({"n": np.array([n])}))["n"][0] == n
            await asyncio.sleep(0.01)
            assert server.opened == n + 1

    against(serve, ask)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "a..b:80"])
def test_nobody_at_the_address_is_a_cause_and_not_the_end(address: str) -> None:
    async def ask() -> None:
        hop = Hop("m", address)
        for _ in range(2):
            with pytest.raises(HopFailed) as failed:
                await hop(ARRAYS)
            assert failed.value.cause == "unavailable"
        hop.close()

    asyncio.run(ask())


@pytest.mark.parametrize(
    "address", ["", "shop", ":8080", "shop:", "shop:http", "shop:0", "shop:99999", "shop:²", "dns:///shop:80"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput, match="must be a host and a port"):
        Hop("m", address)
