"""The ranker finds a planted order, and the two stages cut lists the same way everywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.errors import InvalidInput
from longtail.features.definitions import Feature
from longtail.ranking.ranker import RankerConfig, TrainingRows, train_ranker
from longtail.ranking.two_stage import best_of

QUICK = RankerConfig(rounds=25, eta=0.2, max_depth=3, min_child_weight=1, threads=1, colsample=1.0)
FEATURES = [Feature("noise", "item", ""), Feature("signal", "source", ""), Feature("unknown", "item", "")]


def planted(groups: int = 150, size: int = 10, seed: int = 0) -> TrainingRows:
    """The wanted row of each group is the one of largest signal; a third column is NaN throughout."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(groups * size, 3)).astype(np.float32)
    features[:, 2] = np.nan
    best = features[:, 1].reshape(groups, size).argmax(1)
    gain = np.zeros((groups, size), np.float32)
    gain[np.arange(groups), best] = 0.3
    return TrainingRows(features, gain.ravel(), np.full(groups, size), np.ones(groups, np.float32))


def hits(booster, rows: TrainingRows) -> float:
    score = booster.inplace_predict(rows.features).reshape(len(rows.sizes), -1)
    return float(np.mean(score.argmax(1) == rows.gain.reshape(score.shape).argmax(1)))


def test_learns_a_planted_signal() -> None:
    booster = train_ranker(planted(), FEATURES, QUICK)
    assert hits(booster, planted(seed=1)) > 0.8
    gain = booster.get_score(importance_type="total_gain")
    assert max(gain, key=gain.get) == "signal" and "unknown" not in gain


def test_same_seed_same_ranker() -> None:
    first, again = (train_ranker(planted(), FEATURES, QUICK).save_raw() for _ in range(2))
    assert first == again


def test_only_the_ratio_of_weights_counts() -> None:
    rows = planted()
    doubled = TrainingRows(rows.features, rows.gain, rows.sizes, rows.weight * 2)
    assert train_ranker(rows, FEATURES, QUICK).save_raw() == train_ranker(doubled, FEATURES, QUICK).save_raw()


def test_groups_of_one_row_teach_nothing_and_do_no_harm() -> None:
    rows = TrainingRows(
        np.ones((3, 3), np.float32), np.ones(3, np.float32), np.ones(3, np.int64), np.ones(3, np.float32)
    )
    score = train_ranker(rows, FEATURES, QUICK).inplace_predict(rows.features)
    assert np.isfinite(score).all()


def test_trees_split_on_the_named_groups_only() -> None:
    booster = train_ranker(planted(), FEATURES, replace(QUICK, groups=("item",)))
    assert set(booster.get_score()) == {"noise"}
    assert booster.num_features() == len(FEATURES)
    with pytest.raises(InvalidInput, match="source"):
        train_ranker(planted(), FEATURES, replace(QUICK, groups=("sauce",)))


def test_nothing_to_learn_from() -> None:
    none = np.empty(0, np.float32)
    with pytest.raises(InvalidInput, match="nothing to learn from"):
        train_ranker(TrainingRows(np.empty((0, 3), np.float32), none, none.astype(int), none), FEATURES, QUICK)


def test_ties_go_to_the_smaller_item() -> None:
    rows, items = np.array([0, 0, 0, 2, 2]), np.array([1, 5, 8, 2, 3])
    found = best_of(rows, items, np.array([0.5, 0.9, 0.5, 1.0, 1.0]), 4, 2)
    assert found.tolist() == [[5, 1], [-1, -1], [2, 3], [-1, -1]]


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=5), st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_best_of_is_sorting_each_request_by_itself(scores: list[list[int]], k: int) -> None:
    rows = np.repeat(np.arange(len(scores)), [len(s) for s in scores])
    items = np.concatenate([np.arange(len(s)) * 3 for s in scores]).astype(np.int64)
    found = best_of(rows, items, np.array([x for s in scores for x in s], np.float32), len(scores), k)
    for row, mine in zip(found.tolist(), scores, strict=True):
        expected = [3 * j for j in sorted(range(len(mine)), key=lambda j: (-mine[j], j))[:k]]
        assert row == expected + [-1] * (k - len(expected))
