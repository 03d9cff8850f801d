"""Popular lists that are ready before anybody asks: the last rungs of the ladder, and what fills a short list up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from longtail.engine.parts import Bundle
from longtail.reranking import BoundRules, PersonView, may_show
from longtail.reranking.binding import category_codes

POPULAR_REASON = "popular right now"
SEGMENT_REASON = "popular where you are"
CATEGORY_REASON = "popular in this category"
FIRST = 64
KEEP_CATEGORIES = 4096
CATEGORY_DEPTH = 5000
NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True)
class Shelf:
    """One popular list: where it comes from, why people see it, and item indices int64, best first, all in stock."""

    source: str
    reason: str
    items: np.ndarray


@dataclass(frozen=True)
class Category:
    """A category path with all below it: its `codes` int64, and what is popular there."""

    codes: np.ndarray
    shelf: Shelf


@dataclass
class Popular:
    """The popular lists of one bundle."""

    bundle: Bundle
    everyone: Shelf = field(init=False)
    segments: list[Shelf] = field(init=False)

    def __post_init__(self) -> None:
        stock = self.bundle.view.in_stock
        fallback = self.bundle.fallback
        self.everyone = Shelf("popular", POPULAR_REASON, fallback.popular[stock[fallback.popular]])
        self.segments = [Shelf("popular_segment", SEGMENT_REASON, m[stock[m]]) for m in fallback.by_segment]
        self._categories: dict[str, Category | None] = {}
        # Items of one category lie together, best first, so that a category's list is cut out when it is first asked.
        category = self.bundle.catalogue.category[self.everyone.items]
        self._by_category = np.argsort(category, kind="stable").astype(np.int32)
        self._bounds = np.searchsorted(
            category[self._by_category], np.arange(len(self.bundle.catalogue.categories) + 1)
        )

    def shelves(self, segment: int, category: Category | None = None) -> Iterator[Shelf]:
        """The lists to fill from, the closest first; for a category that one only."""
        if category is not None:
            yield category.shelf
            return
        if 0 <= segment < len(self.segments):
            yield self.segments[segment]
        yield self.everyone

    def category(self, path: str) -> Category | None:
        """A category and what is popular in it, at most `CATEGORY_DEPTH` items; None for a path the shop lacks."""
        if path not in self._categories:
            if len(self._categories) >= KEEP_CATEGORIES:
                self._categories.pop(next(iter(self._categories)))
            self._categories[path] = self._cut_out(path)
        return self._categories[path]

    def _cut_out(self, path: str) -> Category | None:
        codes = category_codes(self.bundle.catalogue.categories, path)
        if not len(codes):
            return None
        places = [self._by_category[self._bounds[c] : self._bounds[c + 1]] for c in codes]
        best = np.sort(np.concatenate(places))[:CATEGORY_DEPTH]
        return Category(codes, Shelf("popular_category", CATEGORY_REASON, self.everyone.items[best]))


def pick(
    shelf: Shelf, bundle: Bundle, person: PersonView, rules: BoundRules, now: int, k: int, taken: np.ndarray
) -> np.ndarray:
    """The first k items of a shelf that may be shown and are not in `taken` (int64), int64 [<= k].

    The list is read in growing pieces: the first few dozen items nearly always suffice.
    """
    found: list[np.ndarray] = []
    left, start, size = k, 0, FIRST
    while left > 0 and start < len(shelf.items):
        piece = shelf.items[start : start + size]
        keep = may_show(piece, bundle.view, person, rules, now)
        if len(taken):
            keep &= ~np.isin(piece, taken)
        found.append(piece[keep][:left])
        left -= len(found[-1])
        start, size = start + size, size * 4
    return np.concatenate(found) if found else NOTHING
