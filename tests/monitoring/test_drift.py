"""How unlike a day's features are to the training reference."""

from __future__ import annotations

import numpy as np
import pytest

from longtail.monitoring.checks import CHECKS
from longtail.monitoring.drift import Served, distance, measure, tenths
from longtail.monitoring.reference import About, Reference

BOUND = CHECKS["feature_drift"].bound
ITEMS = 60


@pytest.fixture
def shop():
    """Counts of sixty items in the snapshot of the training, and a week later; the items shown then, and today."""
    rng = np.random.default_rng(2)
    sold = rng.geometric(1 / 30, ITEMS)
    share = sold / sold.sum()
    counts = (np.log1p(n).astype(np.float32) for n in (sold, rng.poisson(sold)))
    return *counts, rng.choice(ITEMS, 20_000, p=share), rng.choice(ITEMS, 5_000, p=share)


def test_one_item_with_a_rare_value_does_not_move_the_bins_of_all(shop):
    before, later, then, now = shop
    edges = tenths(before[then])
    usual = distance(later[now], before[then], edges)
    for rare in np.linspace(1.0, 1.3, 8) * later.max():
        values = later[now].copy()
        values[:5] = rare
        assert distance(values, before[then], edges) == pytest.approx(usual, rel=0.05)


def test_an_item_that_is_sold_out_is_no_drift(shop):
    before, later, then, now = shop
    edges = tenths(before[then])
    usual = distance(later[now], before[then], edges)
    limit = max(BOUND, (1 + CHECKS["feature_drift"].change) * usual)
    assert max(distance(later[now[now != item]], before[then], edges) for item in range(ITEMS)) < limit


def test_what_changed_is_drift():
    then = np.random.default_rng(0).normal(3, 1, 20_000).astype(np.float32)
    edges = tenths(then)
    assert distance(then[:5_000], then, edges) < 0.05
    assert distance(then[then > 3], then, edges) > 2 * BOUND  # the dearer half alone
    assert distance(then + np.float32(np.log(100)), then, edges) > 3 * BOUND  # another unit
    still = np.zeros(1_000, np.float32)
    assert distance(still, still, tenths(still)) == 0
    assert distance(np.r_[still[:800], np.ones(200, np.float32)], still, tenths(still)) > BOUND


def test_more_newcomers_are_no_drift_of_the_features_of_people():
    from longtail.features.request import feature_list

    names = [f.name for f in feature_list(["popular"])]
    n_all, rng = names.index("user_n_all"), np.random.default_rng(0)

    def rows(n: int, new: float) -> np.ndarray:
        out = np.ones((n, len(names)), np.float32)
        out[:, n_all] = np.where(rng.random(n) < new, 0, rng.normal(4, 1, n).clip(1))
        return out

    def drift(features: np.ndarray) -> float:
        ones, who = np.ones(len(features), np.float32), np.zeros(len(features), np.int64)
        served = Served([None] * 200, who, who, features, ones, features[:, n_all] > 0)
        found = measure(served, Reference(about, then, np.ones(20_000, np.float32), who), ["popular"], 100)
        return next(m.value for m in found if (m.name, m.part) == ("feature_drift", "user_n_all"))

    about, then = About(0, 0, 0, {}, 0.0, [], {}, 0), rows(20_000, 0.04)
    assert drift(rows(5_000, 0.5)) < 0.05
    fewer = rows(5_000, 0.5)
    fewer[:, n_all] *= 0.7
    assert drift(fewer) > BOUND
