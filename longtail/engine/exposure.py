"""How often each item was shown lately, for rules that give what was shown least its turn."""

from __future__ import annotations

import numpy as np

HALF_LIFE_US = 86_400_000_000
FADE_EVERY_US = 3_600_000_000


class Exposure:
    """Counts that halve in a day: `counts` float32 [I]. They are one server's own and begin at zero with it."""

    def __init__(self, n_items: int) -> None:
        self.counts = np.zeros(n_items, np.float32)
        self._faded: int | None = None

    def add(self, items: np.ndarray, now: int) -> None:
        """A list was shown at `now` (microseconds): item indices int64, each once; -1 is nothing of this shop."""
        since = 0 if self._faded is None else now - self._faded
        if self._faded is None or since < 0:  # the clock was set back
            self._faded = now
        elif since >= FADE_EVERY_US:
            self.counts *= np.float32(0.5 ** (since / HALF_LIFE_US))
            self._faded = now
        self.counts[items[items >= 0]] += 1
