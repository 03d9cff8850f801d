"""One request's ranked candidates become the list that is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from longtail.reranking.binding import BoundPin, BoundPromotion, BoundRules
from longtail.reranking.boosts import freshness_factor, log_worth
from longtail.reranking.exploration import log_odds
from longtail.reranking.fill import (
    CAPS,
    CAPS_RELAXED,
    DIVERSITY,
    EXPLORED,
    FREE,
    LONG_TAIL,
    PIN,
    PROMOTION,
    STAND_IN,
    fill_places,
)
from longtail.reranking.filters import counts, member, screen
from longtail.reranking.pins import Claims, claims
from longtail.reranking.views import EMPTY, ItemView, PersonView

# What it adds to the likeness of two items to have a category, top category or brand in common.
LIKENESS = {"category": 0.5, "top_category": 0.25, "brand": 0.25}
UNCOUNTED = np.empty(0, np.float32)
SHARES = np.array(list(LIKENESS.values()), np.float32)
NAMES = {CAPS_RELAXED: "caps_relaxed", EXPLORED: "explored", DIVERSITY: "diversity", CAPS: "caps"}
NAMES |= {LONG_TAIL: "long_tail"}


@dataclass(frozen=True)
class Reranked:
    """The list, best first.

    `order` int64 [k'] positions in the candidates passed in, -1 for a pin or a promotion that is none of them; `items`
    int64 [k']; `scores` float32 [k'] after objective and boosts, on the log scale; `propensity` float32 [k']
    probability of the item at its place given those above it; `dropped`: candidates each reason removed;
    `rules_applied`: for each shown item the names of what moved it.
    """

    order: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    propensity: np.ndarray
    dropped: dict[str, int]
    rules_applied: list[tuple[str, ...]]


def rerank(
    scores: np.ndarray,
    items: np.ndarray,
    view: ItemView,
    person: PersonView,
    rules: BoundRules,
    rng: np.random.Generator,
    now: int,
    k: int,
    linear_scores: bool = False,
    shown: np.ndarray | None = None,
    reason: np.ndarray | None = None,
) -> Reranked:
    """Filter, boost, pin, promote, diversify, cap and explore. The result is safe whatever the rules say.

    Args:
        scores: float32 [n], higher is better: a ranker's margins, or with `linear_scores` counts or probabilities.
        items: int64 [n] item indices, in any order; repeats and -1 are dropped.
        now: microseconds since 1970, for freshness and for rules with dates.
        k: places to fill; fewer come back only when the candidates run out (or a strict cap ends the list).
        shown: float32 [I], how often each item of the shop was shown lately, for the long tail; None: that rule is off.
        reason: int8 [n], what `screen` says of the items, where that was asked before.
    """
    items = np.asarray(items, np.int64)
    reason = screen(items, view, person, rules, now) if reason is None else reason
    kept = np.flatnonzero(reason == 0)
    mine = items[kept]
    worth = log_worth(np.asarray(scores)[kept], linear_scores)
    touched = _boost(worth, mine, view, rules, now)
    # Sorted once, so that the best remaining candidate is the first one that is left; ties go to the smaller index.
    best_first = np.lexsort((mine, -worth))
    kept, mine, worth = kept[best_first], mine[best_first], worth[best_first]

    pins = [pin for pin in rules.pins if pin.place < k and pin.span.holds(now)]
    promotions = [p for p in rules.promotions if p.every <= k and p.target.span.holds(now)]
    extras = _extras(mine, pins, promotions, view, person, rules, now)
    everyone = np.concatenate([mine, extras]) if len(extras) else mine
    chosen, chance, applied = _fill(worth, everyone, view, rules, pins, promotions, rng, k, shown)
    if touched:
        # What is inserted was moved by nothing but its pin or promotion.
        origin = np.append(best_first, np.full(len(extras), len(mine)))[chosen]
        moved = [(name, np.append(mask, False)[origin].tolist()) for name, mask in touched]
        applied = [tuple(n for n, by in moved if by[at]) + note for at, note in enumerate(applied)]
    if len(extras):
        kept = np.append(kept, np.full(len(extras), -1))
        worth = np.append(worth, np.full(len(extras), worth.min(initial=0), np.float32))
    return Reranked(kept[chosen], everyone[chosen], worth[chosen], chance, counts(reason), applied)


def _boost(
    worth: np.ndarray, items: np.ndarray, view: ItemView, rules: BoundRules, now: int
) -> list[tuple[str, np.ndarray]]:
    """Apply objective, freshness and boosts to `worth` in place; (name, bool [n] of what it moved) of each."""
    touched = []
    if rules.tilt is not None:
        worth += rules.tilt[items]
    fresh = rules.rules.freshness
    if fresh.strength > 0:
        newness = freshness_factor(view.created_us[items], now, fresh.half_life_days, fresh.strength)
        worth += np.log(newness)
        touched.append(("freshness", newness > 1.01))
    words: dict[int, np.ndarray] = {}
    for boost in rules.boosts:
        if boost.target.span.holds(now):
            mask = boost.target.among(items, rules.words, words)
            worth += boost.log_factor * mask
            touched.append((f"boost:{boost.name}", mask))
    return touched


def _extras(
    items: np.ndarray, pins: Sequence[BoundPin], promotions: Sequence[BoundPromotion], view: ItemView,
    person: PersonView, rules: BoundRules, now: int,
) -> np.ndarray:  # fmt: skip
    """What pins and promotions name that is no candidate and may be shown: item indices int64, in their order."""
    named = [pin.items for pin in pins] + [promotion.items for promotion in promotions]
    if not named:
        return EMPTY
    wanted = np.fromiter(dict.fromkeys(np.concatenate(named).tolist()), np.int64)
    wanted = wanted[~member(wanted, items)]
    return wanted[screen(wanted, view, person, rules, now) == 0]


def _fill(
    worth: np.ndarray, items: np.ndarray, view: ItemView, rules: BoundRules, pins: Sequence[BoundPin],
    promotions: Sequence[BoundPromotion], rng: np.random.Generator, k: int, shown: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, list[tuple[str, ...]]]:  # fmt: skip
    """`fill_places` for candidates best first, with the names of what decided each place.

    `items` int64 [n]; those behind the `worth` float32 [m <= n] are no candidates, they are there for `pins` and
    `promotions`.
    """
    n, m, settings = len(items), len(worth), rules.rules
    k, explore, diversity = min(k, n), settings.exploration, settings.diversity
    state = np.full(n, STAND_IN, np.int8)
    state[:m] = FREE
    claimed = claims(items, state, pins, promotions, rules, k) if pins or promotions else Claims.none(k, n)
    columns = {name: getattr(view, name)[items] for name in settings.attributes}
    caps = settings.caps.limits
    codes = np.stack([columns[name] for name in caps]) if caps else np.empty((0, n), np.int32)
    gain, groups, vectors = np.empty(0, np.float32), np.empty((0, n), np.int32), np.empty((0, n), np.float32)
    if diversity.weight < 1:
        gain = np.zeros(n, np.float32)
        gain[:m] = np.float32(diversity.weight) * unit_range(worth)
        if diversity.similarity == "vectors" and view.vectors is not None:
            vectors = np.ascontiguousarray(view.vectors[items].T)
        else:
            groups = np.stack([columns[name] for name in LIKENESS])
    odds, coins = np.zeros(n), np.empty((0, 2))
    if explore.epsilon > 0:
        coins = rng.random((k, 2))
        unknown = None if view.doubt is None else view.doubt[items[:m]]
        odds[:m] = log_odds(worth, unknown, explore.temperature, explore.thompson)
    tail = settings.long_tail
    counts_of = UNCOUNTED
    if shown is not None and tail.after is not None and tail.after < k:
        counts_of = shown[items]
    chosen, chance, why = fill_places(
        k, state, codes, np.array(list(caps.values()), np.int64), settings.caps.within, settings.caps.relax, gain,
        np.float32(1 - diversity.weight), groups, SHARES, vectors, odds, coins, explore.epsilon, explore.skip_first,
        explore.pool, claimed.pin_at, claimed.due, claimed.every, claimed.belongs, claimed.stands_in,
        counts_of, tail.after or 0, tail.pool,
    )  # fmt: skip
    if not why.any():
        return chosen, chance, [()] * len(chosen)
    return chosen, chance, [_names(place, bits, claimed) for place, bits in enumerate(why.tolist())]


def _names(place: int, bits: int, claimed: Claims) -> tuple[str, ...]:
    if bits & PIN:
        return (f"pin:{claimed.pinned[place]}",)
    if bits & PROMOTION:
        return (f"promotion:{claimed.promoted[claimed.due[place]]}",)
    return _plain_names(bits)


@cache
def _plain_names(bits: int) -> tuple[str, ...]:
    return tuple(name for bit, name in NAMES.items() if bits & bit)


def unit_range(worth: np.ndarray) -> np.ndarray:
    """float32 [n] moved to 0..1, so that it can be weighed against a likeness; all 1 where all are equal."""
    if not len(worth):
        return worth
    low, high = worth.min(), worth.max()
    return (worth - low) / (high - low) if high > low else np.ones(len(worth), np.float32)
