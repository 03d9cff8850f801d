"""The effect of a treatment on one metric: difference, lift, and how far off both could be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from longtail.experiments.moments import C, Moments, linear, ratio


@dataclass(frozen=True)
class Effect:
    """Treatment against control; every field float64 of the moments' leading shape.

    `control` and `treatment` are the metric's values (CUPED-adjusted where that was asked for), `difference` and
    `lift` (relative) with their standard errors, `df` the degrees of freedom (Welch), `kept` the share of the variance
    that CUPED left (1: no gain), `n` the units of both.
    """

    control: np.ndarray
    treatment: np.ndarray
    difference: np.ndarray
    se: np.ndarray
    lift: np.ndarray
    lift_se: np.ndarray
    df: np.ndarray
    kept: np.ndarray
    n: np.ndarray

    @property
    def z(self) -> np.ndarray:
        """The difference in standard errors; 0 where nothing varies."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.se > 0, self.difference / self.se, 0.0)

    def p_value(self) -> np.ndarray:
        """Chance of a difference as large without any effect, two-sided, looked at once."""
        return 2 * stats.t.sf(np.abs(self.z), self.df)

    def width(self, alpha: float) -> np.ndarray:
        """How many standard errors the interval of level 1 - alpha reaches, looked at once."""
        return stats.t.isf(alpha / 2, self.df)


def compare(control: Moments, treatment: Moments, cuped: bool = True) -> Effect:
    """The effect on a metric, ratio metrics by the delta method.

    CUPED (Deng, Xu, Kohavi, Walker: Improving the Sensitivity of Online Controlled Experiments by Utilizing
    Pre-Experiment Data, WSDM 2013): each arm's value is moved by theta times how far its covariate is from that of
    both; theta is pooled, so that it cannot differ by arm. The lift's error is by the delta method, arms independent.
    """
    arms = (control, treatment)
    value = [ratio(m) for m in arms]
    parts = [linear(m) for m in arms]
    n = control.n + treatment.n
    with np.errstate(invalid="ignore", divide="ignore"):
        shared, spread = (sum(m.n * p[i] for m, p in zip(arms, parts, strict=True)) for i in (1, 2))
        theta = np.where(spread > 0, shared / spread, 0.0) if cuped else np.zeros_like(n, np.float64)
        middle = (control.n * control.mean[..., C] + treatment.n * treatment.mean[..., C]) / n
        value = [v - theta * (m.mean[..., C] - middle) for v, m in zip(value, arms, strict=True)]
        plain = [p[0] / m.n for m, p in zip(arms, parts, strict=True)]
        errors = [(p[0] - 2 * theta * p[1] + theta**2 * p[2]).clip(min=0) / m.n
                  for m, p in zip(arms, parts, strict=True)]  # fmt: skip
        se = np.sqrt(errors[0] + errors[1])
        df = se**4 / (errors[0] ** 2 / (control.n - 1) + errors[1] ** 2 / (treatment.n - 1))
        by = value[1] / value[0]
        # Of what the control lost, where more came back than was sold: more is better then, too.
        lift = (by - 1) * np.sign(value[0])
        lift_se = np.sqrt(errors[1] + by**2 * errors[0]) / np.abs(value[0])
        kept = np.where(plain[0] + plain[1] > 0, (errors[0] + errors[1]) / (plain[0] + plain[1]), 1.0)
    return Effect(value[0], value[1], value[1] - value[0], se, lift, lift_se, np.where(df > 0, df, 1.0), kept, n)


def holm(p: ArrayLike) -> np.ndarray:
    """P values corrected for their number (Holm); NaN stay NaN and do not count. float64 [n]."""
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p, np.float64)
    out, known = p.copy(), np.isfinite(p)
    if known.any():
        out[known] = multipletests(p[known], method="holm")[1]
    return out


def ratio_check(counts: ArrayLike, shares: ArrayLike) -> np.ndarray:
    """Chance of units as unevenly split over the arms as `counts` [..., A] under the planned `shares` [A], [...].

    Chi-square. A value below 0.001 says that exposure or logging differs between the arms: nothing else can be read.
    """
    counts, shares = np.asarray(counts, np.float64), np.asarray(shares, np.float64)
    expected = counts.sum(-1, keepdims=True) * shares / shares.sum()
    return stats.chisquare(counts, expected, axis=-1).pvalue
