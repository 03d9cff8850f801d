"""How far an off-policy value may be off because the log is a sample of people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from longtail.errors import InvalidInput
from longtail.offpolicy.estimators import Score

UNSEEN = 0.5


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
    Weighted clicks are rare and skewed, and three things go wrong with the plain normal interval. It misses on the side
    where the large values lie, as the percentile bootstrap does: Hall's transformation of the t statistic (1992, "On
    the removal of skewness by transformation") takes the skewness out; it is monotone, so it always gives an interval.
    The error itself is guessed from few large values: t has the degrees of freedom that a variance of such kurtosis
    has, 2n / (kurtosis - (n - 3) / (n - 1)) (O'Neill, 2014). And a log that lacks the largest weights looks calm and
    certain: spread, skewness and kurtosis are taken as if it held half a person more, as large as its largest, which is
    what Jeffreys' prior gives to those that were not seen. benchmarks/README.md has the coverage with and without.

    Raises:
        InvalidInput: fewer than two people.
    """
    return _interval(score, user, level, skewed=True)


def normal_estimate(score: Score, user: np.ndarray, level: float = 0.95) -> Estimate:
    """`estimate` without either: symmetric, with n - 1 degrees of freedom."""
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
    counts = np.ones(people)
    if skewed:
        by_person = np.append(by_person, by_person[np.argmax(np.abs(by_person))])
        counts = np.append(counts, UNSEEN)
    n = counts.sum()
    off = by_person - np.average(by_person, weights=counts)
    spread = float(np.sqrt(np.average(off**2, weights=counts)))
    error = spread * float(np.sqrt(n / (n - 1) / people))
    freedom, skewness = float(people - 1), 0.0
    if skewed and spread > 0:
        skewness = float(np.average((off / spread) ** 3, weights=counts))
        excess = float(np.average((off / spread) ** 4, weights=counts)) - (n - 3) / (n - 1)
        freedom = min(freedom, max(1.0, 2 * n / excess)) if excess > 0 else freedom
    tails = [_untransformed(t, skewness, people) for t in stats.t.ppf([(1 + level) / 2, (1 - level) / 2], freedom)]
    low, high = (score.value - t * error for t in tails)
    return Estimate(score.value, error, float(low), float(high), lists, people)


def _untransformed(quantile: float, skewness: float, cases: int) -> float:
    """The t statistic whose transformation g(t) = t + a t^2 + a^2 t^3 / 3 + b is `quantile`; a = s/3, b = s/(6n)."""
    a = skewness / (3 * np.sqrt(cases))
    shifted = quantile - skewness / (6 * np.sqrt(cases))
    if abs(a) < 1e-9:  # not skewed: nothing to undo
        return float(quantile)
    return float((np.cbrt(1 + 3 * a * shifted) - 1) / a)
