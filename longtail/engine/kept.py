"""Lists that were made before: for an equal request a moment later, and for the moment when nothing else comes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from longtail.engine.schema import Item

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class KeptList:
    """A list as it was shown: `codes` int64 are the items' indices in the bundle `version`, `time` microseconds."""

    items: list[Item]
    codes: np.ndarray
    version: str
    time: int


class Lru(Generic[Value]):
    """At most `room` values by key; the one that was not used for longest makes room for the next."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def get(self, key: Hashable) -> Value | None:
        """The value, which counts as used, or None."""
        found = self._values.get(key)
        if found is not None:
            self._values.move_to_end(key)
        return found

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value."""
        if self._room <= 0:
            return
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._room:
            self._values.popitem(last=False)

    def __len__(self) -> int:
        return len(self._values)
