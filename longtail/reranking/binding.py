"""Rules with their names resolved to the items of one shop, so that a request costs a few array look-ups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from longtail.events import Catalogue
from longtail.ranking.objective import item_worth, shares

if TYPE_CHECKING:
    from longtail.reranking.rules import Objective, Rules

WORD = 64
Names = tuple[str | None, str | None, tuple[str, ...] | None]


class TargetIndex:
    """For every item the targets it belongs to, one bit each: what all rules of a shop share.

    `words`: uint64 [I] arrays; target t is bit t % 64 of word t // 64.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._known: dict[Names, int] = {}
        self._tilts: dict[tuple[tuple[tuple[str, float], ...], float], np.ndarray | None] = {}
        self.words: list[np.ndarray] = []
        self.sizes: list[int] = []

    def items(self, ids: Sequence[str]) -> np.ndarray:
        """Item indices int64 of the ids that the shop has, in their order, each once."""
        found = self._catalogue.find(list(dict.fromkeys(ids)))
        return found[found >= 0]

    def target(self, category: str | None, brand: str | None, items: tuple[str, ...] | None) -> int:
        """The number of a target; `sizes[number]` items belong to it."""
        names = (category, brand, items)
        if names in self._known:
            return self._known[names]
        number = len(self._known)
        if category is not None:
            members = np.isin(self._catalogue.category, category_codes(self._catalogue.categories, category))
        elif brand is not None:
            members = np.isin(self._catalogue.brand, np.flatnonzero(self._catalogue.brands == brand))
        else:
            members = np.zeros(len(self._catalogue), bool)
            members[self.items(items or ())] = True
        if number % WORD == 0:
            self.words.append(np.zeros(len(self._catalogue), np.uint64))
        self.words[-1][members] |= np.uint64(1 << (number % WORD))
        self.sizes.append(int(members.sum()))
        self._known[names] = number
        return number

    def tilt(self, goal: str | Mapping[Any, float], weight: float) -> np.ndarray | None:
        """float32 [I] to add to the log of an item's worth, see `Objective`; None for goals that change nothing."""
        key = tuple(sorted(shares(goal).items())), weight
        if key not in self._tilts:
            self._tilts[key] = tilt(goal, weight, self._catalogue)
        return self._tilts[key]


def tilt(goal: str | Mapping[Any, float], weight: float, catalogue: Catalogue) -> np.ndarray | None:
    """What an objective adds to the log of each item's worth, float32 [I]; None where it changes nothing."""
    worth = item_worth(goal, catalogue.price, catalogue.margin, catalogue.return_rate)
    if worth is None or weight == 0:
        return None
    # What is given away, or sold at a loss, earns a hundredth of the median item: far down, but still an item.
    return (weight * np.log(np.maximum(worth, 0.01))).astype(np.float32)


def category_codes(categories: np.ndarray, path: str) -> np.ndarray:
    """Codes int64 of a category path and of everything below it."""
    path = path.rstrip("/")
    hit = [c == path or str(c).startswith(path + "/") for c in categories]
    return np.flatnonzero(np.array(hit, bool))


@dataclass(frozen=True)
class Span:
    """From `start` (inclusive) to `end` (exclusive), microseconds since 1970."""

    start: int
    end: int

    def holds(self, now: int) -> bool:
        """Whether `now` lies in it."""
        return self.start <= now < self.end


@dataclass(frozen=True)
class BoundTarget:
    """A target's place in the index, and when it counts."""

    number: int
    span: Span

    @property
    def word(self) -> int:
        """Which word of the index holds its bit."""
        return self.number // WORD

    @property
    def bit(self) -> np.uint64:
        """Its bit in that word."""
        return np.uint64(1 << (self.number % WORD))

    def among(self, items: np.ndarray, words: Sequence[np.ndarray], looked_up: dict[int, np.ndarray]) -> np.ndarray:
        """bool [n]: which of the items int64 [n] belong to it. `looked_up` keeps the words of these items for reuse."""
        if self.word not in looked_up:
            looked_up[self.word] = words[self.word][items]
        return (looked_up[self.word] & self.bit) != 0


@dataclass(frozen=True)
class BoundBoost:
    """Adds `log_factor` to the log of the target's worth."""

    name: str
    log_factor: np.float32
    target: BoundTarget


@dataclass(frozen=True)
class BoundPin:
    """`items` int64, the most wanted first, for the zero-based `place`."""

    name: str
    place: int
    items: np.ndarray
    span: Span


@dataclass(frozen=True)
class BoundPromotion:
    """One of the target in each `every` places; `items` int64 stand in when no candidate belongs to it."""

    name: str
    every: int
    target: BoundTarget
    items: np.ndarray


@dataclass(frozen=True)
class BoundRules:
    """Rules with their names resolved: what `rerank` takes. `tilt` float32 [I] or None is the objective's."""

    rules: Rules
    boosts: tuple[BoundBoost, ...] = ()
    block: tuple[BoundTarget, ...] = ()
    pins: tuple[BoundPin, ...] = ()
    promotions: tuple[BoundPromotion, ...] = ()
    tilt: np.ndarray | None = None
    words: tuple[np.ndarray, ...] = ()
    unmatched: list[str] = field(default_factory=list)  # rules that match no item of this shop, to warn about

    def block_bits(self, now: int) -> list[tuple[int, np.uint64]]:
        """(word, bits) of everything that is blocked at `now`."""
        bits: dict[int, int] = {}
        for target in self.block:
            if target.span.holds(now):
                bits[target.word] = bits.get(target.word, 0) | int(target.bit)
        return [(word, np.uint64(mask)) for word, mask in bits.items()]


def bind(rules: Rules, objective: Objective, index: TargetIndex) -> BoundRules:
    """See `Rules.bind`."""
    unmatched: list[str] = []

    def target(what: str, category: str | None, brand: str | None, items: tuple[str, ...] | None,
               span: tuple[int, int]) -> BoundTarget:  # fmt: skip
        number = index.target(category, brand, items)
        if not index.sizes[number]:
            unmatched.append(what)
        return BoundTarget(number, Span(*span))

    boosts = tuple(
        BoundBoost(
            b.name, np.float32(np.log(b.factor)), target(f"boost {b.name}", b.category, b.brand, b.items, b.span)
        )
        for b in rules.boosts
    )
    block = tuple(target(f"block[{i}]", b.category, b.brand, b.items, b.span) for i, b in enumerate(rules.block))
    pins = tuple(BoundPin(p.name, p.place - 1, index.items(p.items), Span(*p.span)) for p in rules.pins)
    unmatched += [f"pin {p.name}" for p in pins if not len(p.items)]
    promotions = []
    for p in rules.promotions:
        listed = p.items if p.category is None and p.brand is None else None
        aim = target(f"promotion {p.name}", p.category, p.brand, listed, p.span)
        promotions.append(BoundPromotion(p.name, p.every, aim, index.items(p.items or ())))
    # The list is copied: rules bound later add words, which these rules never ask for.
    words = tuple(index.words)
    tilt = index.tilt(objective.goal, objective.weight)
    return BoundRules(rules, boosts, block, pins, tuple(promotions), tilt, words, unmatched)
