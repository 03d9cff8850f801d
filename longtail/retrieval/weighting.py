"""How much each past event counts: a history becomes a few weighted items, the query of most sources."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from longtail.compiled import compiled, frozen
from longtail.events import Requests
from longtail.schema import DAY_US

_OWN = threading.local()


@dataclass(frozen=True)
class Weighting:
    """How much each past event counts in a query.

    `last` newest events only; `decay` per step back; `half_life_days` by age at request time; `distinct` counts an item
    once, at its newest event; `session` keeps the newest session only.
    """

    last: int = 500
    decay: float = 1.0
    half_life_days: float | None = None
    distinct: bool = False
    session: bool = False
    _powers: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_powers", frozen(self.decay ** np.arange(self.last, dtype=np.float64), np.float64))

    def as_dict(self) -> dict[str, float | int | bool | None]:
        """What the constructor takes, for a file."""
        names = ("last", "decay", "half_life_days", "distinct", "session")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Query:
    """Weighted items of B requests: those of request b are `indptr[b]:indptr[b + 1]`, each item once.

    `indptr` int64 [B + 1]; `items` int32 [nnz] in the order of their first counted event; `weights` float32 [nnz].
    """

    indptr: np.ndarray
    items: np.ndarray
    weights: np.ndarray

    @staticmethod
    def of(requests: Requests, n_items: int, weighting: Weighting) -> Query:
        """The weighted history of each request; repeats of an item add up, oldest first, unless `distinct`."""
        h = requests.history
        indptr, items = np.empty(len(h) + 1, np.int64), np.empty(len(h.item), np.int32)
        weights = np.empty(len(h.item), np.float64)
        half_life_us = float((weighting.half_life_days or 0) * DAY_US)
        n = _weigh(
            frozen(h.indptr, np.int64), frozen(h.item, np.int32), frozen(h.time, np.int64), frozen(h.session, np.int32),
            frozen(requests.time, np.int64), weighting._powers, half_life_us, weighting.distinct, weighting.session,
            slots(n_items), indptr, items, weights,
        )  # fmt: skip
        return Query(indptr, items[:n], weights[:n].astype(np.float32))


def slots(n: int) -> np.ndarray:
    """This thread's int32 zeros, at least n of them: a compiled loop marks items there and puts the zeros back.

    Marking what was touched costs nothing for all the items that were not, however large the catalogue is.
    """
    own: np.ndarray | None = getattr(_OWN, "slots", None)
    if own is None or len(own) < n:
        own = _OWN.slots = np.zeros(max(n, 1 << int(n - 1).bit_length()), np.int32)
    return own


@compiled
def _weigh(
    indptr: np.ndarray,
    item: np.ndarray,
    time: np.ndarray,
    session: np.ndarray,
    now: np.ndarray,
    powers: np.ndarray,
    half_life_us: float,
    distinct: bool,
    newest_session: bool,
    slot: np.ndarray,
    out_indptr: np.ndarray,
    items: np.ndarray,
    weights: np.ndarray,
) -> int:
    n = 0
    out_indptr[0] = 0
    for b in range(len(now)):
        stop, first = indptr[b + 1], n
        start = max(indptr[b], stop - len(powers))
        for step in range(stop - start):
            # Backwards where the newest event of an item is the one that counts.
            j = stop - 1 - step if distinct else start + step
            if newest_session and session[j] != session[stop - 1]:
                continue
            place = slot[item[j]] - 1
            if place < 0:
                items[n], weights[n] = item[j], 0.0
                place = n
                n += 1
                slot[item[j]] = n
            elif distinct:
                continue
            weight = powers[stop - 1 - j]
            if half_life_us > 0:
                weight *= 2.0 ** ((time[j] - now[b]) / half_life_us)
            weights[place] += weight
        for j in range(first, n):
            slot[items[j]] = 0
        if distinct:
            items[first:n] = items[first:n][::-1].copy()
            weights[first:n] = weights[first:n][::-1].copy()
        out_indptr[b + 1] = n
    return n
