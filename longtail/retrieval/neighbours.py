"""Neighbour tables: each item's K best neighbours with weights, and the one source that serves all of them.

EASE, sequence rules, co-purchase, item-kNN, graph filter and content differ only in how the table is built.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack

from longtail.errors import LongtailError
from longtail.events import Log
from longtail.retrieval.gathering import TableSource, Way
from longtail.retrieval.table import Table
from longtail.retrieval.weighting import Weighting


@dataclass
class NeighbourSource(TableSource):
    """Gathers the table's rows of the weighted history and adds them up."""

    name: str
    reason: str
    table: Table
    weighting: Weighting
    kind = "neighbours"

    @property
    def way(self) -> Way:
        return Way(self.weighting, self.table.shape[0], (self.table,))

    def save(self, folder: Path) -> None:
        self.table.save(folder)
        self._describe(folder)

    def save_beside(self, folder: Path, twin: str) -> None:
        """As `save`, for a source whose very table the source `twin` has saved in its own folder, next to this one."""
        self._describe(folder, table_of=twin)

    def _describe(self, folder: Path, **more: str) -> None:
        meta = {"name": self.name, "reason": self.reason, "weighting": self.weighting.as_dict()}
        (folder / "source.json").write_text(json.dumps(meta | {"shape": self.table.shape} | more))

    @classmethod
    def load(cls, folder: Path) -> NeighbourSource:
        """Memory-map a saved table, so that several processes share one copy."""
        meta = json.loads((folder / "source.json").read_text())
        table = Table.load(folder.parent / meta.get("table_of", folder.name), tuple(meta["shape"]))
        return cls(meta["name"], meta["reason"], table, Weighting(**meta["weighting"]))


def user_item(log: Log, weights: np.ndarray | None = None) -> sp.csr_matrix:
    """Interaction matrix csr float32 [n_users, n_items]: 1 for each pair seen, or the sum of `weights` [N]."""
    ones = np.ones(len(log), np.float32) if weights is None else weights.astype(np.float32)
    matrix = sp.csr_matrix((ones, (log.user, log.item)), shape=(log.n_users, log.n_items))
    matrix.sum_duplicates()
    if weights is None:
        matrix.data[:] = 1
    return matrix


def session_item(log: Log) -> sp.csr_matrix:
    """Baskets or sessions with two or more items, csr float32 [sessions, n_items] of ones."""
    _, session = np.unique(log.session, return_inverse=True)
    n = int(session.max()) + 1 if len(session) else 0
    matrix = sp.csr_matrix((np.ones(len(log), np.float32), (session, log.item)), shape=(n, log.n_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix[np.diff(matrix.indptr) > 1]


def keep_best(table: sp.csr_matrix, k: int) -> sp.csr_matrix:
    """The k entries of largest magnitude of each row, ties to the smaller column."""
    table = table.tocsr()
    table.sort_indices()
    if not table.nnz or np.diff(table.indptr).max() <= k:
        return table
    keep = np.ones(table.nnz, bool)
    for i in np.flatnonzero(np.diff(table.indptr) > k):
        row = slice(table.indptr[i], table.indptr[i + 1])
        size = np.abs(table.data[row])
        kth = np.partition(size, len(size) - k)[len(size) - k]
        chosen = size > kth
        chosen[np.flatnonzero(size == kth)[: k - chosen.sum()]] = True
        keep[row] = chosen
    indptr = np.concatenate([[0], np.cumsum(keep)])[table.indptr]
    return sp.csr_matrix((table.data[keep], table.indices[keep], indptr), shape=table.shape)


def ease(interactions: sp.csr_matrix, ridge: float, k: int) -> sp.csr_matrix:
    """EASE item-item weights: ridge regression of each item on all others, zero diagonal (Steck, WWW 2019).

    Cost is cubic in the items seen; unseen items get no neighbours.
    """
    seen = np.flatnonzero(np.diff(interactions.tocsc().indptr))
    if not len(seen):
        return sp.csr_matrix((interactions.shape[1],) * 2, dtype=np.float32)
    x = interactions[:, seen]
    gram = np.asfortranarray((x.T @ x).toarray().astype(np.float32))
    gram[np.diag_indices_from(gram)] += ridge
    factor, failed = lapack.spotrf(gram, lower=1, overwrite_a=1)
    if not failed:
        precision, failed = lapack.spotri(factor, lower=1, overwrite_c=1)
    if failed:
        raise LongtailError(f"EASE: the item-item matrix is singular at ridge {ridge}: raise the ridge")
    lower = np.tril(precision)
    precision = lower + np.tril(precision, -1).T
    weights = precision / -np.diag(precision)
    np.fill_diagonal(weights, 0)
    rows = [keep_best(sp.csr_matrix(weights[a : a + 512]), k) for a in range(0, len(seen), 512)]
    small = sp.vstack(rows).tocoo()
    return sp.csr_matrix((small.data, (seen[small.row], seen[small.col])), shape=(interactions.shape[1],) * 2)


def cosine(interactions: sp.csr_matrix, k: int, shrink: float) -> sp.csr_matrix:
    """Cosine of item columns with shrinkage: item-kNN on users, co-purchase on baskets."""
    x = interactions.tocsc().astype(np.float32)
    norm = np.sqrt(np.asarray(x.multiply(x).sum(0)).ravel())
    transposed, rows = x.T.tocsr(), []
    for a in range(0, x.shape[1], 2048):
        block = (transposed[a : a + 2048] @ x).tocsr()
        owner = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr)) + a
        block.data = block.data / (norm[owner] * norm[block.indices] + np.float32(shrink))
        block.data[owner == block.indices] = 0
        block.eliminate_zeros()
        rows.append(keep_best(block, k))
    return sp.vstack(rows).tocsr() if rows else sp.csr_matrix((x.shape[1],) * 2, dtype=np.float32)


def graph_filter(interactions: sp.csr_matrix, k: int) -> sp.csr_matrix:
    """Linear graph filter of GF-CF: R^T R of the degree-normalised interactions (Shen et al., CIKM 2021)."""
    x = degree_normalised(interactions)
    transposed, rows = x.T.tocsr(), []
    for a in range(0, x.shape[1], 1024):
        rows.append(keep_best((transposed[a : a + 1024] @ x).tocsr(), k))
    return sp.vstack(rows).tocsr() if rows else sp.csr_matrix((x.shape[1],) * 2, dtype=np.float32)


def degree_normalised(interactions: sp.csr_matrix) -> sp.csr_matrix:
    """D_user^-1/2 R D_item^-1/2, csr float32."""
    rows = np.maximum(np.asarray(interactions.sum(1)).ravel(), 1) ** -0.5
    cols = np.maximum(np.asarray(interactions.sum(0)).ravel(), 1) ** -0.5
    return (sp.diags(rows) @ interactions @ sp.diags(cols)).tocsr().astype(np.float32)


def rules(log: Log, window: int, decay: float, k: int, backward: bool = False) -> sp.csr_matrix:
    """Sequential rules: how often item j followed i within `window` steps of one user, by decay ** (distance - 1).

    Rows are divided by the square root of their mass, which keeps some popularity. Guests are users of one session,
    so sequences never cross people (Ludewig & Jannach, UMUAI 2018).
    """
    first, then, weight = [], [], []
    for step in range(1, window + 1):
        if step >= len(log):
            break
        same = (log.user[:-step] == log.user[step:]) & (log.item[:-step] != log.item[step:])
        first.append(log.item[:-step][same])
        then.append(log.item[step:][same])
        weight.append(np.full(int(same.sum()), decay ** (step - 1), np.float32))
    if backward:
        first, then = then, first
    shape = (log.n_items, log.n_items)
    if not weight:
        return sp.csr_matrix(shape, dtype=np.float32)
    table = sp.csr_matrix((np.concatenate(weight), (np.concatenate(first), np.concatenate(then))), shape=shape)
    mass = np.maximum(np.asarray(table.sum(1)).ravel(), 1)
    return keep_best((sp.diags((mass**-0.5).astype(np.float32)) @ table).tocsr().astype(np.float32), k)


def content_neighbours(content: sp.csr_matrix, k: int) -> sp.csr_matrix:
    """Items of most similar text, brand and category: `content` csr float32 [I, V], rows of unit length."""
    transposed, rows = content.T.tocsr(), []
    for a in range(0, content.shape[0], 512):
        block = (content[a : a + 512] @ transposed).tocsr()
        owner = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr)) + a
        block.data[owner == block.indices] = 0
        block.eliminate_zeros()
        rows.append(keep_best(block, k))
    return sp.vstack(rows).tocsr() if rows else sp.csr_matrix((0, 0), dtype=np.float32)
