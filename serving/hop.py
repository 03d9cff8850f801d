"""Calls of the recommender to the servers behind it: the Open Inference Protocol v2 over REST, raw tensors.

Around httptools, and not with a client library or gRPC, which took a tenth of a request's time and cost for themselves
(benchmarks/profiling.md, "The hops").
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import cast

import httptools
import numpy as np

from longtail.errors import InvalidInput, Unavailable
from serving.tensors import JSON_LENGTH, raw_request, read_raw

# A name is looked up again after so long, for servers that came and went. With the five seconds for which CoreDNS
# remembers, that is sooner than one that left stops listening (`pods.leaveSeconds` of the chart).
LOOK_UP_S = 2.0
CONNECT_S = 0.1  # then the next address is tried
SHUN_S = 1.0  # so long an address that could not be connected to, or closed a connection, comes after the others
REST_S = 30.0  # then a connection that rested is closed, before the server or something in between forgets it
SENDS = 2  # of one request at most: one that ends its server must not visit all of them
_NOT_HTTP = (httptools.HttpParserError, httptools.HttpParserUpgrade)
Address = tuple[str, int]
Answer = tuple[int, int, bytes]


class HopFailed(Unavailable):
    """A downstream server did not answer as it should; `cause` is a short label for metrics."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class Hop:
    """Calls to one model of a server at `host:port`, each to the next of the addresses that the host name has.

    It has no deadline of its own: a caller cancels. That closes the connection; our retriever then lets the call go,
    Triton computes it all the same. A call whose connection is closed without an answer is sent once more.

    Raises:
        InvalidInput: `address` is of another form.
    """

    def __init__(self, model: str, address: str) -> None:
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise InvalidInput(f"{address}: must be a host and a port, such as 127.0.0.1:8080")
        self.model, self.address = model, address
        self._head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: {address}\r\n".encode() + JSON_LENGTH
        self._host, self._port = host.strip("[]"), int(port)
        self._connections: _Connections | None = None

    async def __call__(self, arrays: Mapping[str, np.ndarray], version: str | None = None) -> dict[str, np.ndarray]:
        """The answer's arrays, read-only.

        Raises:
            HopFailed: no connection, an error, or an answer of another bundle version.
        """
        # Connections belong to the loop they were made on, and there is none yet when servers are constructed.
        if self._connections is None or self._connections.loop is not asyncio.get_running_loop():
            self._connections = _Connections(self._host, self._port)
        body, length = raw_request(arrays, version)
        head = b"%s: %d\r\ncontent-length: %d\r\n\r\n" % (self._head, length, len(body))
        try:
            status, json_length, answer = await self._connections.exchange((head, body))
        except OSError as error:
            raise self._failed(str(error) or type(error).__name__, "unavailable") from None
        except _NOT_HTTP as error:
            raise self._failed(str(error), "malformed") from None
        if status != HTTPStatus.OK:
            raise self._failed(f"{status} {answer[:200].decode(errors='replace')}", _cause(status))
        try:
            found = read_raw(answer, json_length, "outputs")
        except InvalidInput as error:
            raise self._failed(str(error), "malformed") from None
        if version and found.version != version:
            raise self._failed(f"serves bundle {found.version}, not {version}", "other_bundle")
        return found.arrays

    def _failed(self, said: str, cause: str) -> HopFailed:
        return HopFailed(f"{self.model} at {self.address}: {said}", cause)

    def close(self) -> None:
        """Close the connections of this loop; calls in flight are answered first."""
        connections, self._connections = self._connections, None
        if connections is not None and not connections.loop.is_closed():
            connections.close()


def _cause(status: int) -> str:
    try:
        return HTTPStatus(status).name.lower()
    except ValueError:
        return "unknown"


class _Connections:
    """Connections to the addresses of a host, on the event loop that runs when it is made; they are kept for later."""

    def __init__(self, host: str, port: int) -> None:
        self.loop = asyncio.get_running_loop()
        self._host, self._port = host, port
        self._addresses: list[Address] = []
        self._unknown: OSError | None = None  # why there are none
        self._looked_up = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._kept: dict[Address, list[_Connection]] = defaultdict(list)  # the one that rested longest first
        self._shunned: dict[Address, float] = {}  # until when
        self._turn, self._closed = 0, False

    async def exchange(self, request: Sequence[bytes]) -> Answer:
        """The answer to a request.

        Raises:
            OSError: no address answers.
            HttpParserError, HttpParserUpgrade: what was answered is not HTTP.
        """
        sends = 0
        failed: OSError | None = None
        for address in await self._in_turn():
            rested = self._rested(address)
            while sends < SENDS:
                try:
                    connection = rested or await self._connect(address)
                    sends += 1
                    return await self._over(connection, address, request)
                except OSError as error:
                    failed = error
                if rested is None:
                    break
                rested = None  # a server may close what rests any time: a new one is tried before the next address
        raise failed or self._unknown or ConnectionError("the name has no address")

    async def _in_turn(self) -> list[Address]:
        """All addresses from the next one on, shunned ones last."""
        now = self.loop.time()
        old = now - self._looked_up > (SHUN_S if self._shunned else LOOK_UP_S)
        if (old or not self._addresses) and (self._looking is None or self._looking.done()):
            self._looking = self.loop.create_task(self._look_up())
        if not self._addresses and self._looking is not None:
            await asyncio.shield(self._looking)  # else requests do not wait for it
        if len(self._addresses) < 2:
            return self._addresses
        self._turn = (self._turn + 1) % len(self._addresses)
        order = self._addresses[self._turn :] + self._addresses[: self._turn]
        return sorted(order, key=lambda address: self._shunned.get(address, 0) > now) if self._shunned else order

    async def _look_up(self) -> None:
        try:
            found = await self.loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self._addresses = sorted({(str(sockaddr[0]), int(sockaddr[1])) for *_, sockaddr in found})
        except (OSError, UnicodeError) as error:  # those of before may still answer
            self._unknown = OSError(str(error))
        self._looked_up = now = self.loop.time()
        self._shunned = {a: until for a, until in self._shunned.items() if a in self._addresses and until > now}
        for address, kept in list(self._kept.items()):
            while kept and (address not in self._addresses or now - kept[0].rests_since > REST_S):
                kept.pop(0).close()
            if not kept:
                del self._kept[address]

    def _rested(self, address: Address) -> _Connection | None:
        kept = self._kept[address]
        while kept:
            connection = kept.pop()
            if connection.open:
                return connection
        return None

    async def _connect(self, address: Address) -> _Connection:
        self._shun(address)  # until it is reached
        async with asyncio.timeout(CONNECT_S):
            make = partial(_Connection, partial(self._shun, address))
            _, connection = await self.loop.create_connection(make, *address)
        self._shunned.pop(address, None)
        return connection

    def _shun(self, address: Address) -> None:
        self._shunned[address] = self.loop.time() + SHUN_S

    async def _over(self, connection: _Connection, address: Address, request: Sequence[bytes]) -> Answer:
        try:
            answer = await connection.ask(request)
        except BaseException:
            connection.close()
            raise
        if self._closed:
            connection.close()
        elif connection.open:
            connection.rests_since = self.loop.time()
            self._kept[address].append(connection)
        return answer

    def close(self) -> None:
        self._closed = True
        for kept in self._kept.values():
            while kept:
                kept.pop().close()


class _Connection(asyncio.Protocol):
    """One connection, which carries one request at a time; `on_lost` is called when the other side closes it."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self.open, self.rests_since = True, 0.0
        self._on_lost = on_lost
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Answer] | None = None
        self._json_length, self._parts = 0, list[bytes]()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # that of uvloop is one, and does not say so

    async def ask(self, request: Sequence[bytes]) -> Answer:
        if not self.open:
            raise ConnectionResetError("closed the connection before it was asked")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.writelines(request)
        return await self._answer

    def close(self) -> None:
        self.open = False
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except _NOT_HTTP as error:
            self._fail(error)
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == JSON_LENGTH:
            self._json_length = int(value)

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        status, length, parts = self._parser.get_status_code(), self._json_length, self._parts
        self._json_length, self._parts = 0, []
        if status < HTTPStatus.OK:
            return  # the answer is still to come
        answer, self._answer = self._answer, None
        if answer is None or not self._parser.should_keep_alive():  # nobody asked for it, or it is the last one
            self.close()
        if answer is not None and not answer.done():
            answer.set_result((status, length, parts[0] if len(parts) == 1 else b"".join(parts)))

    def connection_lost(self, _: Exception | None) -> None:
        if self.open:
            self.open = False
            self._on_lost()
        self._fail(ConnectionResetError("closed the connection before it answered"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
