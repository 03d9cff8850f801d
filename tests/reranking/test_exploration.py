"""Thompson exploration: what is unknown of an item widens its score, and the chance of every place is known exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from longtail.reranking import PersonView, Rules, rerank
from longtail.reranking.exploration import doubt
from tests.reranking.shop import NOW, catalogue, view

SHOP = catalogue(60)
UNKNOWN = np.zeros(60, np.float32)
UNKNOWN[3] = 1.3  # never shown
VIEW = replace(view(60), everywhere=np.ones(60, bool), in_stock=np.ones(60, bool), min_age=np.zeros(60, np.int32),
               doubt=UNKNOWN)  # fmt: skip
SCORES = np.array([-1.0, -1.3, -1.6, -2.0, -6.0], np.float32)


def lists(n: int, k: int, seed: int = 0, **exploration: float) -> tuple[np.ndarray, np.ndarray]:
    """Items int64 [n, k] and propensities float64 [n, k] of n lists."""
    rules = Rules.model_validate({"exploration": exploration}).bind(SHOP)
    rng = np.random.default_rng(seed)
    found = [rerank(SCORES, np.arange(5), VIEW, PersonView(), rules, rng, NOW, k) for _ in range(n)]
    return np.stack([f.items for f in found]), np.stack([f.propensity for f in found]).astype(np.float64)


def test_doubt_is_the_spread_of_the_log_odds_that_the_counts_leave() -> None:
    draws = np.random.default_rng(0).beta(1 + 30, 19 + 400, 200_000)
    assert doubt(np.array([30]), np.array([400]))[0] == pytest.approx(np.log(draws / (1 - draws)).std(), rel=0.01)
    falling = doubt(np.array([0, 1, 5, 50, 5000]), np.array([0, 20, 100, 1000, 100_000]))
    assert (np.diff(falling) < 0).all() and falling[0] > 1.2 and falling[-1] < 0.02


@pytest.mark.parametrize("epsilon", [0.4, 1.0])
def test_the_logged_chance_is_how_often_it_happens(epsilon: float) -> None:
    shown, chance = lists(6000, 3, epsilon=epsilon, skip_first=1, temperature=0.5, thompson=1.5)
    assert (chance[:, 0] == 1).all() and (shown[:, 0] == 0).all()
    for above in ([0], [0, 1], [0, 3]):
        place = len(above)
        here = (shown[:, :place] == above).all(1)
        for item in range(5):
            mine = here & (shown[:, place] == item)
            if mine.any():
                p = chance[mine, place][0]
                assert (chance[mine, place] == p).all()
                assert abs(mine.sum() / here.sum() - p) < 4 * np.sqrt(p * (1 - p) / here.sum())


def test_weighing_by_the_logged_chance_recovers_what_another_policy_would_have_earned() -> None:
    """Inverse propensity weights of a log of drawn lists give the value of showing item 2 at the second place."""
    shown, chance = lists(8000, 2, seed=3, epsilon=1.0, skip_first=1, temperature=0.5, thompson=1.5)
    worth = np.array([0.5, 0.3, 0.8, 0.1, 0.2])
    clicked = np.random.default_rng(1).random(len(shown)) < worth[shown[:, 1]]
    weight = (shown[:, 1] == 2) / chance[:, 1]
    assert weight.mean() == pytest.approx(1, abs=0.06)
    assert (weight * clicked).mean() == pytest.approx(0.8, abs=0.06)


def test_what_is_unknown_is_tried_and_what_is_known_to_be_bad_is_not() -> None:
    def share(item: int, thompson: float) -> float:
        return float((lists(800, 2, epsilon=1.0, skip_first=1, temperature=0.3, thompson=thompson)[0] == item).mean())

    assert share(3, 1.0) > 4 * share(3, 0.0) > 0
    assert share(4, 1.0) == 0


def test_without_a_temperature_there_is_nothing_to_widen() -> None:
    with pytest.raises(ValueError, match="give a temperature"):
        Rules.model_validate({"exploration": {"epsilon": 0.1, "thompson": 1.0}})
