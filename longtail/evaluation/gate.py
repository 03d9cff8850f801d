"""May a challenger replace the champion? Only if it is better by a margin, and not by luck."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longtail.evaluation.bootstrap import RESAMPLES, paired_difference


@dataclass(frozen=True)
class Verdict:
    """`champion`: the challenger takes over; `difference` of the means with its `interval` (low, high); why."""

    champion: bool
    difference: float
    interval: tuple[float, float]
    reason: str


def beats(
    challenger: np.ndarray,
    champion: np.ndarray | None,
    margin: float = 0.0,
    metric: str = "the metric",
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Verdict:
    """Compare two systems on the same cases: float [B] each, `champion` None when there is none yet.

    The challenger wins if its mean is higher by at least `margin` (units of the metric) and the whole interval of the
    paired difference lies above zero. Cases that are NaN in either are left out.

    Raises:
        InvalidInput: the two were judged on different numbers of cases.
    """
    challenger = np.asarray(challenger, np.float64)
    if champion is None:
        known = np.isfinite(challenger)
        if not known.any():
            return Verdict(False, 0.0, (0.0, 0.0), f"{metric} could not be measured: no case has a known answer")
        mean = float(challenger[known].mean())
        return Verdict(True, mean, (mean, mean), f"there is no champion yet; {metric} is {mean:.4f}")
    found = paired_difference(challenger, champion, level, resamples, seed)
    if not found.cases:
        return Verdict(False, 0.0, (0.0, 0.0), f"{metric} could not be compared: no case has a known answer")
    text = (
        f"{metric} differs by {found.mean:+.4f} ({level:.0%} interval {found.low:+.4f} to {found.high:+.4f}, "
        f"{found.cases} cases)"
    )
    interval = (found.low, found.high)
    if found.mean < margin:
        return Verdict(False, found.mean, interval, f"{text}: less than the margin of {margin:.4f}")
    if found.low <= 0:
        return Verdict(False, found.mean, interval, f"{text}: could be chance")
    return Verdict(True, found.mean, interval, f"{text}: better by at least the margin of {margin:.4f}")
