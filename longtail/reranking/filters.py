"""Which candidates may be shown at all, and why the others may not."""

from __future__ import annotations

import numpy as np

from longtail.reranking.binding import BoundRules
from longtail.reranking.views import ItemView, PersonView

# An item that fails several filters counts under the first. The first five can be switched off by no rule.
REASONS = ("kept", "unknown", "duplicate", "stock", "region", "age", "blocked", "anchor", "category", "bought",
           "seen")  # fmt: skip
_UNKNOWN = REASONS.index("unknown")
SAFETY = ("unknown", "duplicate", "stock", "region", "age")


def eligibility(
    items: np.ndarray,
    view: ItemView,
    person: PersonView,
    blocked: np.ndarray | None = None,
    exclude_bought: bool = False,
    exclude_seen: bool = False,
) -> np.ndarray:
    """Code of the first reason against each candidate: int8 [n] index into `REASONS`, 0 for those that may be shown.

    Args:
        items: int64 [n] item indices; those outside the catalogue are dropped as `unknown`, repeats as `duplicate`.
        blocked: bool [n], or None.
    """
    if not len(view) or not len(items):
        return np.full(len(items), _UNKNOWN, np.int8)
    reason = np.zeros(len(items), np.int8)
    inside = (items >= 0) & (items < len(view))
    safe = items if inside.all() else np.where(inside, items, 0)
    # The last word is the first reason's, so they are written from the least to the most telling one.
    if exclude_seen and len(person.seen):
        reason[member(items, person.seen)] = REASONS.index("seen")
    if exclude_bought and len(person.bought):
        reason[member(items, person.bought)] = REASONS.index("bought")
    if person.within is not None:
        reason[~member(view.category[safe], person.within)] = REASONS.index("category")
    if len(person.anchors):
        reason[member(items, person.anchors)] = REASONS.index("anchor")
    if blocked is not None:
        reason[blocked] = REASONS.index("blocked")
    reason[view.min_age[safe] > max(person.age, 0)] = REASONS.index("age")
    reason[~allowed_in(safe, view, person.region)] = REASONS.index("region")
    reason[~view.in_stock[safe]] = REASONS.index("stock")
    if not ascending(items):
        reason[repeats(items)] = REASONS.index("duplicate")
    if safe is not items:
        reason[~inside] = _UNKNOWN
    return reason


def screen(items: np.ndarray, view: ItemView, person: PersonView, rules: BoundRules, now: int) -> np.ndarray:
    """`eligibility` with the filters and the block list that hold at `now` (microseconds): int8 [n]."""
    filters = rules.rules.filters
    return eligibility(items, view, person, blocked(items, rules, now), filters.exclude_bought, filters.exclude_seen)


def may_show(items: np.ndarray, view: ItemView, person: PersonView, rules: BoundRules, now: int) -> np.ndarray:
    """bool [n]: what safety, block list and the shop's filters leave of a list that `rerank` does not make.

    Stored and popular lists pass it on their way out: what was blocked or sold out since they were made is dropped.
    """
    return screen(items, view, person, rules, now) == 0


def blocked(items: np.ndarray, rules: BoundRules, now: int) -> np.ndarray | None:
    """bool [n]: what the rules block at `now` (microseconds); None where they block nothing."""
    out: np.ndarray | None = None
    for word, bits in rules.block_bits(now):
        of = rules.words[word]
        if not len(of):
            return None
        hit = (of.take(items, mode="clip") & bits) != 0
        out = hit if out is None else out | hit
    return out


def keep_mask(items: np.ndarray, view: ItemView, person: PersonView) -> np.ndarray:
    """bool [n]: the safety filters alone (stock, region, age), for lists that no rule has touched."""
    return eligibility(items, view, person) == 0


def counts(reason: np.ndarray) -> dict[str, int]:
    """How many candidates each reason dropped; reasons that dropped none are left out."""
    totals = np.bincount(reason, minlength=len(REASONS))
    return {name: int(totals[code]) for code, name in enumerate(REASONS) if code and totals[code]}


def allowed_in(items: np.ndarray, view: ItemView, region: int) -> np.ndarray:
    """bool [n]: may be shown in the region; in an unknown region (-1) only items without a limit may."""
    everywhere = view.everywhere[items]
    if region < 0 or region >= 64 * view.regions.shape[1]:
        return everywhere
    bit = (view.regions[items, region // 64] >> np.uint64(region % 64)) & np.uint64(1)
    return everywhere | (bit == 1)


def repeats(items: np.ndarray) -> np.ndarray:
    """bool [n]: an equal item came before."""
    order = np.argsort(items, kind="stable")
    out = np.zeros(len(items), bool)
    out[order[1:]] = items[order[1:]] == items[order[:-1]]
    return out


def ascending(items: np.ndarray) -> bool:
    """Whether each item is greater than the one before: then none comes twice."""
    return bool((items[1:] > items[:-1]).all())


def member(items: np.ndarray, of: np.ndarray) -> np.ndarray:
    """bool [n]: items that occur in `of` (unsorted, int [m])."""
    if not len(of) or not len(items):
        return np.zeros(len(items), bool)
    if ascending(items):
        # What comes from the retriever is in order: looking `of` up in it needs no sorting.
        at = items.searchsorted(of)
        at[at == len(items)] = 0
        out = np.zeros(len(items), bool)
        out[at[items[at] == of]] = True
        return out
    sorted_of = np.sort(of)
    at = np.minimum(np.searchsorted(sorted_of, items), len(sorted_of) - 1)
    return sorted_of[at] == items
