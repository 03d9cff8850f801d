"""How often one caller may ask: a token bucket each, in a table of bounded size."""

from __future__ import annotations

from collections import OrderedDict

# An idle bucket is full, so forgetting the one that is idle longest loses nothing unless more callers than this
# are active within the time that a bucket takes to fill.
MAX_CALLERS = 16_384


class TokenBuckets:
    """`burst` requests at once, then `per_second` a second, for each caller by itself."""

    def __init__(self, per_second: float, burst: float, size: int = MAX_CALLERS) -> None:
        self._rate, self._burst, self._size = per_second, max(1.0, burst), size
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, now: float) -> float:
        """Seconds until this caller may ask again; 0 means now, and one token is spent. `now` in monotonic seconds."""
        tokens, since = self._left.get(caller, (self._burst, now))
        tokens = min(self._burst, tokens + max(0.0, now - since) * self._rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._left[caller] = (tokens if wait else tokens - 1, now)
        self._left.move_to_end(caller)
        if len(self._left) > self._size:
            self._left.popitem(last=False)
        return wait

    def __len__(self) -> int:
        return len(self._left)
