"""Multiplying a candidate's worth: boosts and freshness.

A ranker's scores are on a log scale and may be negative, where a plain product would turn a boost into a
punishment. So worth is exp(score), and a factor adds its logarithm to the score.
"""

from __future__ import annotations

import numpy as np

from longtail.schema import DAY_US

TINY = np.float32(1e-9)


def log_worth(scores: np.ndarray, linear: bool) -> np.ndarray:
    """Scores float32 [n] on the log scale. `linear` scores (counts, probabilities) get their logarithm taken.

    A score that is not a number ranks last instead of breaking the order.
    """
    if linear:
        scores = np.log(np.maximum(scores, TINY))
    if np.isfinite(scores).all():
        return scores.astype(np.float32, copy=True)
    finite = scores[np.isfinite(scores)]
    low, high = (finite.min() - 1, finite.max()) if len(finite) else (0.0, 0.0)
    return np.nan_to_num(scores, nan=low, neginf=low, posinf=high).astype(np.float32)


def freshness_factor(created_us: np.ndarray, now: int, half_life_days: float, strength: float) -> np.ndarray:
    """1 + strength x 2^(-age / half-life): float32 [n]; 1 where the age is unknown (-1)."""
    age = np.maximum(now - created_us, 0) / (half_life_days * DAY_US)
    return np.where(created_us >= 0, 1 + strength * np.exp2(-age), 1).astype(np.float32)
