"""How much each past event counts: a history becomes a few weighted items, which most sources start from."""

from __future__ import annotations

import threading
from collections.abc import Sequence
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


class Weightings:
    """Several weightings of the same histories in one compiled call."""

    def __init__(self, weightings: Sequence[Weighting]) -> None:
        self._powers = frozen(np.concatenate([np.empty(0), *(w._powers for w in weightings)]), np.float64)
        ends = np.cumsum([0, *(len(w._powers) for w in weightings)])
        numbers = [(int(w.distinct), int(w.session), int((w.half_life_days or 0) * DAY_US)) for w in weightings]
        plan = np.column_stack([ends[:-1], ends[1:], np.array(numbers, np.int64).reshape(len(numbers), 3)])
        self._plan = frozen(plan, np.int64)

    def of(self, requests: Requests, slot: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The weighted items of B requests, each item once; repeats add up, oldest first, unless `distinct`.

        Those of weighting w and request b are `indptr[w, b]:indptr[w, b + 1]` of `items[w]` and `weights[w]`: int64
        [W, B + 1], int32 and float32 [W, nnz], in the order of their first counted event. `slot` are `slots` of the
        catalogue.
        """
        h, n = requests.history, len(self._plan)
        indptr, items = np.empty((n, len(h) + 1), np.int64), np.empty((n, len(h.item)), np.int32)
        weights = np.empty(items.shape, np.float32)
        _weigh_all(
            self._plan, self._powers, frozen(h.indptr, np.int64), frozen(h.item, np.int32), frozen(h.time, np.int64),
            frozen(h.session, np.int32), frozen(requests.time, np.int64), slot, indptr, items, weights,
        )  # fmt: skip
        return indptr, items, weights


def slots(n: int) -> np.ndarray:
    """This thread's int32 zeros, at least n of them: a compiled loop marks items there and puts the zeros back.

    Marking what was touched costs nothing for all the items that were not, however large the catalogue is.
    """
    own: np.ndarray | None = getattr(_OWN, "slots", None)
    if own is None or len(own) < n:
        own = _OWN.slots = np.zeros(max(n, 1 << int(n - 1).bit_length()), np.int32)
    return own


@compiled
def _weigh_all(
    plan: np.ndarray, powers: np.ndarray, indptr: np.ndarray, item: np.ndarray, time: np.ndarray, session: np.ndarray,
    now: np.ndarray, slot: np.ndarray, out_indptr: np.ndarray, items: np.ndarray, weights: np.ndarray,
) -> None:  # fmt: skip
    exact = np.empty(len(item), np.float64)
    for w in range(len(plan)):
        mine, half_life = powers[plan[w, 0] : plan[w, 1]], np.float64(plan[w, 4])
        n = _weigh(
            indptr, item, time, session, now, mine, half_life, plan[w, 2] > 0, plan[w, 3] > 0, slot, out_indptr[w],
            items[w], exact,
        )  # fmt: skip
        for j in range(n):
            weights[w, j] = exact[j]


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
