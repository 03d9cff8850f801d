"""The recommender's calls to the servers behind it, against servers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from longtail.errors import InvalidInput
from serving.hop import Hop, HopFailed
from serving.tensor_path import TensorPath
from serving.tensors import JSON_LENGTH, pack, unpack

ARRAYS = {
    "item": np.arange(5, dtype=np.int32), "kind": np.array([1, 2, 3], np.int8), "time": np.array([7], np.int64),
    "scores": np.arange(6, dtype=np.float32).reshape(3, 2), "none": np.empty((0, 4), np.float32),
}  # fmt: skip
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def request(reader: asyncio.StreamReader) -> tuple[bytes, dict[str, np.ndarray]]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
    json_length = int(head.split(JSON_LENGTH + b": ")[1].split(b"\r\n")[0])
    return head, unpack("inputs", await reader.readexactly(length), json_length)[0]


def answer(arrays: dict[str, np.ndarray], version: str = "v1", more: str = "") -> bytes:
    parts = pack("outputs", arrays, {"bundle_version": version})
    body = b"".join(parts)
    head = f"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: {len(parts[0])}\r\n{more}Content-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def against(serve: Serve, ask: Callable[[Hop], Awaitable[object]]) -> object:
    """What `ask` makes of a hop to a server that treats each connection as `serve` does."""

    async def both() -> object:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        hop = Hop("m", f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        try:
            return await asyncio.wait_for(ask(hop), 30)
        finally:
            await hop.close()
            server.close()

    return asyncio.run(both())


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while not reader.at_eof():
        try:
            _, arrays = await request(reader)
        except asyncio.IncompleteReadError:
            break
        whole = answer(arrays)
        for start in range(0, len(whole), 50):  # an answer may come in any pieces
            writer.write(whole[start : start + 50])
            await writer.drain()
            await asyncio.sleep(0)
    writer.close()


def test_arrays_travel_both_ways_as_they_are() -> None:
    async def ask(hop: Hop) -> list[dict[str, np.ndarray]]:
        return [await hop(ARRAYS, "v1") for _ in range(3)]

    for found in against(echo, ask):
        assert list(found) == list(ARRAYS)
        for name, values in ARRAYS.items():
            np.testing.assert_array_equal(found[name], values)
            assert found[name].dtype == values.dtype and found[name].flags.aligned
            assert not found[name].flags.writeable


def test_one_connection_serves_calls_one_after_the_other_and_several_at_once_get_their_own() -> None:
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await echo(reader, writer)

    async def ask(hop: Hop) -> None:
        for _ in range(5):
            await hop(ARRAYS)
        assert len(connections) == 1
        many = await asyncio.gather(*(hop({"n": np.array([n])}) for n in range(8)))
        assert [int(found["n"][0]) for found in many] == list(range(8)) and len(connections) <= 8

    against(serve, ask)


def test_a_connection_that_the_server_ended_meanwhile_is_replaced() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, arrays = await request(reader)
        writer.write(answer(arrays))  # and then it hangs up without a word
        writer.close()

    async def ask(hop: Hop) -> None:
        for n in range(6):
            assert (await hop({"n": np.array([n])}))["n"][0] == n
            await asyncio.sleep(0.01 * (n % 2))

    against(serve, ask)


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _, arrays = await request(reader)
            if arrays["n"][0] == 0:
                await asyncio.sleep(0.2)
            writer.write(answer(arrays))

    async def ask(hop: Hop) -> None:
        await hop({"n": np.array([7])})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await hop({"n": np.array([0])})
        await asyncio.sleep(0.3)
        assert (await hop({"n": np.array([1])}))["n"][0] == 1

    against(serve, ask)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (b"", "unavailable"),
        (b"HTTP/1.1 503 no\r\ncontent-length: 2\r\n\r\nno", "status_503"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "unavailable"),
        (b"nonsense\r\n\r\n", "unavailable"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nno json", "malformed"),
        (answer({}, "another"), "other_bundle"),
    ],
)
def test_whatever_a_server_says_is_an_answer_or_a_cause(said: bytes, cause: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(said)
        writer.close()

    async def ask(hop: Hop) -> None:
        with pytest.raises(HopFailed) as failed:
            await hop(ARRAYS, "v1")
        assert failed.value.cause == cause

    against(serve, ask)


def test_nobody_at_the_address_is_a_cause_and_not_the_end() -> None:
    async def ask(hop: Hop) -> None:
        for _ in range(2):
            with pytest.raises(HopFailed) as failed:
                await Hop("m", "127.0.0.1:1")(ARRAYS)
            assert failed.value.cause == "unavailable"

    against(echo, ask)


class Sums:
    name = "m"

    async def propose(self, arrays, version):
        if "item" not in arrays:
            raise InvalidInput("item: is missing")
        if version == "broken":
            raise RuntimeError("a mistake")
        return {"sum": np.array([arrays["item"].sum()])}, version or "v1"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (pack("inputs", ARRAYS, {}), 200),
        (pack("inputs", {"other": np.zeros(1, np.int64)}, {}), 400),
        (pack("inputs", ARRAYS, {"bundle_version": "broken"}), 500),
        ([b'{"inputs": 3}'], 400),
        ([b"[]"], 400),
        ([pack("inputs", ARRAYS, {})[0]], 400),
        ([*pack("inputs", ARRAYS, {}), b"more"], 400),
    ],
)
def test_the_quick_way_into_a_server_answers_or_says_what_is_wrong(body: list[bytes], status: int) -> None:
    sent: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b"".join(body)}

    async def send(message: dict) -> None:
        sent.append(message)

    async def inner(*_: object) -> None:
        raise AssertionError("not for KServe")

    scope = {"type": "http", "method": "POST", "path": "/v2/models/m/infer",
             "headers": [(JSON_LENGTH, b"%d" % len(body[0]))]}  # fmt: skip
    asyncio.run(TensorPath(inner, Sums())(scope, receive, send))
    assert sent[0]["status"] == status
    if status == 200:
        length = int(dict(sent[0]["headers"])[JSON_LENGTH])
        found, parameters = unpack("outputs", sent[1]["body"], length)
        assert found["sum"][0] == ARRAYS["item"].sum() and parameters == {"bundle_version": "v1"}
    else:
        assert b"error" in sent[1]["body"]
