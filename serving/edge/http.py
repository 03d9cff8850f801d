"""What the raw ASGI parts share: answers as JSON, bodies read with a limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import orjson

from longtail.metrics import REFUSED

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

REQUEST_ID = b"x-request-id"
JSON, RAW = b"application/json", b"application/octet-stream"
CLOSE: Header = (b"connection", b"close")
# How much of a refused body is still read, so that a client that sends before it listens hears the answer.
DRAIN_BYTES, DRAIN_S = 64 << 20, 2.0


class Refusal(Exception):
    """A request that gets no further: status, reason for people, and what to count it as."""

    def __init__(self, status: int, reason: str, kind: str, headers: tuple[Header, ...] = ()) -> None:
        super().__init__(reason)
        self.status, self.reason, self.kind, self.headers = status, reason, kind, headers


class ClientGone(Exception):
    """The client closed the connection before its body was whole: nobody is left to answer."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """The value of a request's header, by its name in lower case."""
    return next((value for given, value in scope["headers"] if given == name), None)


async def respond(
    send: Send, status: int, body: bytes, request_id: bytes,
    content_type: bytes = JSON, headers: Sequence[Header] = (),
) -> None:  # fmt: skip
    """One whole response."""
    await send(_start(status, len(body), request_id, content_type, headers))
    await send({"type": "http.response.body", "body": body})


async def refuse(refusal: Refusal, receive: Receive, send: Send, request_id: bytes) -> None:
    """Answer `{"error": reason}` and count it; a body that may be still on its way is read on for a moment."""
    REFUSED.labels(refusal.kind).inc()
    body = orjson.dumps({"error": refusal.reason})
    closes = CLOSE in refusal.headers
    await send(_start(refusal.status, len(body), request_id, JSON, refusal.headers))
    await send({"type": "http.response.body", "body": body, "more_body": closes})
    if closes:
        # Closing on unread data would make the kernel reset the connection, and the client lose this answer.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await _drain(receive)
        await send({"type": "http.response.body", "body": b""})


class Body:
    """The body of one request as it comes in: at most `limit` bytes, all of them within `timeout_s`."""

    def __init__(self, receive: Receive, limit: int, timeout_s: float) -> None:
        self._receive, self._limit, self._timeout_s = receive, limit, timeout_s
        self._deadline: float | None = None
        self.size, self.whole = 0, False

    async def next(self) -> Message:
        """The next ASGI message.

        Raises:
            Refusal: 413 as soon as the body is longer, 408 when it does not come.
        """
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._timeout_s
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            reason = f"body: did not arrive within {self._timeout_s:g} s"
            raise Refusal(408, reason, "slow", (CLOSE,)) from None
        more = message["type"] == "http.request" and message.get("more_body", False)
        self.whole = not more
        self.size += len(message.get("body", b""))
        if self.size > self._limit:
            raise too_large(self._limit, closes=more)
        return message

    async def read(self) -> bytes:
        """All of it.

        Raises:
            Refusal: as `next`.
            ClientGone: the connection closed before the end.
        """
        parts: list[bytes] = []
        while not self.whole:
            message = await self.next()
            if message["type"] != "http.request":
                raise ClientGone
            parts.append(message.get("body", b""))
        return parts[0] if len(parts) == 1 else b"".join(parts)


def too_large(limit: int, closes: bool = False) -> Refusal:
    """The 413; `closes` where the rest of the body is not worth reading."""
    return Refusal(413, f"body: longer than {limit} bytes", "size", (CLOSE,) if closes else ())


def _start(status: int, length: int, request_id: bytes, content_type: bytes, headers: Sequence[Header]) -> Message:
    known = [(b"content-type", content_type), (b"content-length", b"%d" % length)]
    named = [(REQUEST_ID, request_id)] if request_id else []
    return {"type": "http.response.start", "status": status, "headers": [*known, *named, *headers]}


async def _drain(receive: Receive) -> None:
    left = DRAIN_BYTES
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
