"""Live events for a shop of the past: what people do today, read on a clock that goes on from where the data ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from longtail.features.live import LiveStore, UserHistory


class ShiftedLive:
    """Reads a live store whose events carry the wall's time as if each had happened `ahead` microseconds earlier.

    `ahead` is how far the wall is ahead of the clock that requests are answered on. It only reads: the store belongs
    to the collector, which knows no other time than the wall's.
    """

    def __init__(self, store: LiveStore, ahead: int) -> None:
        self._store, self._ahead = store, ahead

    async def load(self, user_ids: Sequence[str], since: int, last: int = 100) -> list[UserHistory]:
        """See `LiveStore`; `since` and the times of the events are on the requests' clock."""
        found = await self._store.load(user_ids, since + self._ahead, last)
        return [replace(history, time=history.time - self._ahead) for history in found]

    async def close(self) -> None:
        """See `LiveStore`."""
        await self._store.close()
