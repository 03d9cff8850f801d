"""A circuit breaker: a part that fails most of its calls is left alone for a moment, then tried with one call."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from longtail.errors import Unavailable

State = Literal["closed", "half_open", "open"]
STATES: tuple[State, ...] = ("closed", "half_open", "open")
REMEMBERED = 500


@dataclass(frozen=True)
class BreakerConfig:
    """Open when at least `failure_rate` of the last `window_s` seconds' calls failed, and there were `min_calls`.

    After `open_s` one trial call decides whether it closes again.
    """

    window_s: float = 10.0
    min_calls: int = 10
    failure_rate: float = 0.5
    open_s: float = 1.0


class BreakerOpen(Unavailable):
    """The call was not made, because most calls before it failed."""

    cause = "breaker_open"


class Breaker:
    """State of one downstream part. Not thread-safe: it belongs to one event loop."""

    def __init__(
        self, name: str, config: BreakerConfig | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self._config, self._clock = config or BreakerConfig(), clock
        self._calls: deque[tuple[float, bool]] = deque(maxlen=REMEMBERED)
        self._failed = 0
        self._opened: float | None = None
        self._trying = False

    @property
    def state(self) -> State:
        """`open` refuses, `half_open` lets one trial call through, `closed` lets all through."""
        if self._opened is None:
            return "closed"
        return "half_open" if self._clock() - self._opened >= self._config.open_s else "open"

    def enter(self) -> bool:
        """Ask leave for a call; True when it is the trial. Every call must end in `leave`.

        Raises:
            BreakerOpen: not now.
        """
        if self._opened is None:
            return False
        if self._trying or self.state == "open":
            raise BreakerOpen(f"{self.name}: most calls failed, the next trial comes within {self._config.open_s:g} s")
        self._trying = True
        return True

    def leave(self, trial: bool, ok: bool | None) -> None:
        """Say how a call ended; None when it says nothing of the part (the caller gave up, or had too little time)."""
        if trial:
            self._trying = False
            if ok:
                self._opened = None
                self._calls.clear()
                self._failed = 0
            elif ok is False:
                self._opened = self._clock()
            return
        if ok is None or self._opened is not None:  # a late answer from before it opened decides nothing
            return
        now = self._clock()
        self._remember(now, ok)
        config = self._config
        if not ok and len(self._calls) >= config.min_calls and self._failed >= config.failure_rate * len(self._calls):
            self._opened = now

    def _remember(self, now: float, ok: bool) -> None:
        calls = self._calls
        while calls and (now - calls[0][0] > self._config.window_s or len(calls) == REMEMBERED):
            self._failed -= not calls.popleft()[1]
        calls.append((now, ok))
        self._failed += not ok
