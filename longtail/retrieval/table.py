"""A neighbour table that stays on disk, and the answer of adding up its rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from longtail.compiled import compiled, frozen
from longtail.errors import InvalidBundle
from longtail.retrieval.base import Answer
from longtail.retrieval.best import finish, push
from longtail.retrieval.weighting import Query, slots

FILLED = 0.25  # from here on a row is added faster, and stored smaller, with its zeros than with its columns
DENSE_UP_TO = 20_000  # columns: below, clearing and reading a whole row costs less than keeping a list of what is in it
_PARTS = {"indptr": np.int64, "indices": np.int32, "data": np.float32}


@dataclass(frozen=True)
class Table:
    """Weighted links from R rows to C columns, read-only.

    Either `indptr` int64 [R + 1], `indices` int32 [nnz] and `data` float32 [nnz] as in csr, or, where most links are
    there, `dense` float32 [R, C] with 0 for no link and the others empty.
    """

    shape: tuple[int, int]
    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    dense: np.ndarray

    @staticmethod
    def of(matrix: sp.csr_matrix) -> Table:
        """The links of a csr matrix, in the smaller of the two forms."""
        rows, columns = matrix.shape
        if matrix.nnz > FILLED * rows * columns and columns <= DENSE_UP_TO:
            return Table._made((rows, columns), dense=matrix.toarray())
        return Table._made((rows, columns), matrix.indptr, matrix.indices, matrix.data)

    @staticmethod
    def _made(
        shape: tuple[int, int],
        indptr: np.ndarray | None = None,
        indices: np.ndarray | None = None,
        data: np.ndarray | None = None,
        dense: np.ndarray | None = None,
    ) -> Table:
        given = zip(_PARTS.values(), (indptr, indices, data), strict=True)
        csr = [frozen(np.empty(0) if part is None else part, dtype) for dtype, part in given]
        return Table(shape, csr[0], csr[1], csr[2], frozen(np.empty((0, 0)) if dense is None else dense, np.float32))

    def save(self, folder: Path, prefix: str = "") -> None:
        """Write `dense.npy`, or one file for each csr part; names start with `prefix`."""
        if self.dense.size:
            np.save(folder / f"{prefix}dense.npy", self.dense)
            return
        for part in _PARTS:
            np.save(folder / f"{prefix}{part}.npy", getattr(self, part))

    @staticmethod
    def load(folder: Path, shape: tuple[int, int], prefix: str = "") -> Table:
        """Memory-map a saved table, so that processes share one copy.

        Raises:
            InvalidBundle: the files do not make a table of this shape.
        """
        if (folder / f"{prefix}dense.npy").is_file():
            table = Table._made(shape, dense=np.load(folder / f"{prefix}dense.npy", mmap_mode="r"))
            fits = table.dense.shape == shape
        else:
            table = Table._made(shape, *(np.load(folder / f"{prefix}{part}.npy", mmap_mode="r") for part in _PARTS))
            fits = len(table.indptr) == shape[0] + 1 and len(table.data) == len(table.indices) == table.indptr[-1]
        if not fits:
            raise InvalidBundle(f"{folder} holds no table of {shape[0]} x {shape[1]}: train again")
        return table

    def gather(self, query: Query) -> DenseAnswer | SparseAnswer:
        """Sum of the query's rows, each times its weight, in the order of the query."""
        n_requests, columns = len(query.indptr) - 1, self.shape[1]
        if columns <= DENSE_UP_TO:
            scores = np.zeros((n_requests, columns), np.float32)
            if self.dense.size:
                _add_dense_rows(query.indptr, query.items, query.weights, self.dense, scores)
            else:
                _add_rows(query.indptr, query.items, query.weights, self.indptr, self.indices, self.data, scores)
            return DenseAnswer(scores)
        most = _links(query.indptr, query.items, self.indptr, columns)
        indptr, items = np.empty(n_requests + 1, np.int64), np.empty(most, np.int32)
        scores = np.empty(most, np.float32)
        n = _list_rows(
            query.indptr, query.items, query.weights, self.indptr, self.indices, self.data, slots(columns),
            indptr, items, scores,
        )  # fmt: skip
        return SparseAnswer(columns, indptr, items[:n], scores[:n])


class DenseAnswer(Answer):
    """Scores float32 [B, I]; 0 means unknown."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        return top_positive(self.scores, k)

    def at(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        return self.scores[rows, items]

    def scaled(self, factors: np.ndarray) -> DenseAnswer:
        """Scores times `factors` float32 [I]."""
        self.scores *= factors
        return self


class SparseAnswer(Answer):
    """Scores of a few items each: `indptr` int64 [B + 1], `items` int32 and `scores` float32 [nnz], in any order."""

    def __init__(self, n_items: int, indptr: np.ndarray, items: np.ndarray, scores: np.ndarray) -> None:
        self.n_items, self.indptr, self.items, self.scores = n_items, indptr, items, scores

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        ids = np.empty((len(self.indptr) - 1, k), np.int64)
        out = np.empty(ids.shape, np.float32)
        _top_listed(self.indptr, self.items, self.scores, ids, out)
        return ids, out

    def at(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        out = np.empty(len(rows), np.float32)
        rows, items = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(items, np.int64)
        _find(self.indptr, self.items, self.scores, rows, items, slots(self.n_items), out)
        return out

    def scaled(self, factors: np.ndarray) -> SparseAnswer:
        """Scores times `factors` float32 [I]."""
        return SparseAnswer(self.n_items, self.indptr, self.items, self.scores * factors[self.items])


def top_positive(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Best k columns above zero of float32 [B, I], as `Answer.top` gives them."""
    ids = np.empty((len(scores), k), np.int64)
    out = np.empty(ids.shape, np.float32)
    _top_dense(scores, ids, out)
    return ids, out


# Below, indices are made unsigned: for signed ones Numba adds a test for negative positions to every access.


@compiled
def _add_dense_rows(
    query_indptr: np.ndarray, query_items: np.ndarray, weights: np.ndarray, table: np.ndarray, scores: np.ndarray
) -> None:
    for b in range(len(scores)):
        total = scores[b]
        for j in range(query_indptr[b], query_indptr[b + 1]):
            weight, row = weights[j], table[query_items[j]]
            for i in range(len(total)):
                total[i] += weight * row[i]


@compiled
def _add_rows(
    query_indptr: np.ndarray,
    query_items: np.ndarray,
    weights: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    scores: np.ndarray,
) -> None:
    for b in range(len(scores)):
        total = scores[b]
        for j in range(query_indptr[b], query_indptr[b + 1]):
            weight, row = weights[j], query_items[j]
            for p in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                total[np.uint32(indices[p])] += weight * data[p]


@compiled
def _links(query_indptr: np.ndarray, query_items: np.ndarray, indptr: np.ndarray, columns: int) -> int:
    """How many places the list of all requests can need."""
    total = 0
    for b in range(len(query_indptr) - 1):
        mine = 0
        for j in range(query_indptr[b], query_indptr[b + 1]):
            mine += indptr[query_items[j] + 1] - indptr[query_items[j]]
        total += min(mine, columns)
    return total


@compiled
def _list_rows(
    query_indptr: np.ndarray,
    query_items: np.ndarray,
    weights: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    slot: np.ndarray,
    out_indptr: np.ndarray,
    items: np.ndarray,
    scores: np.ndarray,
) -> np.uint32:
    n = np.uint32(0)
    out_indptr[0] = 0
    for b in range(len(query_indptr) - 1):
        first = n
        for j in range(query_indptr[b], query_indptr[b + 1]):
            weight, row = weights[j], query_items[j]
            for p in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                i = np.uint32(indices[p])
                place = np.uint32(slot[i])
                if place == 0:
                    items[n], scores[n] = i, weight * data[p]
                    n += np.uint32(1)
                    slot[i] = n
                else:
                    scores[place - np.uint32(1)] += weight * data[p]
        for p in range(first, n):
            slot[np.uint32(items[p])] = 0
        out_indptr[b + 1] = n
    return n


@compiled
def _top_dense(scores: np.ndarray, ids: np.ndarray, out: np.ndarray) -> None:
    k = ids.shape[1]
    for b in range(len(ids)):
        row, heap, best, n = scores[b], out[b], ids[b], 0
        floor = np.float32(0)
        for i in range(len(row)):
            # Items come in ascending order: an equal score never takes the place of an earlier item.
            if row[i] > floor:
                n = push(heap, best, n, row[i], i)
                if n == k:
                    floor = heap[0]
        finish(heap, best, n)


@compiled
def _top_listed(indptr: np.ndarray, items: np.ndarray, scores: np.ndarray, ids: np.ndarray, out: np.ndarray) -> None:
    k = ids.shape[1]
    for b in range(len(ids)):
        heap, best, n = out[b], ids[b], 0
        floor = np.float32(0)
        for p in range(np.uint64(indptr[b]), np.uint64(indptr[b + 1])):
            if scores[p] >= floor and scores[p] > 0:
                n = push(heap, best, n, scores[p], items[p])
                if n == k:
                    floor = heap[0]
        finish(heap, best, n)


@compiled
def _find(
    indptr: np.ndarray,
    listed: np.ndarray,
    scores: np.ndarray,
    rows: np.ndarray,
    items: np.ndarray,
    slot: np.ndarray,
    out: np.ndarray,
) -> None:
    start = 0
    while start < len(rows):
        b, stop = rows[start], start
        # Marks at the few wanted items, then one pass over the list: nothing is sorted, nothing is searched.
        while stop < len(rows) and rows[stop] == b:
            slot[np.uint32(items[stop])] = stop - start + 1
            out[stop] = 0
            stop += 1
        for p in range(np.uint64(indptr[b]), np.uint64(indptr[b + 1])):
            place = slot[np.uint32(listed[p])]
            if place > 0:
                out[start + place - 1] = scores[p]
        for j in range(start, stop):
            out[j] = out[start + slot[np.uint32(items[j])] - 1]
        for j in range(start, stop):
            slot[np.uint32(items[j])] = 0
        start = stop
