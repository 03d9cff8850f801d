"""Live events: what people did since the log that the bundle was trained on, for the very next request.

One writer (the collector) and many readers (the recommender). Two stores keep the same promises: a SQLite file on one
machine, Redis where several machines serve. The store is a cache: the event log holds every event, so a store that
is lost costs freshness, never data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np

from longtail.errors import InvalidInput
from longtail.events.log import Histories
from longtail.schema import DAY_US, EVENT_CODE, EVENT_STRENGTH, EVENT_TYPES

KEEP_US = 30 * DAY_US
KEEP_EVENTS = 200
# Sessions of live events are numbered above all session codes of a log.
LIVE_SESSIONS = 2**30
_STRENGTH = np.array([EVENT_STRENGTH[name] for name in EVENT_TYPES], np.float32)


@dataclass(frozen=True)
class UserHistory:
    """The newest interactions of one person, oldest first; arrays of length n, dtypes as in `events.Log`.

    `item_id` str object; `session` numbers sessions within this history.
    """

    item_id: np.ndarray
    time: np.ndarray
    kind: np.ndarray
    strength: np.ndarray
    quantity: np.ndarray
    session: np.ndarray

    def __len__(self) -> int:
        return len(self.time)

    @staticmethod
    def empty() -> UserHistory:
        """Nobody's history."""
        return UserHistory(
            np.empty(0, object), np.empty(0, np.int64), np.empty(0, np.int8), np.empty(0, np.float32),
            np.empty(0, np.float32), np.empty(0, np.int32),
        )  # fmt: skip

    @staticmethod
    def of_live(rows: Iterable[tuple[str, int, int, float, str | None]]) -> UserHistory:
        """The history of live rows (item id, time, kind, quantity, session id), oldest first."""
        columns = list(zip(*rows, strict=True))
        if not columns:
            return UserHistory.empty()
        item, time, kind, quantity, session = columns
        kinds = np.array(kind, np.int8)
        numbers: dict[str | None, int] = {}
        codes = [numbers.setdefault(s, LIVE_SESSIONS + len(numbers)) for s in session]
        return UserHistory(
            np.array(item, object), np.array(time, np.int64), kinds, _STRENGTH[kinds],
            np.array(quantity, np.float32), np.array(codes, np.int32),
        )  # fmt: skip


@dataclass(frozen=True)
class LiveEvent:
    """One thing that a person (`user_id`, a pseudonym) did with an item; `time` in microseconds since 1970."""

    event_id: str
    user_id: str
    item_id: str
    event_type: str
    time: int
    value: float | None = None
    quantity: float = 1.0
    session_id: str | None = None

    @property
    def shows_interest(self) -> bool:
        """Whether it belongs into a history: exposure and returns do not.

        Raises:
            InvalidInput: unknown event type.
        """
        if self.event_type not in EVENT_CODE:
            raise InvalidInput(f"unknown event type {self.event_type!r}: use one of {', '.join(EVENT_CODE)}")
        returned = self.value is not None and self.value < 0
        return EVENT_STRENGTH[self.event_type] > 0 and not returned


class LiveStore(Protocol):
    """The newest events of each person: at most `KEEP_EVENTS` of the last `KEEP_US`, each event id once per person.

    Every method raises `Unavailable` while the store does not answer, quickly, and works again once it does.
    """

    async def append(self, events: Sequence[LiveEvent]) -> int:
        """Keep the events that show interest; returns how many were new.

        Raises:
            InvalidInput: an unknown event type; none of the batch is kept.
            Unavailable: the store does not answer; appending the same events again is safe.
        """

    async def load(self, user_ids: Sequence[str], since: int, last: int = 100) -> list[UserHistory]:
        """For each person the newest `last` events at or after `since` (microseconds), oldest first.

        Events of one instant keep the order in which they came in.

        Raises:
            Unavailable: the store does not answer.
        """

    async def forget(self, user_id: str) -> bool:
        """Erase a person's events; whether there were any."""

    async def tend(self) -> bool:
        """The writer's upkeep, called every second or so: drop what is too old or too much, mend what is broken.

        True when the store had to be made anew, so that the writer can fill it again.
        """

    async def close(self) -> None:
        """Let go of files and connections."""


def open_live(url: str, *, writer: bool = False) -> LiveStore:
    """The store at `sqlite:///absolute/path/live.db` or `redis://host:port/database`.

    Opening never waits for the store. Only one process (the collector) opens it as `writer`; it makes the file where
    there is none.

    Raises:
        InvalidInput: another scheme, or a SQLite path that is not absolute.
    """
    parts = urlsplit(url)
    if parts.scheme == "sqlite" and not parts.netloc and parts.path.startswith("/") and len(parts.path) > 1:
        from longtail.features.live_sqlite import SqliteLive

        return SqliteLive(parts.path, writer=writer)
    if parts.scheme in ("redis", "rediss") and parts.netloc:
        from longtail.features.live_redis import RedisLive

        return RedisLive(url)
    raise InvalidInput(
        f"{place_of(url)!r} names no live store: use sqlite:///absolute/path/live.db or redis://host:6379/0"
    )


def to_histories(histories: Sequence[UserHistory], item_index: Mapping[str, int]) -> Histories:
    """The histories of B requests with item codes (`item_index`: id -> code); items it does not know are left out."""
    whole = {
        name: np.concatenate([getattr(h, name) for h in (*histories, UserHistory.empty())])
        for name in UserHistory.__dataclass_fields__
    }
    item = np.fromiter((item_index.get(i, -1) for i in whole.pop("item_id")), np.int32)
    known = item >= 0
    rows = np.repeat(np.arange(len(histories)), [len(h) for h in histories])[known]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(histories)))]).astype(np.int64)
    return Histories(indptr, item[known], **{name: column[known] for name, column in whole.items()})


def place_of(url: str) -> str:
    """A store's address as it may stand in a log or a message: without user, password and options."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
