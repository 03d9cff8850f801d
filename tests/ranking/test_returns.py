"""The share of purchases that comes back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from longtail.ranking.returns import return_rates
from longtail.schema import EVENT_CODE
from tests.tiny import log_of


def rates(bought: list[int], back: list[int], category: list[int], prior: float = 20.0) -> np.ndarray:
    """Item j was bought and came back so many times."""
    items = [j for j, n in enumerate(bought) for _ in range(n)] + [j for j, n in enumerate(back) for _ in range(n)]
    log = log_of([(0, item, n) for n, item in enumerate(items)], 1, len(bought))
    value = np.where(np.arange(len(items)) < sum(bought), 10.0, -10.0).astype(np.float32)
    log = replace(
        log, kind=np.full(len(items), EVENT_CODE["purchase"], np.int8), value=value,
        strength=np.where(value > 0, 5, 0).astype(np.float32),
    )  # fmt: skip
    return return_rates(log, np.array(category), prior)


def test_much_bought_items_have_their_own_rate_and_rare_ones_their_category_s() -> None:
    found = rates([4000, 4000, 0, 0], [2000, 40, 0, 0], [0, 1, 0, 1])
    assert np.allclose(found, [0.5, 0.01, 0.5, 0.01], atol=0.005)


def test_items_without_a_category_count_as_the_shop() -> None:
    found = rates([1000, 0], [100, 0], [0, -1])
    assert np.allclose(found, [0.1, 0.1], atol=0.002)


def test_more_returns_than_sales_and_no_sales_stay_within_bounds() -> None:
    assert rates([10, 5], [40, 0], [0, 0]).max() <= 0.95
    assert rates([3], [0], [0]).tolist() == [0.0]
