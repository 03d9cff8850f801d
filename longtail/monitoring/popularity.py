"""How the places of lists fall on the catalogue: do bestsellers take over?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from longtail.evaluation.metrics import gini
from longtail.monitoring.judging import Measured

NAMES = ("exposure_gini", "exposure_coverage", "exposure_entropy", "exposure_top1")


@dataclass(frozen=True)
class Spread:
    """`gini`, `coverage` (share of items with a place), `entropy` (1 all alike, 0 one item), `top1` (share of the
    places that the most shown hundredth of the items takes)."""

    gini: float
    coverage: float
    entropy: float
    top1: float


def thinned(counts: np.ndarray, places: int, seed: int = 0) -> np.ndarray:
    """`places` of the counted places, drawn evenly without putting back, int64 [I].

    Coverage grows and Gini falls with the number of places: only equally many places can be compared.
    """
    return np.random.default_rng(seed).multivariate_hypergeometric(counts, places, method="marginals")


def spread(counts: np.ndarray) -> Spread:
    """Of places per item int64 [I], items without a place among them."""
    total = counts.sum()
    share = np.sort(counts)[::-1] / total
    some = share[share > 0]
    entropy = float(-(some * np.log(some)).sum())
    best = max(len(counts) // 100, 1)
    return Spread(
        gini(counts), len(some) / len(counts), entropy / math.log(len(counts)) if len(counts) > 1 else 1.0,
        float(share[:best].sum()),
    )  # fmt: skip


def measure(counts: np.ndarray, reference: np.ndarray | None, places: int) -> list[Measured]:
    """The checks of places per item int64 [I]; `reference` is the same of what the bundle showed when it was judged.

    Both are thinned to `places`.
    """
    if counts.sum() < places:
        why = f"only {int(counts.sum())} places were shown, {places} are compared"
        return [Measured(name, "", math.nan, why_not=why) for name in NAMES]
    now = spread(thinned(counts, places))
    known = reference is not None and len(reference) and reference.sum() >= places
    then = spread(thinned(reference, places)) if known and reference is not None else None
    return [
        Measured(name, "", getattr(now, field), training=getattr(then, field) if then else math.nan)
        for name, field in zip(NAMES, ("gini", "coverage", "entropy", "top1"), strict=True)
    ]
