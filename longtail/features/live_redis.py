"""The live store of several machines: Redis, two keys a person."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from longtail.errors import Unavailable
from longtail.features.live import KEEP_EVENTS, KEEP_US, LiveEvent, UserHistory, place_of
from longtail.schema import EVENT_CODE

TIMEOUT_S = 0.05
PREFIX = "longtail:live:"
# Gone or another one: the server has lost what was written to it.
MARK = f"{PREFIX}mark"
PEOPLE_A_CALL = 200
Result = TypeVar("Result")

# KEYS: events by time (sorted set of ids), their content (hash). The field "" of the hash numbers what came in. Whole
# scripts run at once, so a reader never sees one key without the other.
APPEND = """
local new = 0
for i = 4, #ARGV, 3 do
    if redis.call('ZADD', KEYS[1], 'NX', ARGV[i + 1], ARGV[i]) == 1 then
        local n = redis.call('HINCRBY', KEYS[2], '', 1)
        redis.call('HSET', KEYS[2], ARGV[i], n .. ' ' .. ARGV[i + 2])
        new = new + 1
    end
end
local gone = redis.call('ZRANGE', KEYS[1], '-inf', '(' .. ARGV[1], 'BYSCORE')
local many = redis.call('ZRANGE', KEYS[1], 0, -tonumber(ARGV[2]) - 1)
for _, ids in ipairs({gone, many}) do
    for _, id in ipairs(ids) do
        redis.call('ZREM', KEYS[1], id)
        redis.call('HDEL', KEYS[2], id)
    end
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return new
"""
LOAD = """
local ids = redis.call('ZRANGE', KEYS[1], '+inf', ARGV[1], 'BYSCORE', 'REV', 'LIMIT', 0, ARGV[2])
if #ids == 0 then return {} end
return redis.call('HMGET', KEYS[2], unpack(ids))
"""


class RedisLive:
    """A live store at a Redis address; a person's keys live `KEEP_US` after their last event.

    A call that has no answer after `timeout_s` raises `Unavailable`; each call asks anew, so that the store works again
    as soon as the server does. `now` tells microseconds since 1970.
    """

    def __init__(
        self, url: str, *, timeout_s: float = TIMEOUT_S, now: Callable[[], int] = lambda: time.time_ns() // 1000
    ) -> None:
        self.place, self.timeout_s, self._now = place_of(url), timeout_s, now
        self._mark: bytes | None = None
        # One retry, at once: a connection of before the server's restart fails first.
        self._redis = Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 1),
            decode_responses=False,
        )  # fmt: skip

    async def append(self, events: Sequence[LiveEvent]) -> int:
        people: dict[str, list[LiveEvent]] = {}
        for event in events:
            if event.shows_interest:
                people.setdefault(event.user_id, []).append(event)
        users, new = list(people), 0
        for start in range(0, len(users), PEOPLE_A_CALL):
            asked = [self._append(user, people[user]) for user in users[start : start + PEOPLE_A_CALL]]
            new += sum(await self._all(APPEND, asked))
        return new

    async def load(self, user_ids: Sequence[str], since: int, last: int = 100) -> list[UserHistory]:
        if not user_ids:
            return []
        found = await self._all(LOAD, [(user, [since, last]) for user in user_ids])
        return [UserHistory.of_live(_rows(values)) for values in found]

    async def forget(self, user_id: str) -> bool:
        return bool(await self._in_time(self._redis.delete(*_keys(user_id))))

    async def tend(self) -> bool:
        # Old and superfluous events go when a person's next event comes, whole people when their keys expire.
        mine = uuid.uuid4().hex.encode()
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.set(MARK, mine, nx=True)
            pipeline.get(MARK)
            _, found = await self._in_time(pipeline.execute())
        anew = found == mine or (self._mark is not None and found != self._mark)
        self._mark = found
        return anew

    async def close(self) -> None:
        await self._redis.aclose()

    def _append(self, user: str, events: Sequence[LiveEvent]) -> tuple[str, list]:
        arguments: list = [self._now() - KEEP_US, KEEP_EVENTS, KEEP_US // 1000]
        for e in events:
            content = [e.item_id, e.time, EVENT_CODE[e.event_type], e.quantity, e.session_id]
            arguments += [e.event_id, e.time, json.dumps(content)]
        return user, arguments

    async def _all(self, script: str, asked: Sequence[tuple[str, list]]) -> list:
        """The script's answer for each person, in one round trip."""
        # EVAL and not EVALSHA: the text is short, and a server that restarted has forgotten its scripts.
        async with self._redis.pipeline(transaction=False) as pipeline:
            for user, arguments in asked:
                pipeline.eval(script, 2, *_keys(user), *arguments)
            return await self._in_time(pipeline.execute())

    async def _in_time(self, answer: Awaitable[Result]) -> Result:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await answer
        except (RedisError, OSError, TimeoutError) as error:
            cause = str(error) or f"no answer in {self.timeout_s * 1000:.0f} ms"
            raise Unavailable(f"the live store {self.place} does not answer: {cause}") from error


def _keys(user: str) -> tuple[bytes, bytes]:
    # The braces keep both keys of a person on one node of a cluster; hex keeps braces out of the id.
    name = user.encode("utf-8", "surrogatepass").hex()
    return f"{PREFIX}{{{name}}}:time".encode(), f"{PREFIX}{{{name}}}:data".encode()


def _rows(values: Sequence[bytes]) -> list[tuple[str, int, int, float, str | None]]:
    found = []
    for value in values:
        n, content = value.split(b" ", 1)
        found.append((int(n), *json.loads(content)))
    found.sort(key=lambda row: (row[2], row[0]))
    return [row[1:] for row in found]
