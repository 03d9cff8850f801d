"""What an objective costs."""

from __future__ import annotations

import numpy as np

from longtail.evaluation.frontier import frontier, told
from longtail.evaluation.metrics import Truth


def test_the_frontier_says_what_money_costs() -> None:
    """Everybody wants items 0 (a purchase, worth 1) and 1 (a cart, worth 100)."""
    truth = Truth.from_pairs(np.repeat(np.arange(4), 2), np.tile([0, 1], 4), 4, np.tile([1.0, 0.3], 4))
    lists = {0.0: np.tile([0, 2], (4, 1)), 0.5: np.tile([0, 1], (4, 1)), 1.0: np.tile([1, 2], (4, 1))}
    found = frontier("margin", lists, truth, np.array([1.0, 100.0, np.nan]), k=2)
    assert [p.share for p in found.points] == [0.0, 0.5, 1.0]
    assert np.allclose([p.brings.mean for p in found.points], [1.0, 31.0, 30.0])
    best, half, money = (p.ndcg.mean for p in found.points)
    assert half == 1.0 > best > money
    assert np.isclose(found.points[2].cost.mean, money - best) and np.isclose(found.points[2].gain.low, 29.0)
    (line,) = told([found])
    assert "Most margin comes from a share of 0.5: +3000.0% a list for" in line
