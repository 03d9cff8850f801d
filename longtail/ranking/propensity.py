"""How likely a place in a list is looked at, learned from the log."""

from __future__ import annotations

import numpy as np

from longtail.events import Log
from longtail.schema import EVENT_CODE


def examination(log: Log, rounds: int = 50, prior: float = 10.0) -> np.ndarray:
    """Examination propensity of each position, float64 [P], 1 for the most looked-at; empty without impressions.

    Clicks of item i at position p are Poisson with mean impressions x attraction(i) x examination(p), fitted by
    alternating maximum likelihood: the same item seen at several places tells place from taste (the position-based
    model; Wang et al., WSDM 2018). `prior` pseudo-impressions of average attraction keep rare items in bounds.
    """
    shown = log.select((log.kind == EVENT_CODE["impression"]) & (log.position >= 0) & (log.request >= 0))
    if not len(shown):
        return np.empty(0)
    liked = log.select((log.strength > 0) & (log.request >= 0))
    clicked = np.isin(shown.request.astype(np.int64) * log.n_items + shown.item,
                      liked.request.astype(np.int64) * log.n_items + liked.item)  # fmt: skip
    n_positions = int(shown.position.max()) + 1
    cell, where = np.unique(shown.item.astype(np.int64) * n_positions + shown.position, return_inverse=True)
    item, position = cell // n_positions, cell % n_positions
    impressions = np.bincount(where).astype(np.float64)
    clicks = np.bincount(where, clicked)
    base = (clicks.sum() + 1) / (impressions.sum() + 1)
    theta = np.ones(n_positions)
    for _ in range(rounds):
        expected = np.bincount(item, impressions * theta[position], log.n_items)
        attraction = (np.bincount(item, clicks, log.n_items) + prior * base) / (expected + prior)
        theta = (np.bincount(position, clicks, n_positions) + 1e-3) / (
            np.bincount(position, impressions * attraction[item], n_positions) + 1e-3
        )
        theta = theta / theta.max()
    return theta


def inverse_propensity(position: np.ndarray, theta: np.ndarray, clip: float = 3.0) -> np.ndarray:
    """Weight float32 [N] of events at `position` int [N]: 1 / examination, at most `clip`; 1 where unknown.

    The clip is low because a weight costs variance everywhere and corrects only where place and taste go together: see
    benchmarks/README.md for what higher ones lose.
    """
    known = (position >= 0) & (position < len(theta))
    if not len(theta):
        return np.ones(len(position), np.float32)
    weight = 1 / np.maximum(theta[np.where(known, position, 0)], 1 / clip)
    return np.where(known, weight, 1).astype(np.float32)


def self_normalised(weight: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Weights float32 [N] scaled so that those of list events (`position` >= 0) are 1 on average.

    What people found without a list has weight 1 and is no less true than a click: unscaled, clicks would outweigh it
    by the mean of 1 / examination (Swaminathan and Joachims, NIPS 2015, on the variance that this saves as well).
    """
    listed = position >= 0
    if not listed.any():
        return weight
    return np.where(listed, weight / weight[listed].mean(), weight).astype(np.float32)
