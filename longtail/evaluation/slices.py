"""Groups of cases, or of wanted items, that are judged apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longtail.evaluation.metrics import Truth


@dataclass(frozen=True)
class Slice:
    """Part of a test: the `cases` (int64 [b] row numbers) and what of their truth counts."""

    name: str
    meaning: str
    cases: np.ndarray
    truth: Truth


def popularity_groups(popularity: np.ndarray) -> np.ndarray:
    """int8 [I]: 0 head, 1 mid, 2 tail, -1 never seen in training.

    The most popular items that together hold a third of the interactions are the head, those that hold the next third
    the middle, the rest the tail. `popularity` int64 [I] counts training interactions.
    """
    order = np.lexsort((np.arange(len(popularity)), -popularity))
    before = np.cumsum(popularity[order]) - popularity[order]
    out = np.empty(len(popularity), np.int8)
    out[order] = np.minimum(3 * before // max(int(popularity.sum()), 1), 2)
    out[popularity == 0] = -1
    return out


def make_slices(truth: Truth, popularity: np.ndarray, cold_user: np.ndarray | None = None) -> list[Slice]:
    """The slices that hold at least one case.

    Args:
        popularity: int64 [I] training interactions of each item.
        cold_user: bool [B], people without any history before the test; None when nobody is.
    """
    wanted = truth.sizes > 0
    cold = np.zeros(len(truth), bool) if cold_user is None else np.asarray(cold_user, bool)
    group = popularity_groups(popularity)[truth.items]
    found = [_of_cases("overall", "everyone", truth, wanted)]
    if (cold & wanted).any():
        found += [
            _of_cases("known users", "people with a history", truth, wanted & ~cold),
            _of_cases("cold users", "people without a history", truth, wanted & cold),
        ]
    for code, name, meaning in (
        (0, "head items", "wanted bestsellers: the items that draw the first third of all interactions"),
        (1, "mid items", "wanted items of middling popularity: the second third of all interactions"),
        (2, "tail items", "wanted niche items: the last third of all interactions"),
        (-1, "cold items", "wanted items that nobody had touched before the test"),
    ):
        part = truth.only(group == code)
        found.append(_of_cases(name, meaning, part, part.sizes > 0))
    return [s for s in found if len(s.cases)]


def _of_cases(name: str, meaning: str, truth: Truth, mask: np.ndarray) -> Slice:
    cases = np.flatnonzero(mask)
    return Slice(name, meaning, cases, truth.take(cases))
