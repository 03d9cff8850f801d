"""What an event is worth under each objective."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from longtail.errors import InvalidInput
from longtail.events import Log
from longtail.ranking.objective import gains, item_worth
from longtail.schema import EVENT_CODE, EVENT_STRENGTH
from tests.tiny import log_of

KINDS = ["click", "add_to_cart", "purchase", "impression", "purchase"]
PRICE = np.array([10.0, 20.0, 30.0, np.nan, 9000.0], np.float32)
MARGIN = np.array([0.5, 0.1, np.nan, 0.5, 0.5], np.float32)


def log(kinds: list[str] = KINDS) -> Log:
    """Event j is of item j."""
    base = log_of([(0, j, j) for j in range(len(kinds))], 1, 5)
    return replace(
        base, kind=np.array([EVENT_CODE[k] for k in kinds], np.int8),
        strength=np.array([EVENT_STRENGTH[k] for k in kinds], np.float32),
    )  # fmt: skip


def test_clicks_count_interest_alike_and_exposure_not() -> None:
    assert gains(log(), "clicks", PRICE, MARGIN).tolist() == [1, 1, 1, 0, 1]


def test_conversion_prefers_what_is_nearer_to_a_purchase() -> None:
    assert np.allclose(gains(log(), "conversion", PRICE, MARGIN), [0.1, 0.3, 1, 0, 1])


def test_without_purchases_interest_is_what_counts() -> None:
    assert gains(log(["click", "rating", "view"]), "conversion", PRICE, MARGIN).tolist() == [1, 1, 1]


def test_money_scales_by_the_median_within_bounds() -> None:
    """Prices 10, 20, 30, unknown, 9000: the median is 25, and no item counts more than 20 medians."""
    assert np.allclose(gains(log(), "revenue", PRICE, MARGIN), [0.1 * 0.4, 0.3 * 0.8, 1.2, 0, 20])
    # price x margin: 5, 2, unknown, unknown, 4500: the median is 5
    assert np.allclose(gains(log(), "margin", PRICE, MARGIN), [0.1, 0.3 * 0.4, 1, 0, 20])


def test_no_price_is_known() -> None:
    nothing = np.full(5, np.nan, np.float32)
    assert np.allclose(gains(log(), "revenue", nothing, nothing), gains(log(), "conversion", nothing, nothing))


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        InvalidInput, match="'fame' is unknown: use one of clicks, conversion, revenue, net_revenue, margin"
    ):
        gains(log(), "fame", PRICE, MARGIN)


def test_net_revenue_takes_off_what_comes_back() -> None:
    rate = np.array([0.0, 0.5, 0.0, 0.0, 0.0], np.float32)
    price = np.full(5, 10.0, np.float32)
    assert np.allclose(gains(log(), "net_revenue", price, MARGIN, rate), [0.1, 0.3 * 0.5, 1, 0, 1])
    assert np.allclose(gains(log(), "revenue", price, MARGIN, rate), [0.1, 0.3, 1, 0, 1])


def test_a_mix_is_the_weighted_mean_of_its_goals() -> None:
    one, other = gains(log(), "conversion", PRICE, MARGIN), gains(log(), "revenue", PRICE, MARGIN)
    mixed = gains(log(), {"conversion": 3, "revenue": 1}, PRICE, MARGIN)
    assert np.allclose(mixed, 0.75 * one + 0.25 * other)
    assert np.allclose(gains(log(), {"margin": 7}, PRICE, MARGIN), gains(log(), "margin", PRICE, MARGIN))
    with pytest.raises(InvalidInput, match="'fame' is unknown"):
        gains(log(), {"fame": 1.0}, PRICE, MARGIN)


def test_an_items_worth_is_one_for_the_median_item_and_none_without_money() -> None:
    zero = np.zeros(5, np.float32)
    worth = item_worth({"clicks": 0.5, "revenue": 0.5}, PRICE, MARGIN, zero)
    assert worth is not None and np.allclose(worth, [0.7, 0.9, 1.1, 1.0, 180.5])
    assert item_worth("conversion", PRICE, MARGIN, zero) is None
    assert item_worth("revenue", np.full(5, np.nan), MARGIN, zero) is None
