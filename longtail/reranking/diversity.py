"""Maximal marginal relevance (Carbonell and Goldstein, 1998): each place weighs relevance against likeness."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Similarity = Callable[[int], np.ndarray]


def by_vectors(vectors: np.ndarray) -> Similarity:
    """Cosine of unit vectors float32 [n, d], negative values as 0."""

    def similarity(candidate: int) -> np.ndarray:
        return np.maximum(vectors @ vectors[candidate], 0)

    return similarity


def by_attributes(category: np.ndarray, top_category: np.ndarray, brand: np.ndarray) -> Similarity:
    """Half for the same category, a quarter each for the same top category and brand; unknown (-1) is like nothing."""
    columns = ((category, np.float32(0.5)), (top_category, np.float32(0.25)), (brand, np.float32(0.25)))

    def similarity(candidate: int) -> np.ndarray:
        out = np.zeros(len(category), np.float32)
        for column, weight in columns:
            if column[candidate] >= 0:
                out += weight * (column == column[candidate])
        return out

    return similarity


def unit_range(scores: np.ndarray) -> np.ndarray:
    """Scores float32 [n] moved to 0..1, so that they can be weighed against a likeness; all 1 where they are equal."""
    if not len(scores):
        return scores.astype(np.float32)
    low, high = scores.min(), scores.max()
    return ((scores - low) / (high - low)).astype(np.float32) if high > low else np.ones(len(scores), np.float32)


class Mmr:
    """lambda x relevance - (1 - lambda) x likeness to the most alike item already shown.

    `relevance` float32 [n] in 0..1; `similarity(i)` gives float32 [n] in 0..1; `weight` is the lambda.
    """

    def __init__(self, relevance: np.ndarray, similarity: Similarity, weight: float) -> None:
        self._gain = np.float32(weight) * relevance
        self._similarity = similarity
        self._weight = np.float32(1 - weight)
        self._nearest = np.zeros(len(relevance), np.float32)

    def best(self, allowed: np.ndarray) -> int:
        """Position of the best candidate among `allowed` bool [n]; ties to the smaller position."""
        value = self._gain - self._weight * self._nearest
        return int(np.where(allowed, value, -np.inf).argmax())

    def add(self, candidate: int) -> None:
        """The candidate is shown."""
        np.maximum(self._nearest, self._similarity(candidate), out=self._nearest)


def mmr(scores: np.ndarray, similarity: Similarity, weight: float, k: int) -> np.ndarray:
    """Positions int64 [min(k, n)] of the k candidates that MMR picks, in that order."""
    state, left, chosen = Mmr(unit_range(scores), similarity, weight), np.ones(len(scores), bool), []
    for _ in range(min(k, len(scores))):
        best = state.best(left)
        chosen.append(best)
        left[best] = False
        state.add(best)
    return np.array(chosen, np.int64)
