"""Intervals and p values that hold however often an experiment is looked at.

The normal-mixture boundary for sums (Robbins 1970; Howard, Ramdas, McAuliffe, Sekhon: Time-uniform, nonparametric,
nonasymptotic confidence sequences, Annals of Statistics 2021) with estimated variances, which is valid in large samples
(Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas: Time-uniform central limit theory and asymptotic confidence sequences,
Annals of Statistics 2024): a sum S with variance V stays within sqrt((V + r) log((V + r) / (r alpha^2))) at all times,
with chance 1 - alpha.

Time is V, the variance of the summed effect, not the number of units: units go on acting after they came in. What a
unit does later goes along with what it did before, so the sums at two looks are more alike than those of a random walk
at the same V, and the boundary is crossed less often than it allows. `benchmarks/statistics.py` counts how often.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

LEAST_UNITS = 100  # in each arm before the first look: below it an estimated variance says too little
GROWTH = 1.2  # V grows with this power of the days: 1 when units come once, 2 when all are there on the first day


def best_time(alpha: float) -> float:
    """V / r where the boundary, in standard errors, is lowest."""
    return float(-special.lambertw(-(alpha**2) / np.e, -1).real - 1)


def information(n: ArrayLike, se: ArrayLike, denominator: ArrayLike = 1.0) -> np.ndarray:
    """V of the summed effect of `n` units, from the standard error of the metric and its mean `denominator` over units.

    A ratio metric's sum is that of numerators less the ratio times the denominators: one that grows with the days.
    """
    return (np.asarray(n, np.float64) * np.asarray(se, np.float64) * np.asarray(denominator, np.float64)) ** 2


def clock(first: ArrayLike, days: float, alpha: float) -> np.ndarray:
    """r, from V at the first look: the boundary is lowest about when the planned `days` end.

    Only the first look sets it: what comes later must not.
    """
    return np.asarray(first, np.float64) * max(days, 1.0) ** GROWTH / best_time(alpha)


def width(time: ArrayLike, alpha: float) -> np.ndarray:
    """How many standard errors the interval reaches at `time` = V / r; infinite at 0."""
    time = np.asarray(time, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(time > 0, np.sqrt((1 + 1 / time) * (np.log1p(time) - 2 * np.log(alpha))), np.inf)


def p_value(z: ArrayLike, time: ArrayLike) -> np.ndarray:
    """The smallest alpha whose interval at `time` excludes 0, at most 1."""
    z, time = np.asarray(z, np.float64), np.asarray(time, np.float64)
    return np.minimum(1.0, np.sqrt(1 + time) * np.exp(-0.5 * z**2 * time / (1 + time)))


def inflation(alpha: float, power: float) -> float:
    """How many times the units of a test that is looked at once this one needs at most, by its planned end."""
    reach = float(width(best_time(alpha), alpha))
    more = stats.norm.isf(1 - power)
    return float(((reach + more) / (stats.norm.isf(alpha / 2) + more)) ** 2)
