"""Percentile bootstrap over cases: how far a mean could be off because the cases are a sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longtail.errors import InvalidInput

RESAMPLES = 1000
BLOCK = 4_000_000  # weights held at a time: 32 MB, so that a large test fits in little memory


@dataclass(frozen=True)
class Interval:
    """A mean over `cases` cases, and the interval that holds the true mean at the chosen level."""

    mean: float
    low: float
    high: float
    cases: int


def resampled_means(values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Means float64 [resamples, M] of B cases drawn with replacement, from `values` float [B, M].

    A case's columns are drawn together, so that differences between columns are paired. NaN values do not count; a
    resample that holds none but NaN has the mean NaN.
    """
    rng = np.random.default_rng(seed)
    n = len(values)
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    gaps = not known.all()
    out = np.full((resamples, values.shape[1]), np.nan)
    if not n:
        return out
    step = max(1, min(resamples, BLOCK // n))
    weights = np.empty((step, n))
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        for row in range(stop - start):
            weights[row] = np.bincount(rng.integers(0, n, n), minlength=n)
        total = weights[: stop - start] @ filled
        count = weights[: stop - start] @ known.astype(np.float64) if gaps else np.full_like(total, n)
        out[start:stop] = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return out


def intervals(values: np.ndarray, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> list[Interval]:
    """The interval of each column of float [B, M] (or [B]); NaN values are left out of their column."""
    values = np.asarray(values, np.float64)
    values = values[:, None] if values.ndim == 1 else values
    draws = resampled_means(values, resamples, seed)
    known = np.isfinite(values)
    out = []
    for column in range(values.shape[1]):
        cases = int(known[:, column].sum())
        if not cases:
            out.append(Interval(float("nan"), float("nan"), float("nan"), 0))
            continue
        tails = (1 - level) / 2
        finite = draws[np.isfinite(draws[:, column]), column]
        low, high = np.quantile(finite, [tails, 1 - tails])
        mean = float(values[known[:, column], column].mean())
        out.append(Interval(mean, float(low), float(high), cases))
    return out


def paired_difference(
    challenger: np.ndarray, champion: np.ndarray, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Interval of the mean of challenger - champion over the same cases, float [B] each.

    Raises:
        InvalidInput: the two were not judged on the same number of cases.
    """
    challenger, champion = np.asarray(challenger, np.float64), np.asarray(champion, np.float64)
    if challenger.shape != champion.shape:
        raise InvalidInput(
            f"{len(challenger)} cases against {len(champion)}: judge both systems on the same cases before comparing"
        )
    return intervals(challenger - champion, level, resamples, seed)[0]
