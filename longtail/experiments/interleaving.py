"""Team-draft interleaving: two rankers make one list, and clicks say whose items people want.

Radlinski, Kurup, Joachims: How does clickthrough data reflect retrieval quality? (CIKM 2008). Each person sees both
rankers at once, so that people's differences cancel and far fewer of them are needed than for an A/B test. It says who
ranks better, not by how much the business gains.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from longtail.experiments.moments import Moments, linear, ratio

TEAM_A, TEAM_B = 0, 1


@dataclass(frozen=True)
class Duel:
    """What came of it: `preference` is the share of clicks for B less that for A, -1 to 1, with its standard error,
    interval and p value; how many units gave each more of their clicks, and how many units there were."""

    preference: float
    se: float
    low: float
    high: float
    p: float
    for_a: int
    for_b: int
    units: int


def team_draft(a: np.ndarray, b: np.ndarray, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One list of two: items int64 [R, k] and whose each is (0 of A, 1 of B), int8 [R, k]; -1 where both ran out.

    `a` [R, n] and `b` [R, n] are item codes, best first, -1 ends a row. In each round a coin says who chooses first;
    each takes its best item that is not in the list yet.
    """
    a, b = np.asarray(a, np.int64), np.asarray(b, np.int64)
    rows = np.arange(len(a))
    items, team = np.full((len(a), k), -1, np.int64), np.full((len(a), k), -1, np.int8)
    first = rng.integers(0, 2, (len(a), -(-k // 2)))
    for place in range(k):
        turn = np.where(place % 2 == 0, first[:, place // 2], 1 - first[:, place // 2])
        best_a, best_b = (_best_left(ranked, items[:, :place]) for ranked in (a, b))
        mine = np.where(turn == TEAM_A, best_a, best_b)
        other = np.where(turn == TEAM_A, best_b, best_a)
        # A ranker that has nothing left leaves its turn to the other.
        chosen, by = np.where(mine >= 0, mine, other), np.where(mine >= 0, turn, 1 - turn)
        items[rows, place] = chosen
        team[rows, place] = np.where(chosen >= 0, by, -1)
    return items, team


def draft_chances(a: Sequence[Hashable], b: Sequence[Hashable], drafted: Sequence[Hashable]) -> list[float]:
    """The chance of each drafted item at its place given those above it, from the lists of two rankers.

    Who chose first in a round is known when its first item could only be of one of the two; then the second is sure.
    """
    out, above = list[float](), set[Hashable]()
    sure = False
    for place, item in enumerate(drafted):
        best = {next((i for i in ranked if i not in above), None) for ranked in (a, b)} - {None}
        split = len(best) == 2
        out.append(0.5 if split and (place % 2 == 0 or not sure) else 1.0)
        sure = split if place % 2 == 0 else False
        above.add(item)
    return out


def _best_left(ranked: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The best item [R] of each row that is not among the `taken` [R, p], -1 where there is none."""
    free = (ranked >= 0) & ~(ranked[:, :, None] == taken[:, None, :]).any(-1)
    at = free.argmax(1)
    return np.where(free.any(1), ranked[np.arange(len(ranked)), at], -1)


def credit(unit: np.ndarray, team: np.ndarray, units: int) -> np.ndarray:
    """Clicks for A and for B by unit, float64 [units, 2]: `unit` int [n] and `team` int [n] (-1: nobody's) of each."""
    unit, team = np.asarray(unit, np.int64), np.asarray(team, np.int64)
    own = team >= 0
    return np.bincount(2 * unit[own] + team[own], minlength=2 * units).reshape(units, 2).astype(np.float64)


def judge(clicks: np.ndarray, alpha: float = 0.05) -> Duel:
    """The verdict from the clicks for A and B of each unit [units, 2], see `credit`.

    Units are what varies, however many lists each saw: the share of clicks is a ratio metric, by the delta method.
    Every click counts; votes by unit, which are told as well, would throw away how sure those are who click often.
    """
    clicks = np.asarray(clicks, np.float64)
    ahead, n = clicks[:, TEAM_B] - clicks[:, TEAM_A], len(clicks)
    if not clicks.any():
        return Duel(0.0, 0.0, -1.0, 1.0, 1.0, 0, 0, n)
    of = Moments.of(ahead, clicks.sum(1))
    found, se = float(ratio(of)), float(np.sqrt(linear(of)[0] / n))
    reach = float(stats.norm.isf(alpha / 2))
    p = float(2 * stats.norm.sf(abs(found) / se)) if se > 0 else float(found == 0)
    return Duel(found, se, found - reach * se, found + reach * se, p, int((ahead < 0).sum()), int((ahead > 0).sum()), n)
