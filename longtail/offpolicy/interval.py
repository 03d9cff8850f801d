"""How far an off-policy value may be off because the log is a sample of people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from longtail.errors import InvalidInput
from longtail.offpolicy.estimators import Score


@dataclass(frozen=True)
class Estimate:
    """A value per list with its standard `error` and the interval (`low`, `high`), from `lists` of `users`."""

    value: float
    error: float
    low: float
    high: float
    lists: int
    users: int


def estimate(score: Score, user: np.ndarray, level: float = 0.95) -> Estimate:
    """The two-sided interval of a score; `user` int [N] says whose list it is.

    One person's lists are alike, so people are the cases: influences are summed by person (Liang and Zeger, 1986).
    Weighted clicks are rare and skewed: the plain normal interval misses on the side where the large values lie, and so
    does the percentile bootstrap. Hall's transformation of the t statistic (1992, "On the removal of skewness by
    transformation") takes the skewness out; it is monotone, so it always gives an interval. See benchmarks/README.md
    for the coverage of the three.

    Raises:
        InvalidInput: fewer than two people.
    """
    return _interval(score, user, level, skewed=True)


def normal_estimate(score: Score, user: np.ndarray, level: float = 0.95) -> Estimate:
    """`estimate` without the transformation: symmetric."""
    return _interval(score, user, level, skewed=False)


def jackknife(value: float, without: np.ndarray, user: np.ndarray, level: float = 0.95) -> Estimate:
    """The interval of a value that was worked out again without each of G equal groups of people, float64 [G].

    For the direct method, whose influences leave out that its model was fitted to a sample: each fold's model judged on
    all people but those of its fold (the delete-a-group jackknife; Kott, 2001). It knows of the model's noise, and
    nothing of what its form cannot express.
    """
    groups = len(without)
    error = float(np.sqrt((groups - 1) / groups * ((without - without.mean()) ** 2).sum()))
    reach = float(stats.t.ppf((1 + level) / 2, groups - 1)) * error
    return Estimate(value, error, value - reach, value + reach, len(user), len(np.unique(user)))


def _interval(score: Score, user: np.ndarray, level: float, skewed: bool) -> Estimate:
    codes, counted = np.unique(user, return_inverse=True)
    people, lists = len(codes), len(score.influence)
    if people < 2:
        raise InvalidInput(f"{people} people in the log: an interval needs at least two")
    by_person = np.bincount(counted, score.influence, people) * people / lists
    spread = by_person.std(ddof=1)
    error = float(spread / np.sqrt(people))
    tails = stats.t.ppf([(1 + level) / 2, (1 - level) / 2], people - 1)
    if skewed and spread > 0:
        skewness = float(((by_person - by_person.mean()) ** 3).mean() / spread**3)
        tails = [_untransformed(t, skewness, people) for t in tails]
    low, high = (score.value - t * error for t in tails)
    return Estimate(score.value, error, float(low), float(high), lists, people)


def _untransformed(quantile: float, skewness: float, cases: int) -> float:
    """The t statistic whose transformation g(t) = t + a t^2 + a^2 t^3 / 3 + b is `quantile`; a = s/3, b = s/(6n)."""
    a = skewness / (3 * np.sqrt(cases))
    shifted = quantile - skewness / (6 * np.sqrt(cases))
    if abs(a) < 1e-9:
        return float(shifted)
    return float((np.cbrt(1 + 3 * a * shifted) - 1) / a)
