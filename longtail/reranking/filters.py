"""Which candidates may be shown at all, and why the others may not."""

from __future__ import annotations

import numpy as np

from longtail.reranking.views import ItemView, PersonView

# An item that fails several filters counts under the first. The first five can be switched off by no rule.
REASONS = ("kept", "unknown", "duplicate", "stock", "region", "age", "blocked", "anchor", "category", "bought",
           "seen")  # fmt: skip
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
    reason = np.zeros(len(items), np.int8)
    inside = (items >= 0) & (items < len(view))
    safe = np.where(inside, items, 0)
    if not len(view):
        return np.full(len(items), REASONS.index("unknown"), np.int8)

    def drop(mask: np.ndarray, name: str) -> None:
        np.copyto(reason, np.int8(REASONS.index(name)), where=mask & (reason == 0))

    drop(~inside, "unknown")
    drop(repeats(items), "duplicate")
    drop(~view.in_stock[safe], "stock")
    drop(~allowed_in(safe, view, person.region), "region")
    drop(view.min_age[safe] > max(person.age, 0), "age")
    if blocked is not None:
        drop(blocked, "blocked")
    if len(person.anchors):
        drop(member(items, person.anchors), "anchor")
    if person.within is not None:
        drop(~member(view.category[safe], person.within), "category")
    if exclude_bought and len(person.bought):
        drop(member(items, person.bought), "bought")
    if exclude_seen and len(person.seen):
        drop(member(items, person.seen), "seen")
    return reason


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


def member(items: np.ndarray, of: np.ndarray) -> np.ndarray:
    """bool [n]: items that occur in `of` (unsorted, int [m])."""
    if not len(of):
        return np.zeros(len(items), bool)
    sorted_of = np.sort(of)
    at = np.minimum(np.searchsorted(sorted_of, items), len(sorted_of) - 1)
    return sorted_of[at] == items
