"""XGBoost's trees as flat arrays and one compiled loop: the same bits in a third of the time.

A tree is stored as a complete one of the forest's depth: the children of node i are 2i + 1 and 2i + 2, so that a step
is one comparison and no jump. Thirty-two candidates lie side by side, column by column: the first three levels compare
all of them with all seven nodes, which the processor does sixteen at a time, and below eight candidates walk at once. A
missing value takes the way that its node prefers: a column is laid out with -inf for what is missing, or with +inf, or
both, as its nodes need it; a column that no node reads is not laid out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from longtail.compiled import compiled, frozen
from longtail.second_thread import SecondThread, in_turn

if TYPE_CHECKING:
    import xgboost as xgb

MOST_LEVELS = 10  # a complete tree doubles with each level
TOP = 3  # levels that are compared whole
LANES = 32  # candidates side by side
PART = 2 * LANES  # candidates that a thread takes at a time
TRIED = 512


@dataclass(frozen=True)
class Forest:
    """T trees of `levels` comparisons each, three at least.

    `feature` uint32 [T, 2**levels - 1] is the column a node reads, counted from `width` on where a missing value goes
    right; `threshold` float32 of the same shape, NaN for a node that always goes left; `leaf` float32 [T, 2**levels].
    """

    width: int
    levels: int
    base: np.float32
    feature: np.ndarray
    threshold: np.ndarray
    leaf: np.ndarray
    second: SecondThread = field(default_factory=SecondThread, repr=False, compare=False)

    @staticmethod
    def of(booster: xgb.Booster) -> Forest | None:
        """The trees of a booster; None for one that this loop cannot score bit for bit as XGBoost does."""
        model = json.loads(bytes(booster.save_raw("json")))["learner"]
        about, given = model["learner_model_param"], model["gradient_booster"]
        if given["name"] != "gbtree" or int(about["num_target"]) != 1 or int(about["num_class"]) > 1:
            return None
        trees = given["model"]["trees"]
        deepest = max(map(_levels, trees), default=0)
        if not 0 < deepest <= MOST_LEVELS or any(any(tree.get("split_type", [])) for tree in trees):
            return None
        levels = max(deepest, TOP)
        width, inner = booster.num_features(), 2**levels - 1
        shape = (len(trees), inner)
        feature, threshold = np.zeros(shape, np.uint32), np.full(shape, np.nan, np.float32)
        leaf = np.zeros((len(trees), inner + 1), np.float32)
        for t, tree in enumerate(trees):
            _lay_out(tree, width, inner, feature[t], threshold[t], leaf[t])
        base = np.float32(float(str(about["base_score"]).strip("[]")))
        found = Forest(
            width, levels, base, frozen(feature, np.uint32), frozen(threshold, np.float32), frozen(leaf, np.float32)
        )
        return found if found._agrees(booster) else None

    def scores(self, features: np.ndarray) -> np.ndarray:
        """float32 [N] of features float32 [N, F], NaN missing; each depends on its own row alone.

        Raises:
            ValueError: another number of columns than the trees were trained on.
        """
        if features.ndim != 2 or features.shape[1] != self.width:
            raise ValueError(f"features: {features.shape} instead of [N, {self.width}]")
        rows, out = frozen(features, np.float32), np.empty(len(features), np.float32)

        def part(mine: slice) -> None:
            trees = self.feature, self.threshold, self.leaf, self.levels, self.base
            score(rows[mine], *self._columns, *trees, out[mine])

        share = self.second.share()
        size = len(rows) if share is in_turn else PART
        share(part, [slice(first, first + size) for first in range(0, len(rows), size or 1)])
        return out

    @cached_property
    def _columns(self) -> tuple[np.ndarray, np.ndarray]:
        """The columns, uint32, that are laid out for missing values that go left, and those for others."""
        read = np.unique(self.feature[~np.isnan(self.threshold)])
        return frozen(read[read < self.width], np.uint32), frozen(read[read >= self.width] - self.width, np.uint32)

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


# Indices are made unsigned: for signed ones Numba adds a test for negative positions to every access.
_0, _1, _2, _3, _4, _5, _6, _7, _8 = (np.uint32(n) for n in range(9))


@compiled
def score(
    rows: np.ndarray, left: np.ndarray, right: np.ndarray, feature: np.ndarray, threshold: np.ndarray,
    leaf: np.ndarray, levels: int, base: float, out: np.ndarray,
) -> None:  # fmt: skip
    """See `Forest`. Leaves are added tree by tree in float32, as XGBoost does."""
    n, width = rows.shape
    inner, lanes, beyond = np.uint32(feature.shape[1]), np.uint32(32), np.uint32(width) * np.uint32(32)
    laid, node = np.zeros(2 * width * 32, np.float32), np.empty(32, np.uint32)
    total = np.empty(32, np.float32)
    below_top = levels - 3
    for first in range(0, n, 32):
        count = min(32, n - first)
        for r in range(np.uint32(count)):
            row = rows[first + r]
            for column in left:
                value = row[column]
                laid[column * lanes + r] = value if value == value else -np.inf
            for column in right:
                value = row[column]
                laid[beyond + column * lanes + r] = value if value == value else np.inf
        total[:] = base
        for t in range(feature.shape[0]):
            reads, edges, leaves = feature[t], threshold[t], leaf[t]
            top(reads, edges, laid, node)
            for r in range(np.uint32(0), lanes, _8):
                # Eight variables instead of an array: they stay in registers.
                i, j, k, m = node[r], node[r + _1], node[r + _2], node[r + _3]
                p, q, u, v = node[r + _4], node[r + _5], node[r + _6], node[r + _7]
                for _ in range(below_top):
                    i = below(i, laid, r, reads, edges)
                    j = below(j, laid, r + _1, reads, edges)
                    k = below(k, laid, r + _2, reads, edges)
                    m = below(m, laid, r + _3, reads, edges)
                    p = below(p, laid, r + _4, reads, edges)
                    q = below(q, laid, r + _5, reads, edges)
                    u = below(u, laid, r + _6, reads, edges)
                    v = below(v, laid, r + _7, reads, edges)
                total[r] += leaves[i - inner]
                total[r + _1] += leaves[j - inner]
                total[r + _2] += leaves[k - inner]
                total[r + _3] += leaves[m - inner]
                total[r + _4] += leaves[p - inner]
                total[r + _5] += leaves[q - inner]
                total[r + _6] += leaves[u - inner]
                total[r + _7] += leaves[v - inner]
        out[first : first + count] = total[:count]


@compiled
def top(reads: np.ndarray, edges: np.ndarray, laid: np.ndarray, node: np.ndarray) -> None:
    """The node of the fourth level that each of the candidates reaches."""
    lanes = np.uint32(32)
    f0, f1, f2, f3 = reads[0] * lanes, reads[1] * lanes, reads[2] * lanes, reads[3] * lanes
    f4, f5, f6 = reads[4] * lanes, reads[5] * lanes, reads[6] * lanes
    e0, e1, e2, e3, e4, e5, e6 = edges[0], edges[1], edges[2], edges[3], edges[4], edges[5], edges[6]
    for r in range(lanes):
        # Comparisons of nodes that a candidate does not come by are cheaper than jumps around them.
        a = laid[f0 + r] >= e0
        b1, b2 = laid[f1 + r] >= e1, laid[f2 + r] >= e2
        c3, c4, c5, c6 = laid[f3 + r] >= e3, laid[f4 + r] >= e4, laid[f5 + r] >= e5, laid[f6 + r] >= e6
        b = (a & b2) | (~a & b1)
        c = (a & ((b & c6) | (~b & c5))) | (~a & ((b & c4) | (~b & c3)))
        node[r] = _7 + (_4 if a else _0) + (_2 if b else _0) + (_1 if c else _0)


@compiled
def below(node: np.uint32, laid: np.ndarray, lane: np.uint32, reads: np.ndarray, edges: np.ndarray) -> np.uint32:
    """The child of a node that a candidate goes to: right where its value reaches the threshold."""
    right = laid[reads[node] * np.uint32(32) + lane] >= edges[node]
    return _2 * node + _1 + np.uint32(right)
