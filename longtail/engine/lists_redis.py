"""The list store of several machines: Redis, one hash a person with a field for each surface."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from longtail.engine.lists import KEEP_S, Entry, StoredList
from longtail.errors import Unavailable
from longtail.features.live import place_of

TIMEOUT_S = 0.05
WRITE_TIMEOUT_S = 2.0
LISTS_A_CALL = 500
PREFIX = b"longtail:lists:"
Result = TypeVar("Result")


class RedisLists:
    """A list store at a Redis address. Reads wait at most `timeout_s`, and each call asks anew."""

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.place, self.timeout_s = place_of(url), timeout_s
        # One retry, at once: a connection of before the server's restart fails first.
        self._redis = Redis.from_url(
            url, socket_connect_timeout=timeout_s, socket_timeout=WRITE_TIMEOUT_S, retry=Retry(NoBackoff(), 1),
            decode_responses=False,
        )  # fmt: skip

    async def get(self, user: str, surface: str) -> StoredList | None:
        raw: Any = await self._in_time(self._redis.hget(_key(user), surface.encode()), self.timeout_s)
        try:
            return None if raw is None else StoredList.from_bytes(raw)
        except (ValueError, TypeError) as error:
            raise Unavailable(f"the list store {self.place} holds something else for {surface}: {error}") from error

    async def put(self, lists: Sequence[Entry]) -> None:
        for start in range(0, len(lists), LISTS_A_CALL):
            async with self._redis.pipeline(transaction=False) as pipeline:
                for user, surface, found in lists[start : start + LISTS_A_CALL]:
                    pipeline.hset(_key(user), surface.encode(), found.to_bytes())
                    pipeline.expire(_key(user), KEEP_S)
                await self._in_time(pipeline.execute(), WRITE_TIMEOUT_S)

    async def forget(self, user: str) -> bool:
        return bool(await self._in_time(self._redis.delete(_key(user)), WRITE_TIMEOUT_S))

    async def close(self) -> None:
        await self._redis.aclose()

    async def _in_time(self, answer: Awaitable[Result], seconds: float) -> Result:
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except (RedisError, OSError, TimeoutError) as error:
            cause = str(error) or f"no answer in {seconds * 1000:.0f} ms"
            raise Unavailable(f"the list store {self.place} does not answer: {cause}") from error


def _key(user: str) -> bytes:
    return PREFIX + user.encode("utf-8", "surrogatepass")
