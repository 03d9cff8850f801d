"""The union of what all sources propose, and the place of each candidate in each source's order."""

from __future__ import annotations

import numpy as np

from longtail.compiled import compiled, frozen
from longtail.events import Requests
from longtail.retrieval.weighting import slots

_DIGIT = 8  # bits sorted at once: four passes order any float32, and few numbers pay for few buckets
_BUCKETS = 1 << _DIGIT


def union(
    proposed: np.ndarray,
    requests: Requests,
    depth: int,
    repeats: bool,
    also: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Each proposal once: request int64 [N] ascending, item int64 [N] ascending within a request.

    `proposed` are int64 [S, B, K], best first, padded with -1; the first `depth` of each count, not counting what
    the person already has where `repeats` is False. `also` as in `Ask`.
    """
    row, item = (np.empty(0, np.int64),) * 2 if also is None else (np.asarray(a, np.int64) for a in also)
    if len(row) > 1 and (row[1:] < row[:-1]).any():
        order = np.argsort(row, kind="stable")
        row, item = row[order], item[order]
    had = requests.history.item
    n_items = 1 + max(int(ids.max(initial=0)) for ids in (proposed, item, had))
    most = proposed.shape[0] * len(requests) * min(depth, proposed.shape[2]) + len(row)
    rows, items = np.empty(most, np.int64), np.empty(most, np.int64)
    h = requests.history
    n = _union(
        proposed, depth, repeats, frozen(h.indptr, np.int64), frozen(h.item, np.int32), row, item, slots(n_items),
        rows, items,
    )  # fmt: skip
    return rows[:n], items[:n]


def ranks_of(rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rank of each candidate within its request by each source, 0 for the best; float32 [S, N].

    `rows` ascending int64 [N]; `scores` float32 [S, N]. Equal scores are ranked in the order they come in: candidates
    must come by ascending item, so that a rank does not depend on the batch.
    """
    out = np.empty(scores.shape, np.float32)
    rank(rows, scores, np.arange(len(scores)), out)
    return out


def rank(rows: np.ndarray, scores: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """`ranks_of` for the sources `columns` int64 [_] alone, into float32 [S, N]."""
    size = len(rows)
    if size:
        spare = np.empty((2, size), np.uint32), np.empty((2, size), np.int32)
        _rank(rows, scores, frozen(columns, np.int64), *spare, out)


@compiled
def _union(
    proposed: np.ndarray,
    depth: int,
    repeats: bool,
    had_indptr: np.ndarray,
    had: np.ndarray,
    also_rows: np.ndarray,
    also_items: np.ndarray,
    slot: np.ndarray,
    rows: np.ndarray,
    items: np.ndarray,
) -> int:
    n_sources, n_requests, width = proposed.shape
    n, extra = 0, 0
    key, spare = np.empty((2, 0), np.uint32), np.empty((2, 0), np.int32)
    for b in range(n_requests):
        first = n
        if not repeats:
            for j in range(had_indptr[b], had_indptr[b + 1]):
                slot[had[j]] = -1
        for s in range(n_sources):
            taken = 0
            for place in range(width):
                item = proposed[s, b, place]
                if item < 0 or taken == depth:
                    break
                mark = slot[item]
                if mark < 0:
                    continue
                taken += 1
                if mark == 0:
                    slot[item] = 1
                    items[n] = item
                    n += 1
        while extra < len(also_rows) and also_rows[extra] == b:
            item = also_items[extra]
            if slot[item] == 0:
                slot[item] = 1
                items[n] = item
                n += 1
            extra += 1
        for j in range(first, n):
            slot[items[j]] = 0
        if not repeats:
            for j in range(had_indptr[b], had_indptr[b + 1]):
                slot[had[j]] = 0
        size = n - first
        if size > key.shape[1]:
            key, spare = np.empty((2, size), np.uint32), np.empty((2, size), np.int32)
        for j in range(size):
            key[0, j] = np.uint32(items[first + j])
        at = _sort(key, spare, size)
        for j in range(size):
            rows[first + j], items[first + j] = b, key[at, j]
    return n


@compiled
def _rank(
    rows: np.ndarray, scores: np.ndarray, columns: np.ndarray, key: np.ndarray, order: np.ndarray, out: np.ndarray
) -> None:
    start, mine = 0, np.empty(len(rows), np.int64)
    while start < len(rows):
        stop = start
        while stop < len(rows) and rows[stop] == rows[start]:
            stop += 1
        for s in columns:
            # Most sources know few of the candidates: only those are sorted.
            bits = scores[s].view(np.uint32)
            n = 0
            for j in range(start, stop):
                if scores[s, j] > 0:
                    # Descending floats as ascending integers: the bits of a negative number are that already.
                    key[0, n], mine[n] = np.uint32(0x7FFFFFFF) - bits[j], j
                    n += 1
            at = _sort(key, order, n)
            for j in range(n):
                out[s, mine[order[at, j]]] = j
            place = n
            for j in range(start, stop):
                if scores[s, j] == 0:
                    out[s, j] = place
                    place += 1
            if place == stop - start:
                continue
            n = 0
            for j in range(start, stop):
                if not scores[s, j] >= 0:
                    key[0, n], mine[n] = bits[j], j
                    n += 1
            at = _sort(key, order, n)
            for j in range(n):
                out[s, mine[order[at, j]]] = place + j
        start = stop


@compiled
def turned(scores: np.ndarray, ranks: np.ndarray, keep: np.ndarray, out: np.ndarray, out_ranks: np.ndarray) -> None:
    """The kept columns of float32 [S, N] as rows of [n, S]."""
    for j in range(len(keep)):
        for s in range(len(scores)):
            out[j, s], out_ranks[j, s] = scores[s, keep[j]], ranks[s, keep[j]]


@compiled
def _sort(key: np.ndarray, order: np.ndarray, size: int) -> int:
    """Stable radix sort of `key[0]` with its positions in `order`; says which half of both holds the result."""
    for j in range(size):
        order[0, j] = j
    count = np.zeros((4, _BUCKETS), np.int32)
    for j in range(size):
        word = key[0, j]
        count[0, word & np.uint32(_BUCKETS - 1)] += 1
        count[1, (word >> np.uint32(_DIGIT)) & np.uint32(_BUCKETS - 1)] += 1
        count[2, (word >> np.uint32(2 * _DIGIT)) & np.uint32(_BUCKETS - 1)] += 1
        count[3, word >> np.uint32(3 * _DIGIT)] += 1
    at = 0
    for digit in range(4):
        shift, place = np.uint32(digit * _DIGIT), count[digit]
        if size and place[(key[at, 0] >> shift) & np.uint32(_BUCKETS - 1)] == size:
            continue  # all alike in this digit
        total = 0
        for bucket in range(_BUCKETS):
            total, place[bucket] = total + place[bucket], total
        for j in range(size):
            word = key[at, j]
            bucket = (word >> shift) & np.uint32(_BUCKETS - 1)
            to = place[bucket]
            place[bucket] = to + 1
            key[1 - at, to], order[1 - at, to] = word, order[at, j]
        at = 1 - at
    return at
