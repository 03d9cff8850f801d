"""A call to a part that may be slow, dead or overloaded: with a deadline, a breaker and a limit on calls in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from longtail.engine.breaker import Breaker
from longtail.engine.limiter import Limiter
from longtail.errors import Unavailable
from longtail.metrics import SHED

Answer = TypeVar("Answer")
# With less of its deadline left than this, a call that comes too late says nothing of the part it called.
FAIR_SHARE = 0.5


class Late(Unavailable):
    """No answer before the deadline."""

    cause = "deadline_exceeded"


def cause_of(error: BaseException) -> str:
    """A short label for metrics and for people: what made a stage go missing."""
    return str(getattr(error, "cause", type(error).__name__))


@dataclass(frozen=True)
class Guard:
    """What stands before one downstream part. `deadline_s` is the longest that one call may take."""

    breaker: Breaker
    limiter: Limiter
    deadline_s: float

    async def call(self, make: Callable[[], Awaitable[Answer]], until: float) -> Answer:
        """The answer of `make()`, which is called only when there is leave to. `until` is a time of the running loop.

        Raises:
            BreakerOpen: most calls failed a moment ago.
            Overloaded: no slot.
            Late: no answer within the deadline, or by `until`.
            Exception: what the call itself raises.
        """
        clock = asyncio.get_running_loop().time
        trial = self.breaker.enter()
        ok: bool | None = None
        try:
            await self._slot(until - clock())
            try:
                start = clock()
                end = min(until, start + self.deadline_s)
                if end <= start:
                    raise Late(f"{self.breaker.name}: the request's time was over before it began")
                try:
                    async with asyncio.timeout_at(end):
                        answer = await make()
                    ok = True
                    return answer
                except TimeoutError:
                    ok = False if end - start >= FAIR_SHARE * self.deadline_s else None
                    raise Late(f"{self.breaker.name}: no answer within {(end - start) * 1e3:.0f} ms") from None
                except Exception:
                    ok = False
                    raise
            finally:
                self.limiter.leave()
        finally:
            self.breaker.leave(trial, ok)

    async def _slot(self, left_s: float) -> None:
        try:
            await self.limiter.enter(left_s)
        except Unavailable:
            SHED.labels(self.limiter.name).inc()
            raise
