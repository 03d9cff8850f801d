"""What an objective costs: quality against money, while lists move from conversion to the money that they bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from longtail.evaluation.bootstrap import Interval, intervals
from longtail.evaluation.metrics import Truth, gains_of, per_case

SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Point:
    """Lists by the mix `{conversion: 1 - share, goal: share}`.

    `ndcg`: NDCG@k of conversion; `brings`: money a list, from what people went on to want of its first k places, a
    purchase counting whole, a cart .3 and a click .1; `gain`, `cost`: what it brings and ranks more than
    share 0 does, over the same people.
    """

    share: float
    ndcg: Interval
    brings: Interval
    gain: Interval
    cost: Interval


@dataclass(frozen=True)
class Frontier:
    """The trade-off of one goal, `points` in the order of their shares; money in the shop's currency."""

    goal: str
    k: int
    points: tuple[Point, ...]


def frontier(
    goal: str, lists_by_share: Mapping[float, np.ndarray], truth: Truth, brings: np.ndarray, k: int = 10, seed: int = 0
) -> Frontier:
    """The frontier of a goal.

    Args:
        lists_by_share: share of the goal in the mix -> int64 [B, >= k] padded with -1; one of them is 0.
        truth: what people went on to want; its gains are those of conversion.
        brings: float64 [I] money by each item sold, NaN where unknown: counts as nothing.
    """
    known = np.nan_to_num(np.asarray(brings, np.float64))
    shares = sorted(lists_by_share)
    columns: list[np.ndarray] = []
    for share in shares:
        lists = lists_by_share[share][:, :k]
        worth = gains_of(lists, truth) * np.where(lists >= 0, known[np.maximum(lists, 0)], 0.0)
        columns += [per_case(lists, truth, (k,))[f"ndcg@{k}"], worth.sum(axis=1)]
    ndcg, money = columns[0], columns[1]
    extra = [column - base for at in range(0, len(columns), 2)
             for column, base in ((columns[at + 1], money), (columns[at], ndcg))]  # fmt: skip
    found = intervals(np.stack(columns + extra, axis=1), seed=seed)
    own, against = found[: len(columns)], found[len(columns) :]
    points = [
        Point(share, own[2 * n], own[2 * n + 1], against[2 * n], against[2 * n + 1]) for n, share in enumerate(shares)
    ]
    return Frontier(goal, k, tuple(points))


def told(frontiers: Sequence[Frontier]) -> list[str]:
    """A sentence for each goal: which of the mixes brings most of it, and what that costs."""
    out = []
    for found in frontiers:
        base = found.points[0]
        best = max(found.points, key=lambda p: p.brings.mean)
        if base.brings.mean > 0 and base.ndcg.mean > 0:
            more, less = best.gain.mean / base.brings.mean, best.cost.mean / base.ndcg.mean
            out.append(
                f"Most {found.goal} comes from a share of {best.share:g}: {more:+.1%} a list for {less:+.1%} "
                f"NDCG@{found.k}."
            )
    return out
