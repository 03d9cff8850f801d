"""XGBoost's trees as flat arrays and one compiled loop: the same bits in a third of the time.

A tree is stored as a complete one of the forest's depth: the children of node i are 2i + 1 and 2i + 2, so that a step
is one comparison and no jump, and eight candidates walk at once. A missing value takes the way that its node prefers:
each candidate is laid out twice, once with -inf for what is missing and once with +inf, and a node reads the one it
needs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from longtail.compiled import compiled, frozen

if TYPE_CHECKING:
    import xgboost as xgb

MOST_LEVELS = 10  # a complete tree doubles with each level
TRIED = 512


@dataclass(frozen=True)
class Forest:
    """T trees of `levels` comparisons each.

    `feature` int32 [T, 2**levels - 1] is the column a node reads, counted from `width` on where a missing value goes
    right; `threshold` float32 of the same shape, NaN for a node that always goes left; `leaf` float32 [T, 2**levels].
    """

    width: int
    levels: int
    base: np.float32
    feature: np.ndarray
    threshold: np.ndarray
    leaf: np.ndarray

    @staticmethod
    def of(booster: xgb.Booster) -> Forest | None:
        """The trees of a booster; None for one that this loop cannot score bit for bit as XGBoost does."""
        model = json.loads(bytes(booster.save_raw("json")))["learner"]
        about, given = model["learner_model_param"], model["gradient_booster"]
        if given["name"] != "gbtree" or int(about["num_target"]) != 1 or int(about["num_class"]) > 1:
            return None
        trees = given["model"]["trees"]
        levels = max(map(_levels, trees), default=0)
        if not 0 < levels <= MOST_LEVELS or any(any(tree.get("split_type", [])) for tree in trees):
            return None
        width, inner = booster.num_features(), 2**levels - 1
        shape = (len(trees), inner)
        feature, threshold = np.zeros(shape, np.int32), np.full(shape, np.nan, np.float32)
        leaf = np.zeros((len(trees), inner + 1), np.float32)
        for t, tree in enumerate(trees):
            _lay_out(tree, width, inner, feature[t], threshold[t], leaf[t])
        base = np.float32(float(str(about["base_score"]).strip("[]")))
        found = Forest(
            width, levels, base, frozen(feature, np.int32), frozen(threshold, np.float32), frozen(leaf, np.float32)
        )
        return found if found._agrees(booster) else None

    def scores(self, features: np.ndarray) -> np.ndarray:
        """float32 [N] of features float32 [N, F], NaN missing; each depends on its own row alone.

        Raises:
            ValueError: another number of columns than the trees were trained on.
        """
        if features.ndim != 2 or features.shape[1] != self.width:
            raise ValueError(f"features: {features.shape} instead of [N, {self.width}]")
        rows = frozen(features, np.float32)
        return score(rows, self.feature, self.threshold, self.leaf, self.levels, self.base)

    def _agrees(self, booster: xgb.Booster) -> bool:
        """Whether XGBoost says the same of rows around the thresholds, some values missing."""
        rng = np.random.default_rng(0)
        rows = np.zeros((TRIED, self.width), np.float32)
        for column in range(self.width):
            edges = self.threshold[(self.feature % self.width == column) & ~np.isnan(self.threshold)]
            if len(edges):
                rows[:, column] = rng.choice(edges, TRIED)
        below = rng.random(rows.shape) < 0.5
        rows[below] = np.nextafter(rows[below], np.float32(-np.inf))
        rows[rng.random(rows.shape) < 0.1] = np.nan
        return np.array_equal(self.scores(rows), booster.inplace_predict(rows))


def _levels(tree: dict) -> int:
    """The most comparisons between a tree's root and a leaf."""
    depth, deepest = {0: 0}, 0
    for node, (left, right) in enumerate(zip(tree["left_children"], tree["right_children"], strict=True)):
        if left >= 0 and node in depth:
            depth[left] = depth[right] = depth[node] + 1
            deepest = max(deepest, depth[left])
    return deepest


def _lay_out(tree: dict, width: int, inner: int, feature: np.ndarray, threshold: np.ndarray, leaf: np.ndarray) -> None:
    left, right, value = tree["left_children"], tree["right_children"], tree["split_conditions"]
    waiting = [(0, 0)]
    while waiting:
        node, at = waiting.pop()
        if left[node] < 0:
            while at < inner:  # a leaf before the last level: what stands below it goes left all the way
                at = 2 * at + 1
            leaf[at - inner] = value[node]
        else:
            feature[at] = tree["split_indices"][node] + (0 if tree["default_left"][node] else width)
            threshold[at] = value[node]
            waiting += [(left[node], 2 * at + 1), (right[node], 2 * at + 2)]


@compiled
def score(
    rows: np.ndarray, feature: np.ndarray, threshold: np.ndarray, leaf: np.ndarray, levels: int, base: float
) -> np.ndarray:
    """See `Forest`. Leaves are added tree by tree in float32, as XGBoost does; thirty-two rows stay in the cache."""
    n, width = rows.shape
    inner, wide = feature.shape[1], 2 * width
    out = np.full(n, base, np.float32)
    laid = np.empty(32 * wide, np.float32)
    for first in range(0, n, 32):
        count = min(32, n - first)
        for r in range(count):
            for column in range(width):
                value = rows[first + r, column]
                known = value == value
                laid[r * wide + column] = value if known else -np.inf
                laid[r * wide + width + column] = value if known else np.inf
        for t in range(feature.shape[0]):
            reads, edges, leaves = feature[t], threshold[t], leaf[t]
            for r in range(0, count - 7, 8):
                a = r * wide
                b, c, d, e = a + wide, a + 2 * wide, a + 3 * wide, a + 4 * wide
                f, g, h = a + 5 * wide, a + 6 * wide, a + 7 * wide
                # Eight variables instead of an array: they stay in registers.
                i = j = k = m = p = q = u = v = np.int64(0)
                for _ in range(levels):
                    i = below(i, laid, a, reads, edges)
                    j = below(j, laid, b, reads, edges)
                    k = below(k, laid, c, reads, edges)
                    m = below(m, laid, d, reads, edges)
                    p = below(p, laid, e, reads, edges)
                    q = below(q, laid, f, reads, edges)
                    u = below(u, laid, g, reads, edges)
                    v = below(v, laid, h, reads, edges)
                at = first + r
                out[at] += leaves[i - inner]
                out[at + 1] += leaves[j - inner]
                out[at + 2] += leaves[k - inner]
                out[at + 3] += leaves[m - inner]
                out[at + 4] += leaves[p - inner]
                out[at + 5] += leaves[q - inner]
                out[at + 6] += leaves[u - inner]
                out[at + 7] += leaves[v - inner]
            for r in range(count // 8 * 8, count):
                i = np.int64(0)
                for _ in range(levels):
                    i = below(i, laid, r * wide, reads, edges)
                out[first + r] += leaves[i - inner]
    return out


@compiled
def below(node: int, laid: np.ndarray, row: int, reads: np.ndarray, edges: np.ndarray) -> int:
    """The child of a node that a row goes to: right where its value reaches the threshold."""
    return 2 * node + 1 + (laid[row + reads[node]] >= edges[node])
