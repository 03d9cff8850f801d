"""What the statistics need to know of many units: their number, means and covariances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

X, D, C = 0, 1, 2  # the numerator, the denominator (1 for a mean over units), the covariate of the days before


@dataclass(frozen=True)
class Moments:
    """Of groups of units, any leading shape [...]: `n` float64 [...], `mean` [..., 3] and `cov` [..., 3, 3] (divided by
    n - 1) of (numerator, denominator, covariate)."""

    n: np.ndarray
    mean: np.ndarray
    cov: np.ndarray

    @staticmethod
    def from_sums(n: ArrayLike, total: ArrayLike, cross: ArrayLike) -> Moments:
        """From sums [..., 3] and sums of products [..., 3, 3] over `n` units each."""
        n, total, cross = (np.asarray(a, np.float64) for a in (n, total, cross))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / n[..., None]
            cov = (cross - n[..., None, None] * mean[..., :, None] * mean[..., None, :]) / (n - 1)[..., None, None]
        return Moments(n, mean, cov)

    @staticmethod
    def of(x: ArrayLike, d: ArrayLike | None = None, c: ArrayLike | None = None) -> Moments:
        """Of one group given unit by unit, each [n]."""
        x = np.asarray(x, np.float64)
        rows = np.stack([x, np.ones_like(x) if d is None else np.asarray(d, np.float64),
                         np.zeros_like(x) if c is None else np.asarray(c, np.float64)])  # fmt: skip
        return Moments.from_sums(x.size, rows.sum(1), rows @ rows.T)

    def __getitem__(self, index: Any) -> Moments:
        """A part of the leading shape."""
        return Moments(self.n[index], self.mean[index], self.cov[index])


def ratio(of: Moments) -> np.ndarray:
    """Sum of the numerators over sum of the denominators, [...]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return of.mean[..., X] / of.mean[..., D]


def linear(of: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the linearised metric y = (x - R d) / mean(d), whose mean's variance is the ratio's by the delta method: the
    variance of y over units, its covariance with the covariate, and the covariate's variance, each [...].

    Deng, Knoblich, Lu: Applying the Delta Method in Metric Analytics (KDD 2018). For a mean over units y is
    x - mean(x).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        g = np.stack([1 / of.mean[..., D], -ratio(of) / of.mean[..., D]], -1)
    variance = np.einsum("...i,...ij,...j->...", g, of.cov[..., :2, :2], g)
    shared = np.einsum("...i,...i->...", g, of.cov[..., :2, C])
    return np.maximum(variance, 0), shared, of.cov[..., C, C]
