"""Who may ask, how often and how much: API keys, rates, sizes and request ids in front of any ASGI app."""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from secrets import token_hex

from longtail.errors import InvalidInput
from longtail.metrics import CONFIG_REFUSED
from longtail.yaml_model import load_yaml
from serving.edge.config import GuardConfig
from serving.edge.failures import Failures
from serving.edge.http import (
    DRAIN_BYTES,
    REQUEST_ID,
    App,
    Body,
    Message,
    Receive,
    Refusal,
    Scope,
    Send,
    refuse,
    respond,
    too_large,
)  # fmt: skip
from serving.edge.keys import Keys
from serving.edge.rate import TokenBuckets

LOOK_EVERY_S = 1.0
_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
logger = logging.getLogger("longtail.edge")


@dataclass(frozen=True, slots=True)
class Entry:
    """A request at the door: its id, who asks (name of the key, or address), and why it goes no further, if so."""

    request_id: bytes
    caller: str
    refusal: Refusal | None


class Guard:
    """Judges requests by their head. Given a file, it follows changes; one that is wrong replaces nothing."""

    def __init__(self, config: GuardConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self._clock = clock
        self._path: Path | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._next_look = math.inf
        self._buckets: TokenBuckets | None = None
        self._use(config, rate_changed=True)

    @classmethod
    def load(cls, path: Path | str | None) -> Guard:
        """The guard of a configuration file; open, with limits on size only, where none is given.

        Raises:
            InvalidInput: the file is unreadable or wrong; the message names line and key.
        """
        if path is None:
            return cls(GuardConfig())
        guard = cls(load_yaml(path, GuardConfig))
        guard._path, guard._stamp, guard._next_look = Path(path), _stamp(Path(path)), 0.0
        return guard

    def check(self, scope: Scope) -> Entry:
        """Let a request in or not, by its headers and its sender; spends one token of the sender's rate."""
        now = self._clock()
        if now >= self._next_look:
            self._look(now)
        request_id = key = b""
        length = 0
        for name, value in scope["headers"]:
            if name == REQUEST_ID and _ID.fullmatch(value):
                request_id = value
            elif name == b"content-length":
                length = int(value) if value.isdigit() else 0
            elif name == b"x-api-key":
                key = value
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                key = value[7:].strip()
        caller, refusal = self._judge(scope, key, length, now)
        return Entry(request_id or token_hex(16).encode(), caller, refusal)

    def _judge(self, scope: Scope, key: bytes, length: int, now: float) -> tuple[str, Refusal | None]:
        if length > self.config.max_body_bytes:
            return "", too_large(self.config.max_body_bytes, closes=length > DRAIN_BYTES)
        if scope["path"] in self._public and scope["method"] in ("GET", "HEAD"):
            return "", None
        return self.admit(key, address_of(scope), now)

    def admit(self, key: bytes, address: str, now: float | None = None) -> tuple[str, Refusal | None]:
        """(caller, refusal or None) of a request with this key from this address."""
        name = self._keys.name_of(key) if self._keys else None
        caller = name or address
        if self._buckets is not None:
            wait = self._buckets.take(caller, self._clock() if now is None else now)
            if wait > 0:
                after = b"%d" % math.ceil(wait)
                reason = f"too many requests, ask again in {wait:.2g} s"
                return caller, Refusal(429, reason, "rate", ((b"retry-after", after),))
        if self._keys and name is None:
            reason = "this API key is not known" if key else "an API key is needed: Authorization: Bearer KEY"
            return caller, Refusal(401, reason, "key", ((b"www-authenticate", b"Bearer"),))
        return caller, None

    def _use(self, config: GuardConfig, rate_changed: bool) -> None:
        if rate_changed:
            self._buckets = TokenBuckets(config.rate.per_second, config.rate.burst) if config.rate else None
        self._keys = Keys({key.name: key.sha256 for key in config.keys})
        self._public = frozenset(config.public)
        self.config = config

    def _look(self, now: float) -> None:
        """Take up a changed file, at most once a second."""
        assert self._path is not None
        self._next_look = now + LOOK_EVERY_S
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            config = load_yaml(self._path, GuardConfig)
            self._use(config, rate_changed=config.rate != self.config.rate)
            logger.info("%s: taken up, %d keys", self._path, len(self.config.keys))
        except InvalidInput as error:
            CONFIG_REFUSED.labels("edge").inc()
            logger.error("not taken up, the former configuration stays: %s", error)


class Guarded:
    """ASGI middleware: only what the guard lets in reaches `app`, with a body of bounded size and time."""

    def __init__(self, app: App, guard: Guard) -> None:
        self.app, self.guard, self.failures = app, guard, Failures()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection; what is not HTTP passes through."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        entry = self.guard.check(scope)
        if entry.refusal is not None:
            return await refuse(entry.refusal, receive, send, entry.request_id)
        return await self.let_in(entry, scope, receive, send)

    async def let_in(self, entry: Entry, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand an admitted request to the app."""
        body = Body(receive, self.guard.config.max_body_bytes, self.guard.config.body_timeout_s)
        late: Refusal | None = None
        started = ended = False

        async def limited() -> Message:
            nonlocal late
            if late is not None:
                return {"type": "http.disconnect"}
            if body.whole:
                return await receive()
            try:
                return await body.next()
            except Refusal as refusal:
                late = refusal
                return {"type": "http.disconnect"}

        async def stamped(message: Message) -> None:
            nonlocal started, ended
            if late is not None and not started:
                return  # the app says that its client went away; the client hears the real reason below
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", ()), (REQUEST_ID, entry.request_id)]}
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, limited, stamped)
        except Exception as error:
            if late is None:
                if started and not ended:
                    raise  # half an answer is out: only closing the connection tells the client so
                # An answer that is whole needs nothing more; raising on would close the connection under it.
                answer = self.failures.told(entry.request_id, error)
                if not started:
                    await respond(send, 500, answer, entry.request_id)
        if late is not None and not started:
            await refuse(late, receive, send, entry.request_id)


def address_of(scope: Scope) -> str:
    """The client's address; IPv6 by its /64, which is what one subscriber gets."""
    client = scope.get("client")
    if not client:
        return "unknown"
    host = str(client[0])
    if ":" not in host:
        return host
    try:
        address = IPv6Address(host)
    except ValueError:
        return host
    return str(address.ipv4_mapped or f"{IPv6Address(int(address) >> 64 << 64)}/64")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
