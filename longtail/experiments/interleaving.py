"""Team-draft interleaving: two rankers make one list, and clicks say whose items people want.

Radlinski, Kurup, Joachims: How does clickthrough data reflect retrieval quality? (CIKM 2008). Each person sees both
rankers at once, so that people's differences cancel and far fewer of them are needed than for an A/B test. It says who
ranks better, not by how much the business gains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

TEAM_A, TEAM_B = 0, 1


@dataclass(frozen=True)
class Duel:
    """What came of it: `preference` for B over A in units' credit, -1 to 1, its standard error and 95% interval, the p
    value, and how many units decided for each."""

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


def _best_left(ranked: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The best item [R] of each row that is not among the `taken` [R, p], -1 where there is none."""
    free = (ranked >= 0) & ~(ranked[:, :, None] == taken[:, None, :]).any(-1)
    at = free.argmax(1)
    return np.where(free.any(1), ranked[np.arange(len(ranked)), at], -1)


def credit(unit: np.ndarray, team: np.ndarray, units: int) -> np.ndarray:
    """Clicks for B less clicks for A by unit, float64 [units]: `unit` int [n] and `team` int [n] of each click."""
    sign = np.where(np.asarray(team) == TEAM_B, 1.0, np.where(np.asarray(team) == TEAM_A, -1.0, 0.0))
    return np.bincount(np.asarray(unit, np.int64), sign, units)


def judge(difference: np.ndarray, level: float = 0.95) -> Duel:
    """The verdict over units from their `credit`: a unit decides for the team with more of its clicks; ties count half.

    Units are what varies, however many lists each saw. `preference` is the mean of the signs: 0.1 means that of 100
    units 10 more decide for B than for A.
    """
    votes = np.sign(np.asarray(difference, np.float64))
    n = len(votes)
    mean, se = float(votes.mean()), float(votes.std(ddof=1) / np.sqrt(n))
    reach = float(stats.norm.isf((1 - level) / 2))
    p = float(2 * stats.norm.sf(abs(mean) / se)) if se > 0 else 1.0
    return Duel(mean, se, mean - reach * se, mean + reach * se, p, int((votes < 0).sum()), int((votes > 0).sum()), n)
