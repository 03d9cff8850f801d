"""Events into this machine's spool, sealed into Parquet now and then."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import orjson

from longtail.errors import LongtailError
from longtail.events import sealing
from longtail.events.spool import Row, Spool
from longtail.features.live import LiveEvent
from longtail.metrics import SPOOL_BYTES, SPOOL_ROWS, SPOOL_SEAL_FAILURES, SPOOL_SEAL_SECONDS, SPOOL_SEALED
from longtail.schema import DAY_US
from serving.collector.config import SealConfig
from serving.collector.intake import live_event
from serving.collector.log import say, told

RETRY_S = 5.0
REFILL_US = 2 * DAY_US
LIVE_COLUMNS = ("event_id", "user_id", "item_id", "event_type", "timestamp", "session_id", "value", "quantity")
Result = TypeVar("Result")


class SpoolSink:
    """Writes and seals in threads of their own, so that requests never wait for a seal."""

    def __init__(self, spool: Spool, seal: SealConfig) -> None:
        self.spool, self._config = spool, seal
        self._writer, self._sealer = ThreadPoolExecutor(1, "spool"), ThreadPoolExecutor(1, "seal")
        self._sealing: asyncio.Task | None = None
        self._next_seal, self._not_before = time.monotonic() + seal.every_s, 0.0
        self._trouble: str | None = None
        self._told_aside = 0

    async def store(self, rows: Sequence[Row]) -> list[bool]:
        return await self._in_writer(lambda: self.spool.write(rows))

    async def _in_writer(self, work: Callable[[], Result]) -> Result:
        try:
            done = await asyncio.get_running_loop().run_in_executor(self._writer, work)
        except LongtailError as error:
            if self._trouble is None:
                say("store_failed", logging.ERROR, error=str(error))
            self._trouble = str(error)
            raise
        if self._trouble is not None:
            self._trouble = None
            say("store_back")
        return done

    async def tend(self) -> None:
        SPOOL_ROWS.set(self.spool.rows)
        SPOOL_BYTES.set(self.spool.bytes)
        for aside in self.spool.moved_aside[self._told_aside :]:
            self._told_aside += 1
            say("spool_damaged", logging.ERROR, moved_to=aside, note="what could be read of it was taken over")
        if self._trouble is not None:
            # Nobody may be sending now: find out whether it would work.
            await asyncio.gather(self._in_writer(self.spool.try_writing), return_exceptions=True)
        if self._sealing is not None and not self._sealing.done():
            return
        now = time.monotonic()
        if now >= self._next_seal or (self.spool.rows >= self._config.rows and now >= self._not_before):
            self._sealing = asyncio.create_task(self.seal(), name="seal")
        else:
            await self._in_sealer("forget_failed", self.spool.forget_ids)

    async def seal(self) -> None:
        """Seal what is unsealed; a failure is said, and the next seal tries again."""
        sealed = await self._in_sealer("seal_failed", self.spool.seal)
        failed = sealed is None
        self._not_before = time.monotonic() + (RETRY_S if failed else 0)
        self._next_seal = time.monotonic() + (RETRY_S if failed else self._config.every_s)
        if sealed is not None and sealed.rows:
            SPOOL_SEALED.inc(sealed.rows)
            SPOOL_SEAL_SECONDS.observe(sealed.seconds)
            say("sealed", rows=sealed.rows, files=sealed.files, seconds=round(sealed.seconds, 3))

    async def _in_sealer(self, failure: str, work: Callable[[], Result]) -> Result | None:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._sealer, work)
        except Exception as error:  # noqa: BLE001 - the events are safe in the spool, and the next seal may work
            SPOOL_SEAL_FAILURES.inc()
            say(failure, logging.ERROR, error=told(error))
            return None

    def trouble(self) -> str | None:
        return self._trouble

    async def close(self) -> None:
        if self._sealing is not None:
            await asyncio.gather(self._sealing, return_exceptions=True)
        await self.seal()  # whoever reads the folder of a stopped collector finds everything that it took
        for thread in (self._writer, self._sealer):
            thread.shutdown()
        self.spool.close()

    def recent(self, lost: bool) -> Iterator[list[LiveEvent]]:
        """What is not sealed yet, for the live store; with `lost` what came in during two days, too."""
        if lost:
            for rows in sealing.received_since(self.spool.events, time.time_ns() // 1000 - REFILL_US, LIVE_COLUMNS):
                yield [e for row in rows if (e := live_event({k: v for k, v in row.items() if v is not None}))]
        for contents in self.spool.unsealed():
            yield [e for content in contents if (e := live_event(orjson.loads(content)))]
