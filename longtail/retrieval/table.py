"""A neighbour table that stays on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from longtail.compiled import compiled, frozen
from longtail.errors import InvalidBundle
from longtail.retrieval.best import finish, push

FILLED = 0.25  # from here on a row is added faster, and stored smaller, with its zeros than with its columns
DENSE_UP_TO = 20_000  # columns of which a whole row is quickly cleared and read
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


def top_positive(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Best k columns above zero of float32 [B, I], as `Answer.top` gives them."""
    ids = np.empty((len(scores), k), np.int64)
    out = np.empty(ids.shape, np.float32)
    _top_dense(scores, ids, out)
    return ids, out


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
