"""At most n items of one category or brand in the first places of a list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class CapState:
    """Which candidates would break a cap, while a list is being filled place by place.

    `columns`: code arrays int32 [n], one per cap, -1 (unknown) never capped; `limits`: the cap of each.
    """

    def __init__(self, columns: Sequence[np.ndarray], limits: Sequence[int], n: int) -> None:
        self._columns, self._limits = list(columns), list(limits)
        self._count: list[dict[int, int]] = [{} for _ in self._columns]
        self.full = np.zeros(n, bool)  # True: one more of its group would be too many

    def add(self, candidate: int) -> None:
        """Put the candidate in the list."""
        for column, limit, count in zip(self._columns, self._limits, self._count, strict=True):
            code = int(column[candidate])
            if code < 0:
                continue
            count[code] = count.get(code, 0) + 1
            if count[code] == limit:
                self.full |= column == code

    def lift(self) -> None:
        """The places that the caps speak of are filled: everything is allowed again."""
        self._columns, self._limits, self._count = [], [], []
        self.full[:] = False


def over_cap(codes: np.ndarray, limit: int) -> np.ndarray:
    """bool [k]: places of a list whose group (codes int [k], -1 free) already had `limit` items before them."""
    order = np.argsort(codes, kind="stable")
    grouped = codes[order]
    first = np.searchsorted(grouped, grouped)
    out = np.zeros(len(codes), bool)
    out[order] = (np.arange(len(codes)) - first >= limit) & (grouped >= 0)
    return out


def apply_caps(
    order: np.ndarray, columns: Sequence[np.ndarray], limits: Sequence[int], k: int, within: int | None = None,
    relax: bool = True,
) -> np.ndarray:  # fmt: skip
    """The first k of `order` (int [n] positions into the columns, best first) that respect the caps.

    The caps hold in the first `within` places (default k). When nothing else fits there, `relax` fills up with what
    breaks a cap rather than showing fewer items; without it the list ends.
    """
    left = np.ones(len(order), bool)
    state = CapState([c[order] for c in columns], limits, len(order))
    chosen: list[int] = []
    while len(chosen) < min(k, len(order)):
        if len(chosen) == (k if within is None else within):
            state.lift()
        allowed = left & ~state.full
        if not allowed.any():
            if not relax:
                break
            allowed = left
        best = int(allowed.argmax())
        chosen.append(best)
        left[best] = False
        state.add(best)
    return order[chosen]
