"""Lists that were computed before somebody asks: one for each person and surface, in SQLite or in Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

import orjson

from longtail.errors import InvalidInput
from longtail.features.live import place_of

KEEP_S = 30 * 24 * 3600  # a list that nothing replaced for so long is gone


@dataclass(frozen=True, slots=True)
class StoredList:
    """A list as `longtail precompute` made it, best first; `scores` and `sources` belong to the items one by one.

    `model_version` is the bundle that made it, `time_us` the moment that it was made for (microseconds since 1970).
    `codes` are the items' indices in that bundle, so that a server of the same one need not look them up; or none.
    """

    items: list[str]
    scores: list[float]
    sources: list[str]
    model_version: str
    time_us: int
    codes: list[int] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        """What a store keeps of it."""
        return orjson.dumps([self.items, self.scores, self.sources, self.model_version, self.time_us, self.codes])

    @staticmethod
    def from_bytes(raw: bytes) -> StoredList:
        """What `to_bytes` made.

        Raises:
            ValueError or TypeError: it is something else.
        """
        found = StoredList(*orjson.loads(raw))
        # Fails where ids and sources are not all text, or scores, codes and time not all numbers, in a microsecond.
        "".join([*found.items, *found.sources, found.model_version])
        sum([*found.scores, *found.codes, found.time_us])
        return found


Entry = tuple[str, str, StoredList]


class ListStore(Protocol):
    """The newest list of each user (a pseudonym) and surface.

    Every method raises `Unavailable` while the store does not answer, quickly, and works again once it does.
    """

    async def get(self, user: str, surface: str) -> StoredList | None:
        """The list, or None where there is none (or none of the last `KEEP_S` seconds)."""

    async def put(self, lists: Sequence[Entry]) -> None:
        """Keep the lists (user, surface, list); each takes the place of the one before it."""

    async def forget(self, user: str) -> bool:
        """Erase the lists of a person; whether there were any."""

    async def close(self) -> None:
        """Let go of files and connections."""


def open_lists(url: str) -> ListStore:
    """The store at `sqlite:///absolute/path/lists.db` or `redis://host:port/database`; opening never waits for it.

    Raises:
        InvalidInput: another scheme, or a SQLite path that is not absolute.
    """
    parts = urlsplit(url)
    if parts.scheme == "sqlite" and not parts.netloc and parts.path.startswith("/") and len(parts.path) > 1:
        from longtail.engine.lists_sqlite import SqliteLists

        return SqliteLists(parts.path)
    if parts.scheme in ("redis", "rediss") and parts.netloc:
        from longtail.engine.lists_redis import RedisLists

        return RedisLists(url)
    raise InvalidInput(
        f"{place_of(url)!r} names no list store: use sqlite:///absolute/path/lists.db or redis://host:6379/0"
    )
