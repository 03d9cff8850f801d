"""The live store's writer: it hears of every stored event, and catches up after the store was away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from longtail.errors import LongtailError
from longtail.features.live import LiveEvent, LiveStore
from longtail.metrics import COLLECTOR_LIVE_BEHIND, COLLECTOR_LIVE_FAILURES
from serving.collector.log import say

BACKLOG = 50_000
AT_ONCE = 1000
FILL_AGAIN_S = 10.0


class Feed:
    """Passes events on to `store`. The store is a cache: what it does not take waits here, and no sender hears of it.

    `recent(lost)` gives stored events to tell again: at start those that a crash may have kept from the store, with
    `lost`, when the store was made anew, all of late.
    """

    def __init__(self, store: LiveStore, recent: Callable[[bool], Iterable[list[LiveEvent]]]) -> None:
        self._store, self._recent = store, recent
        self._backlog: deque[LiveEvent] = deque(maxlen=BACKLOG)
        self._filling: asyncio.Task | None = None
        self._unfilled: bool | None = None
        self._fill_after = 0.0
        self._down = False

    @property
    def behind(self) -> int:
        """Events that the live store has not taken yet."""
        return len(self._backlog)

    async def tell(self, events: Sequence[LiveEvent]) -> None:
        """Pass events on; those that the store does not take now are kept for the next `tend`."""
        if not events:
            return
        if self._backlog or not await self._append(events):
            self._backlog.extend(events)  # the oldest fall out: a live store is about what is new
            COLLECTOR_LIVE_BEHIND.set(len(self._backlog))

    async def tend(self) -> None:
        """The store's upkeep; then what it has not taken yet."""
        try:
            if await self._store.tend():
                say("live_store_made_anew", logging.WARNING)
                self.fill(lost=True)
            elif self._unfilled is not None and time.monotonic() > self._fill_after:
                self.fill(self._unfilled)
        except LongtailError as error:
            self._failed(error)
            return
        while self._backlog:
            some = [self._backlog.popleft() for _ in range(min(AT_ONCE, len(self._backlog)))]
            if not await self._append(some):
                room = BACKLOG - len(self._backlog)
                self._backlog.extendleft(reversed(some[len(some) - min(room, len(some)) :]))
                return
            COLLECTOR_LIVE_BEHIND.set(len(self._backlog))

    def fill(self, lost: bool = False) -> None:
        """Begin to tell the store of recent events again; it takes each once."""
        if self._filling is not None:
            self._filling.cancel()
        self._unfilled = None
        self._filling = asyncio.create_task(self._fill(lost), name="fill")

    async def close(self) -> None:
        """Pass on what waits, if the store takes it now."""
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.gather(self._filling, return_exceptions=True)
        await self.tend()
        await self._store.close()

    async def _fill(self, lost: bool) -> None:
        chunks: Iterator[list[LiveEvent]] = iter(self._recent(lost))
        told = 0
        try:
            while (events := await asyncio.to_thread(next, chunks, None)) is not None:
                for start in range(0, len(events), AT_ONCE):
                    if not await self._append(events[start : start + AT_ONCE]):
                        self._unfilled, self._fill_after = lost, time.monotonic() + FILL_AGAIN_S
                        return
                    told += len(events[start : start + AT_ONCE])
        except (LongtailError, OSError) as error:
            COLLECTOR_LIVE_FAILURES.inc()
            say("live_store_not_filled", logging.ERROR, error=str(error), events=told)
            return
        if told:
            say("live_store_filled", events=told)

    async def _append(self, events: Sequence[LiveEvent]) -> bool:
        try:
            await self._store.append(events)
        except LongtailError as error:
            self._failed(error)
            return False
        if self._down:
            self._down = False
            say("live_store_back", behind=len(self._backlog))
        return True

    def _failed(self, error: LongtailError) -> None:
        COLLECTOR_LIVE_FAILURES.inc()
        if not self._down:
            self._down = True
            say("live_store_failed", logging.ERROR, error=str(error))
