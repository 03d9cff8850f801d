"""Whether a log can say anything about a target policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Overlap:
    """How the weights of N lists lie.

    `effective` lists of equal weight would say as much as the log (Kish, 1965), `effective_share` of N; `mean_weight`
    is 1 in the mean where chances are right, and `mean_error` its standard error; `max_weight`; `top_share` of the
    whole weight lies in the heaviest hundredth of the places; `unused` share of the logged places shows what the target
    never would; `unsupported` share of what the target shows could not have been logged (NaN: not known).
    """

    lists: int
    effective: float
    effective_share: float
    mean_weight: float
    mean_error: float
    max_weight: float
    top_share: float
    unused: float
    unsupported: float


def overlap(
    weight: np.ndarray, shown: np.ndarray, unsupported: float = float("nan"), looked: np.ndarray | None = None
) -> Overlap:
    """Diagnostics of weights float64 [N, K] (or [N]); `shown` bool, the list has the place.

    A list counts with the mean weight of its places, each as much as it is `looked` at (float [K], None: alike).
    """
    weight = np.asarray(weight, np.float64)
    weight = weight[:, None] if weight.ndim == 1 else weight
    shown = np.asarray(shown, bool).reshape(weight.shape)
    share = shown * (np.ones(weight.shape[1]) if looked is None else looked)
    whole = share.sum(1)
    of_list = (share * weight).sum(1)[whole > 0] / whole[whole > 0]
    used = np.sort(weight[shown])[::-1]
    n, total, squares = len(of_list), of_list.sum(), (of_list**2).sum()
    if not n:
        return Overlap(0, 0.0, 0.0, float("nan"), float("nan"), 0.0, 0.0, float("nan"), unsupported)
    effective = total**2 / squares if squares > 0 else 0.0
    top = used[: max(1, round(0.01 * len(used)))].sum() / used.sum() if used.sum() > 0 else 0.0
    return Overlap(
        n, float(effective), float(effective / n), float(of_list.mean()), float(of_list.std() / np.sqrt(n)),
        float(used[0]), float(top), float((used == 0).mean()), unsupported,
    )  # fmt: skip
