"""A limit on calls in flight: who finds no slot within a moment is turned away instead of queueing."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass

from longtail.errors import Unavailable


class Overloaded(Unavailable):
    """No slot came free in time."""

    cause = "overload"


@dataclass(frozen=True)
class LimiterConfig:
    """`slots` calls in flight at once; another one waits at most `wait_s` for a slot."""

    slots: int = 24
    wait_s: float = 0.02


class Limiter:
    """Slots of one downstream part. Not thread-safe: it belongs to one event loop."""

    def __init__(self, name: str, config: LimiterConfig | None = None) -> None:
        self.name = name
        self._config = config or LimiterConfig()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.in_flight = 0

    async def enter(self, wait_s: float | None = None) -> None:
        """Take a slot, first come first served; give it back with `leave`.

        Raises:
            Overloaded: none came free within `wait_s` (never longer than the configured wait).
        """
        if self.in_flight < self._config.slots and not self._waiting:
            self.in_flight += 1
            return
        wait = self._config.wait_s if wait_s is None else min(wait_s, self._config.wait_s)
        # A queue longer than the slots could not be served within the wait: turning away at once saves its time.
        if wait <= 0 or len(self._waiting) >= self._config.slots:
            raise self._full()
        slot = asyncio.get_running_loop().create_future()
        self._waiting.append(slot)
        try:
            async with asyncio.timeout(wait):
                await slot
        except BaseException as error:
            if slot.done() and not slot.cancelled():  # handed over in the same moment: pass it on
                self.leave()
            else:
                with contextlib.suppress(ValueError):  # `leave` may have swept it out already
                    self._waiting.remove(slot)
            if isinstance(error, TimeoutError):
                raise self._full() from None
            raise

    def leave(self) -> None:
        """Give the slot to the next in line, or back."""
        while self._waiting:
            slot = self._waiting.popleft()
            if not slot.done():
                slot.set_result(None)
                return
        self.in_flight -= 1

    def _full(self) -> Overloaded:
        return Overloaded(f"{self.name}: {self.in_flight} calls are in flight")
