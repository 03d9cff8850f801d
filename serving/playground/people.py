"""The people of a bundle as the page lists them: found by pseudonym, region or taste, with what they last wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from longtail.engine.baked import BakedPeople
from longtail.schema import GUEST_PREFIX

LAST = 8
LIKES = 3


@dataclass(frozen=True)
class People:
    """The people of a bundle; `tops` is the top category of each catalogue row."""

    baked: BakedPeople
    tops: pd.Categorical

    @staticmethod
    def read(folder: Path, tops: pd.Categorical) -> People:
        """Map the people of a bundle folder.

        Raises:
            InvalidBundle: they cannot be read.
        """
        return People(BakedPeople.open(folder), tops)

    def __len__(self) -> int:
        return len(self.baked)

    def find(self, text: str = "", limit: int = 20) -> list[dict[str, Any]]:
        """People whose pseudonym, region or favourite category holds the text, the most active first.

        Without a text: a typical active person of each taste, so that the lists to look at differ.
        """
        limit = min(limit, len(self))
        if not text:
            return [self.person(p) for p in self._typical[:limit]]
        hit = np.strings.find(self._ids, text.lower().encode()) >= 0
        hit |= np.isin(self.baked.segment, holding(text, self.baked.segments))
        hit |= np.isin(self._favourite, holding(text, self.tops.categories))
        found = np.flatnonzero(hit)
        best = found[np.argsort(-self._active[found], kind="stable")][:limit]
        return [self.person(int(p)) for p in best]

    def person(self, p: int) -> dict[str, Any]:
        """One person: pseudonym, region, tastes, and catalogue rows of what they last wanted, newest first."""
        mine = self.baked.histories(np.array([p])).item
        segment = int(self.baked.segment[p])
        counts = np.bincount(self._top_of(mine), minlength=len(self.tops.categories) + 1)[:-1]
        likes = [str(self.tops.categories[c]) for c in np.argsort(-counts, kind="stable")[:LIKES] if counts[c]]
        last = list(dict.fromkeys(mine[::-1].tolist()))[:LAST]
        return {
            "user_id": self._ids[p].decode(),
            "segment": self.baked.segments[segment] if segment >= 0 else None,
            "events": len(mine),
            "likes": likes,
            "last": last,
        }

    @property
    def _active(self) -> np.ndarray:
        return np.diff(self.baked.history.indptr)

    @property
    def _ids(self) -> np.ndarray:
        return self.baked.ids.ids

    def _top_of(self, rows: np.ndarray) -> np.ndarray:
        # An item without a category counts in a column of its own behind the others.
        codes = self.tops.codes[rows].astype(np.int64)
        return np.where(codes < 0, len(self.tops.categories), codes)

    @cached_property
    def _favourite(self) -> np.ndarray:
        """int64 [P]: the top category that most of a person's interactions are in, -1 none."""
        width = len(self.tops.categories) + 1
        person = np.repeat(np.arange(len(self)), self._active)
        pair, count = np.unique(person * width + self._top_of(self.baked.history.item), return_counts=True)
        pair, count = pair[pair % width < width - 1], count[pair % width < width - 1]
        order = np.lexsort((-count, pair // width))
        people, first = np.unique(pair[order] // width, return_index=True)
        out = np.full(len(self), -1, np.int64)
        out[people] = pair[order][first] % width
        return out

    @cached_property
    def _typical(self) -> list[int]:
        """For each taste the person who is more active than four in five, then the next ones of each, in turn."""
        guest = np.strings.startswith(self._ids, GUEST_PREFIX.encode())
        known = np.flatnonzero(~guest & (self._active > 0)) if not guest.all() else np.flatnonzero(self._active > 0)
        known = known[np.argsort(-self._active[known], kind="stable")]
        turns = []
        for taste in np.unique(self._favourite[known]):
            mine = known[self._favourite[known] == taste]
            start = len(mine) // 5
            turns += [(turn, -len(mine), int(p)) for turn, p in enumerate(mine[start : start + 8])]
        return [p for _, _, p in sorted(turns)]


def holding(text: str, names: Sequence[str]) -> list[int]:
    """Codes of the names that hold a text, in whatever case."""
    return [code for code, name in enumerate(names) if text.lower() in str(name).lower()]
