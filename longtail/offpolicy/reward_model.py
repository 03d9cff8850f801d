"""What an item would have earned at a place, guessed by models that never saw the list in question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from longtail.errors import InvalidInput

Predict = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray], Predict]


@dataclass(frozen=True)
class CrossFitted:
    """One model for each fold of people, fitted on the others; `fold` int [N] of each list."""

    models: list[Predict]
    fold: np.ndarray

    def predict(self, features: np.ndarray, row: np.ndarray) -> np.ndarray:
        """float64 [M] for features float [M, F] that belong to the lists `row` int [M]."""
        out = np.empty(len(features))
        of = self.fold[row]
        for n, model in enumerate(self.models):
            mine = of == n
            if mine.any():
                out[mine] = model(features[mine])
        return out


def cross_fit(
    features: np.ndarray,
    reward: np.ndarray,
    row: np.ndarray,
    user: np.ndarray,
    fit: Fit,
    folds: int = 10,
    seed: int = 0,
) -> CrossFitted:
    """Fit `folds` models (Chernozhukov et al., 2018): all lists of a person fall into one fold.

    Args:
        features: float [M, F] of the M places that were shown.
        reward: float [M] that they earned.
        row: int [M] the list of each place.
        user: int [N] the person of each list.

    Raises:
        InvalidInput: fewer people than folds.
    """
    people, code = np.unique(user, return_inverse=True)
    if len(people) < folds:
        raise InvalidInput(f"{len(people)} people cannot be split into {folds} folds")
    fold = np.random.default_rng(seed).permutation(np.arange(len(people)) % folds)[code]
    of = fold[row]
    return CrossFitted([fit(features[of != n], reward[of != n]) for n in range(folds)], fold)


def linear(penalty: float = 1.0) -> Fit:
    """Ridge regression, for features that are numbers throughout."""

    def fit(features: np.ndarray, reward: np.ndarray) -> Predict:
        from sklearn.linear_model import Ridge

        return Ridge(alpha=penalty).fit(features, reward).predict

    return fit


def trees(rounds: int = 100) -> Fit:
    """Gradient-boosted trees, for features with gaps (NaN), as the ranker has them."""

    def fit(features: np.ndarray, reward: np.ndarray) -> Predict:
        from sklearn.ensemble import HistGradientBoostingRegressor

        model = HistGradientBoostingRegressor(max_iter=rounds, learning_rate=0.05, max_leaf_nodes=15, random_state=0)
        return model.fit(features, reward).predict

    return fit
