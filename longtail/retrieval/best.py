"""The best k of many: a bounded heap whose order does not depend on how the items came in."""

from __future__ import annotations

import numpy as np

from longtail.compiled import compiled


@compiled
def push(scores: np.ndarray, items: np.ndarray, n: int, score: float, item: int) -> int:
    """Offer (score, item) to a heap of the n best so far in `scores`, `items` (length k); the new n.

    The root is the worst: the lowest score, of equal ones the largest item.
    """
    k = len(scores)
    if n == k:
        if k == 0 or score < scores[0] or (score == scores[0] and item > items[0]):
            return n
        at, size = 0, n
    else:
        at, size = n, n + 1
        while at > 0:
            up = (at - 1) >> 1
            if scores[up] < score or (scores[up] == score and items[up] > item):
                break
            scores[at], items[at] = scores[up], items[up]
            at = up
        scores[at], items[at] = score, item
        return size
    _sink(scores, items, at, size, score, item)
    return size


@compiled
def _sink(scores: np.ndarray, items: np.ndarray, at: int, size: int, score: float, item: int) -> None:
    while True:
        down = 2 * at + 1
        if down >= size:
            break
        other = down + 1
        if other < size and (
            scores[other] < scores[down] or (scores[other] == scores[down] and items[other] > items[down])
        ):
            down = other
        if score < scores[down] or (score == scores[down] and item > items[down]):
            break
        scores[at], items[at] = scores[down], items[down]
        at = down
    scores[at], items[at] = score, item


@compiled
def finish(scores: np.ndarray, items: np.ndarray, n: int) -> None:
    """Sort a heap best first and pad it with -inf and -1."""
    for size in range(n - 1, 0, -1):
        score, item = scores[size], items[size]
        scores[size], items[size] = scores[0], items[0]
        _sink(scores, items, 0, size, score, item)
    for j in range(n, len(scores)):
        scores[j], items[j] = -np.inf, -1
