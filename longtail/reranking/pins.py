"""Pins and promotions: which places of a list they claim, worked out before the first place is filled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from longtail.reranking.binding import BoundPin, BoundPromotion, BoundRules
from longtail.reranking.fill import TAKEN


@dataclass(frozen=True)
class Claims:
    """`pin_at`, `due` int64 [k], `every` int64 [P], `belongs`, `stands_in` bool [P, n]: see `fill_places`.

    `pinned`: the pin's name by place; `promoted`: the promotions' names.
    """

    pin_at: np.ndarray
    due: np.ndarray
    every: np.ndarray
    belongs: np.ndarray
    stands_in: np.ndarray
    pinned: dict[int, str]
    promoted: list[str]

    @staticmethod
    def none(k: int, n: int) -> Claims:
        """No pins and no promotions."""
        nobody, nothing = np.full(k, -1, np.int64), np.zeros((0, n), bool)
        return Claims(nobody, nobody, np.empty(0, np.int64), nothing, nothing, {}, [])


def claims(
    items: np.ndarray, state: np.ndarray, pins: Sequence[BoundPin], promotions: Sequence[BoundPromotion],
    rules: BoundRules, k: int,
) -> Claims:  # fmt: skip
    """The places that pins and promotions claim in a list of k, given the items int64 [n] that may be shown.

    A pinned item is marked TAKEN in `state`, so that it does not come up at another place. A promotion is due at the
    last place of each of its blocks that nobody else claims, unless a pin in that block belongs to it already.
    """
    pin_at = np.full(k, -1, np.int64)
    pinned: dict[int, str] = {}
    for pin in pins:
        if pin.place >= k or pin_at[pin.place] >= 0:
            continue
        for item in pin.items:
            at = np.flatnonzero(items == item)
            if len(at) and state[at[0]] != TAKEN:
                pin_at[pin.place], state[at[0]] = at[0], TAKEN
                pinned[pin.place] = pin.name
                break
    due = np.full(k, -1, np.int64)
    belongs = np.zeros((len(promotions), len(items)), bool)
    stands_in = np.zeros_like(belongs)
    words: dict[int, np.ndarray] = {}
    for p, promotion in enumerate(promotions):
        belongs[p] = promotion.target.among(items, rules.words, words)
        stands_in[p] = np.isin(items, promotion.items)
        for start in range(0, k - promotion.every + 1, promotion.every):
            block = range(start, start + promotion.every)
            if any(pin_at[place] >= 0 and belongs[p, pin_at[place]] for place in block):
                continue
            free = [place for place in block if pin_at[place] < 0 and due[place] < 0]
            if free:
                due[free[-1]] = p
    every = np.array([promotion.every for promotion in promotions], np.int64)
    return Claims(pin_at, due, every, belongs, stands_in, pinned, [promotion.name for promotion in promotions])
