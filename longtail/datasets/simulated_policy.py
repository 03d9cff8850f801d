"""The logging policy of the simulated shop, with the exact chance of every place of every list."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longtail.datasets.simulated_world import Truth


@dataclass(frozen=True)
class PolicyContext:
    """What a logging policy may know of R requests of a day, besides who asks.

    `time` int64 [R] microseconds, `region` int [R], `eligible` bool [G, I] (in stock, on sale in the region),
    `popularity` float64 [I] decayed clicks and purchases, `k` the length of a list, `rng` the simulation's generator,
    `signed` bool [R]: the shop knows who asks.
    """

    time: np.ndarray
    region: np.ndarray
    eligible: np.ndarray
    popularity: np.ndarray
    k: int
    rng: np.random.Generator
    signed: np.ndarray


class PopularTaste:
    """Softmax over log popularity and the taste of the person's group: a shop that leans to its bestsellers.

    Drawn one after the other, an item's place says next to nothing about taste. `best_first` shows the drawn items in
    the order of their score, as shops do: place and taste then go together, and the chance of a place is not known.
    """

    def __init__(
        self, truth: Truth, seed: int, groups: int = 16, popularity: float = 0.6, taste: float = 0.9,
        best_first: bool = False,
    ) -> None:  # fmt: skip
        self.best_first = best_first
        rng = np.random.default_rng([seed, 3])
        vectors = truth.user_vector
        self.centre = vectors[rng.integers(0, len(vectors), groups)]
        noisy = vectors + rng.normal(0, 1.0, vectors.shape)  # the shop knows people only roughly
        self.group = np.argmax(noisy @ self.centre.T - (self.centre**2).sum(1) / 2, axis=1)
        affinity = self.centre @ truth.item_vector.T
        self.affinity = taste * (affinity - affinity.mean()) / (affinity.std() or 1.0)
        self.weight = popularity

    def __call__(self, day: int, users: np.ndarray, context: PolicyContext) -> tuple[np.ndarray, np.ndarray]:
        """Items int64 [R, k] and propensity float64 [R, k], NaN for unknown; -1 where fewer than k are eligible."""
        del day
        regions = len(context.eligible)
        cell = self.group[users] * regions + context.region
        items = np.full((len(users), context.k), -1, np.int64)
        chance = np.zeros((len(users), context.k))
        logit = self.weight * np.log(context.popularity + 0.1)
        for c in np.unique(cell):
            rows = np.flatnonzero(cell == c)
            group, region = divmod(int(c), regions)
            score = np.where(context.eligible[region], logit + self.affinity[group], -np.inf)
            if np.isfinite(score).any():
                p = np.exp(score - score.max())
                found, chance[rows] = plackett_luce(p / p.sum(), len(rows), context.k, context.rng)
                if self.best_first:
                    order = np.argsort(-np.where(found >= 0, score[found], -np.inf), axis=1, kind="stable")
                    found, chance[rows] = np.take_along_axis(found, order, 1), np.nan
                items[rows] = found
        return items, chance


def plackett_luce(p: np.ndarray, n: int, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """n lists of k different items drawn one after the other in proportion to p, float64 [I].

    Returns items int64 [n, k] and the chance of each given the places above it, float64 [n, k]; -1 and 0 beyond the
    number of items with p > 0. Drawing with repeats and skipping them is the same distribution as Gumbel-top-k
    (Luce, 1959), at log(I) instead of I a draw.
    """
    size = min(k, int((p > 0).sum()))
    total = np.cumsum(p)
    items = np.full((n, k), -1, np.int64)
    draws = np.searchsorted(total, rng.random((n, 3 * k)) * total[-1], side="right").clip(max=len(p) - 1)
    same = np.tril(draws[:, :, None] == draws[:, None, :], -1).any(2)
    place = np.cumsum(~same, axis=1) - 1
    r, c = np.nonzero(~same & (place < size))
    items[r, place[r, c]] = draws[r, c]
    short = np.flatnonzero((items[:, :size] < 0).any(1))
    if len(short):
        items[short] = _finish(p, items[short], size, rng)
    shown = np.where(items >= 0, p[np.maximum(items, 0)], 0.0)
    left = np.maximum(1 - (np.cumsum(shown, axis=1) - shown), shown)
    return items, np.divide(shown, left, out=np.zeros_like(shown), where=left > 0)


def _finish(p: np.ndarray, items: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Fill the open places of lists by Gumbel-top-k over what the list does not hold yet."""
    for row in items:
        have = row[row >= 0]
        with np.errstate(divide="ignore"):
            key = np.log(p) + rng.gumbel(size=len(p))
        key[have] = -np.inf
        more = np.argsort(-key, kind="stable")[: size - len(have)]
        row[len(have) : size] = more
    return items
