"""Calls of the recommender to the servers behind it: tensors over kept connections, HTTP/1.1 by hand.

A library's client does much that two servers of ours need not: of a request's time, that was more than retrieval.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from longtail.errors import InvalidInput, Unavailable
from serving.tensors import JSON_LENGTH, VERSION, pack, unpack

_STATUS = re.compile(rb"http/1\.1 (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")
_JSON_LENGTH = re.compile(rb"\r\n" + JSON_LENGTH + rb": *(\d+)")
_CLOSES = b"\r\nconnection: close"


class HopFailed(Unavailable):
    """A downstream server did not answer as it should; `cause` is a short label for metrics."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class _Lost(Exception):
    """The connection ended before the answer was whole."""


class _Connection(asyncio.Protocol):
    """One connection, one call at a time."""

    def __init__(self) -> None:
        self.open = True
        self._transport: Any = None
        self._answer: asyncio.Future[tuple[int, bytearray, int]] | None = None
        self._buffer, self._body_at, self._end = bytearray(), 0, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    async def call(self, parts: list[bytes]) -> tuple[int, bytearray, int]:
        """(status, body, length of its JSON) of the answer.

        Raises:
            _Lost: the connection ended first.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self._buffer, self._end = bytearray(), 0
        if not self.open:
            raise _Lost
        self._transport.writelines(parts)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.close()  # an answer that comes too late must not be taken for that of the next call
            raise

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._end:
            head_end = self._buffer.find(b"\r\n\r\n")
            if head_end < 0:
                return None
            self._head = bytes(self._buffer[:head_end]).lower()
            length = _LENGTH.search(self._head)
            if length is None or _STATUS.match(self._head) is None:
                return self._fail()
            self._body_at = head_end + 4
            self._end = self._body_at + int(length[1])
        if len(self._buffer) < self._end:
            return None
        status, json_length = _STATUS.match(self._head), _JSON_LENGTH.search(self._head)
        if _CLOSES in self._head:
            self.close()
        if self._answer is not None and not self._answer.done() and status is not None:
            body = self._buffer[self._body_at : self._end]
            self._answer.set_result((int(status[1]), body, int(json_length[1]) if json_length else len(body)))
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self._fail()

    def close(self) -> None:
        """End the connection."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    def _fail(self) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_Lost())


class Hop:
    """Calls to one model of a server at `host:port`. No waiting here: deadlines are the caller's, by cancelling."""

    def __init__(self, model: str, address: str) -> None:
        self.model, self.address = model, address
        self._host, _, port = address.removeprefix("http://").rpartition(":")
        self._port = int(port)
        self._head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: {address}\r\n".encode()
        self._idle: list[_Connection] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, arrays: Mapping[str, np.ndarray], version: str | None = None) -> dict[str, np.ndarray]:
        """The answer's arrays, read-only.

        Raises:
            HopFailed: no connection, an error, or an answer of another bundle version.
        """
        parts = pack("inputs", arrays, {"binary_data_output": True, **({VERSION: version} if version else {})})
        length = sum(map(len, parts))
        head = b"%s%s: %d\r\ncontent-length: %d\r\n\r\n" % (self._head, JSON_LENGTH, len(parts[0]), length)
        status, body, json_length = await self._call([head, *parts])
        if status != 200:
            said = body[:200].decode(errors="replace")
            raise HopFailed(f"{self.model} at {self.address}: {status} {said}", f"status_{status}")
        try:
            found, parameters = unpack("outputs", body, json_length)
        except InvalidInput as error:
            raise HopFailed(f"{self.model} at {self.address}: {error}", "malformed") from None
        if version and parameters.get(VERSION) != version:
            raise HopFailed(f"{self.model} serves bundle {parameters.get(VERSION)}, not {version}", "other_bundle")
        return found

    async def _call(self, parts: list[bytes]) -> tuple[int, bytearray, int]:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # connections belong to the loop they were made on
            self._idle, self._loop = [], loop
        while True:
            connection = self._kept()
            fresh = connection is None
            try:
                if connection is None:
                    _, connection = await loop.create_connection(_Connection, self._host, self._port)
                answer = await connection.call(parts)
            except _Lost:
                if not fresh:  # the server had ended it meanwhile, as servers do with idle ones
                    continue
                raise HopFailed(f"{self.model} at {self.address}: hung up", "unavailable") from None
            except OSError as error:
                raise HopFailed(f"{self.model} at {self.address}: {error}", "unavailable") from None
            if connection.open:
                self._idle.append(connection)
            return answer

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    async def close(self) -> None:
        """End the connections, if some were made on this loop."""
        if self._loop is asyncio.get_running_loop():
            for connection in self._idle:
                connection.close()
            self._idle = []
