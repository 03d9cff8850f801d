"""How likely a place in a list is looked at, learned from the log."""

from __future__ import annotations

import numpy as np

from longtail.events import Log
from longtail.schema import EVENT_CODE

HEAVIEST = 30.0  # a drawn item's weight at most, over the mean: one click must not decide a place
ENOUGH = 50.0  # clicks on drawn items, weighed, that a place needs to be learned from them


def examination(log: Log, rounds: int = 50, prior: float = 10.0) -> np.ndarray:
    """Examination propensity of each position, float64 [P], 1 for the most looked-at; empty without impressions.

    Clicks of item i at position p are Poisson with mean impressions x attraction(i) x examination(p), fitted by
    alternating maximum likelihood: the same item seen at several places tells place from taste (the position-based
    model; Wang et al., WSDM 2018). `prior` pseudo-impressions of average attraction keep rare items in bounds.

    Where a ranker places items by each person's taste, the same item stands high for those who like it: taste passes
    for place. Places that explore tell more: there, impressions weighed by the inverse of their logged chance show
    items as if evenly drawn (as in result randomisation; Joachims et al., WSDM 2017). Where at least two places have
    enough of them, the ratios between those come from them alone, the others from all impressions.
    """
    shown = log.select((log.kind == EVENT_CODE["impression"]) & (log.position >= 0) & (log.request >= 0))
    if not len(shown):
        return np.empty(0)
    liked = log.select((log.strength > 0) & (log.request >= 0))
    clicked = np.isin(shown.request.astype(np.int64) * log.n_items + shown.item,
                      liked.request.astype(np.int64) * log.n_items + liked.item)  # fmt: skip
    theta, _ = _fit(shown, clicked, np.ones(len(shown)), rounds, prior)
    drawn = np.isfinite(shown.propensity) & (shown.propensity > 0) & (shown.propensity < 1)
    if drawn.any():
        weight = 1 / shown.propensity[drawn].astype(np.float64)
        weight = np.minimum(weight / weight.mean(), HEAVIEST)
        exact, clicks = _fit(shown.select(drawn), clicked[drawn], weight / weight.mean(), rounds, prior)
        known = np.flatnonzero(clicks >= ENOUGH)
        if len(known) > 1:
            scale = theta[known] @ clicks[known] / (exact[known] @ clicks[known])
            theta[known] = scale * exact[known]
    return theta / theta.max()


def _fit(
    shown: Log, clicked: np.ndarray, weight: np.ndarray, rounds: int, prior: float
) -> tuple[np.ndarray, np.ndarray]:
    """Examination float64 [P] and the weighed clicks float64 [P] that it was learned from."""
    n_items, n_positions = shown.n_items, int(shown.position.max()) + 1
    cell, where = np.unique(shown.item.astype(np.int64) * n_positions + shown.position, return_inverse=True)
    item, position = cell // n_positions, cell % n_positions
    impressions = np.bincount(where, weight)
    clicks = np.bincount(where, clicked * weight)
    base = (clicks.sum() + 1) / (impressions.sum() + 1)
    theta = np.ones(n_positions)
    of_position = np.bincount(position, clicks, n_positions)
    for _ in range(rounds):
        expected = np.bincount(item, impressions * theta[position], n_items)
        attraction = (np.bincount(item, clicks, n_items) + prior * base) / (expected + prior)
        looks = np.bincount(position, impressions * attraction[item], n_positions)
        theta = (of_position + 1e-3) / (looks + 1e-3)
        theta = theta / theta.max()
    return theta, of_position


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
