"""The compiled trees say what XGBoost says, to the last bit, or they are not used."""

from __future__ import annotations

import numpy as np
import pytest
import xgboost as xgb

from longtail.ranking.forest import Forest
from longtail.second_thread import SecondThread

F = 9


def booster(depth: int = 5, rounds: int = 30, seed: int = 0, **more: object) -> xgb.Booster:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(600, F)).astype(np.float32)
    rows[:, 3] = np.round(rows[:, 3])
    rows[rng.random(rows.shape) < 0.2] = np.nan
    gain = (np.nan_to_num(rows).sum(1) + rng.normal(size=600) > 1).astype(np.float32)
    data = xgb.DMatrix(rows, gain)
    if more.get("objective", "rank:ndcg") == "rank:ndcg":
        data.set_group([20] * 30)
    settings = {"objective": "rank:ndcg", "max_depth": depth, "tree_method": "hist", "nthread": 1, "seed": seed}
    return xgb.train(settings | more, data, rounds)


def rows(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = (rng.normal(size=(n, F)) * rng.choice([1, 100], F)).astype(np.float32)
    out[:, 3] = np.round(out[:, 3])
    out[rng.random(out.shape) < 0.2] = np.nan
    out[rng.random(out.shape) < 0.02] = np.inf
    out[rng.random(out.shape) < 0.02] = -np.inf
    return out


@pytest.mark.parametrize("n", [0, 1, 7, 8, 31, 32, 33, 500])
@pytest.mark.parametrize("depth", [1, 4, 8])
def test_the_scores_are_those_of_xgboost_bit_for_bit(n: int, depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = booster(depth)
    forest = Forest.of(trained)
    assert forest is not None
    given = rows(n, n)
    given = np.where(np.isinf(given), np.float32(7), given) if n % 2 else given
    expected = trained.inplace_predict(given) if n else np.empty(0, np.float32)
    finite = ~np.isinf(given).any(1)
    np.testing.assert_array_equal(forest.scores(given)[finite], expected[finite])
    monkeypatch.setattr(SecondThread, "share", lambda self: self.in_two)
    np.testing.assert_array_equal(forest.scores(given)[finite], expected[finite])


def test_a_score_does_not_depend_on_its_neighbours() -> None:
    forest = Forest.of(booster())
    assert forest is not None
    given = rows(100, 1)
    together = forest.scores(given)
    alone = np.concatenate([forest.scores(given[n : n + 1]) for n in range(100)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("more", [{"objective": "binary:logistic"}, {"booster": "dart", "rate_drop": 0.5}])
def test_what_the_loop_would_score_otherwise_is_left_to_xgboost(more: dict) -> None:
    assert Forest.of(booster(**more)) is None


def test_other_columns_are_refused() -> None:
    forest = Forest.of(booster())
    assert forest is not None
    with pytest.raises(ValueError, match="instead of"):
        forest.scores(np.zeros((3, F + 1), np.float32))
