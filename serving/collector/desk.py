"""Many requests, one write: whatever waits is stored together, and each request hears when its events are safe."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from longtail.errors import LongtailError, Unavailable
from longtail.events.spool import Row, SpoolFull
from longtail.features.live import LiveEvent
from longtail.metrics import COLLECTOR_COMMIT_ROWS, COLLECTOR_COMMIT_SECONDS, COLLECTOR_ERRORS, COLLECTOR_PENDING
from serving.collector.feed import Feed
from serving.collector.log import say, told

GROUP = 5000


class Sink(Protocol):
    """Where events are safe: the spool, or Kafka."""

    async def store(self, rows: Sequence[Row]) -> list[bool]:
        """Durable when it returns; for each row whether it was new.

        Raises:
            SpoolFull: there is no room now.
            Unavailable: it does not work now. In either case some rows may be stored: sending all again is safe.
        """

    async def tend(self) -> None:
        """Upkeep, once a second: never raises, says what fails."""

    def trouble(self) -> str | None:
        """Why events cannot be taken now, None where they can."""

    async def close(self) -> None:
        """Finish what was begun."""


@dataclass
class _Waiting:
    rows: Sequence[Row]
    live: Sequence[LiveEvent | None]
    stored: asyncio.Future[list[bool]]


class Desk:
    """Takes events for `sink`, at most `pending` at a time, and tells `feed` of them before anyone hears of success."""

    def __init__(self, sink: Sink, feed: Feed, pending: int) -> None:
        self._sink, self._feed, self._limit = sink, feed, pending
        self._waiting: list[_Waiting] = []
        self._pending = 0
        self._more = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._work(), name="desk")

    async def take(self, rows: Sequence[Row], live: Sequence[LiveEvent | None]) -> list[bool]:
        """Store the rows; for each whether it was new.

        Raises:
            SpoolFull: too many events wait already, or the sink is full.
            Unavailable: the sink does not work.
        """
        if self._closing:
            raise Unavailable("the collector is stopping")
        if self._pending and self._pending + len(rows) > self._limit:
            raise SpoolFull(f"{self._pending:,} events wait to be written")
        waiting = _Waiting(rows, live, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._count(len(rows))
        self._more.set()
        return await waiting.stored

    async def close(self) -> None:
        """Store what waits, then stop."""
        self._closing = True
        self._more.set()
        await self._task

    async def _work(self) -> None:
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._more.clear()
                await self._more.wait()
                continue
            group = self._next()
            await self._store(group)
            self._count(-sum(len(w.rows) for w in group))

    def _next(self) -> list[_Waiting]:
        taken, size = 0, 0
        for waiting in self._waiting:
            if taken and size + len(waiting.rows) > GROUP:
                break
            taken, size = taken + 1, size + len(waiting.rows)
        group, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return group

    async def _store(self, group: list[_Waiting]) -> None:
        """Never raises: a request that nobody answers would wait for ever."""
        rows = [row for waiting in group for row in waiting.rows]
        start = time.perf_counter()
        try:
            new = await self._sink.store(rows)
            COLLECTOR_COMMIT_SECONDS.observe(time.perf_counter() - start)
            COLLECTOR_COMMIT_ROWS.observe(len(rows))
            # Events told again are passed on as well: the first time may have died before the feed.
            await self._feed.tell([event for waiting in group for event in waiting.live if event is not None])
        except Exception as error:  # noqa: BLE001
            if not isinstance(error, LongtailError):
                COLLECTOR_ERRORS.labels(type(error).__name__).inc()
                say("store_failed", logging.ERROR, error=told(error))
                error = Unavailable("the collector could not store this, see its log")
            for waiting in group:
                if not waiting.stored.done():
                    waiting.stored.set_exception(error)
            return
        told = 0
        for waiting in group:
            if not waiting.stored.done():  # done: its client went away
                waiting.stored.set_result(new[told : told + len(waiting.rows)])
            told += len(waiting.rows)

    def _count(self, rows: int) -> None:
        self._pending += rows
        COLLECTOR_PENDING.set(self._pending)
