"""Neighbour tables: each item's K best neighbours with weights, and the one source that serves all of them.

EASE, sequence rules, co-purchase, item-kNN, graph filter and content differ only in how the table is built.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack

from longtail.errors import LongtailError
from longtail.events import Histories, Log, Requests
from longtail.retrieval.base import Answer, CandidateSource, top_of_dense
from longtail.schema import DAY_US


@dataclass(frozen=True)
class Weighting:
    """How much each past event counts in a query.

    `last` newest events only; `decay` per step back; `half_life_days` by age at request time; `distinct` counts an item
    once, at its newest event; `session` keeps the newest session only.
    """

    last: int = 500
    decay: float = 1.0
    half_life_days: float | None = None
    distinct: bool = False
    session: bool = False


def history_matrix(requests: Requests, n_items: int, weighting: Weighting) -> sp.csr_matrix:
    """Weights of each request's past items, csr float32 [B, n_items]; repeated items add up unless `distinct`."""
    history: Histories = requests.history
    rows, age = history.rows, history.age()
    keep = age < weighting.last
    if weighting.session and len(age):
        newest = np.maximum(history.indptr[1:] - 1, 0)
        keep &= history.session == history.session[np.minimum(newest, len(age) - 1)][rows]
    if weighting.distinct and len(age):
        key = rows * n_items + history.item
        _, last_seen = np.unique(key[::-1], return_index=True)
        newest_of_item = np.zeros(len(key), bool)
        newest_of_item[len(key) - 1 - last_seen] = True
        keep &= newest_of_item
    weight = np.power(np.float32(weighting.decay), age.astype(np.float32))
    if weighting.half_life_days is not None:
        days = (requests.time[rows] - history.time) / DAY_US
        weight = weight * np.exp2(-days / weighting.half_life_days)
    rows, item, data = rows[keep], history.item[keep], weight[keep]
    if not weighting.distinct:
        # Added up oldest first: scipy's sum_duplicates orders repeats by whatever else is in the batch, and rounds so.
        key, place = np.unique(rows * n_items + item, return_inverse=True)
        rows, item, data = key // n_items, (key % n_items).astype(np.int32), np.bincount(place, data, len(key))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(history)))])
    return sp.csr_matrix((data.astype(np.float32), item, indptr), shape=(len(history), n_items))


class SparseAnswer(Answer):
    """Scores held as csr float32 [B, I]; absent means unknown."""

    def __init__(self, scores: sp.csr_matrix) -> None:
        scores.sort_indices()
        self.scores = scores

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        s = self.scores
        if s.nnz * 4 > s.shape[0] * s.shape[1]:
            dense = s.toarray()
            return top_of_dense(np.where(dense > 0, dense, -np.inf).astype(np.float32), k)
        ids = np.full((s.shape[0], k), -1, np.int64)
        out = np.full((s.shape[0], k), -np.inf, np.float32)
        for b in range(s.shape[0]):
            data, items = s.data[s.indptr[b] : s.indptr[b + 1]], s.indices[s.indptr[b] : s.indptr[b + 1]]
            picked = np.flatnonzero(data > 0)
            if len(picked) > k:
                kth = np.partition(data[picked], len(picked) - k)[len(picked) - k]
                above, equal = picked[data[picked] > kth], picked[data[picked] == kth]
                picked = np.sort(np.concatenate([above, equal[: k - len(above)]]))
            picked = picked[np.argsort(-data[picked], kind="stable")]
            ids[b, : len(picked)], out[b, : len(picked)] = items[picked], data[picked]
        return ids, out

    def at(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        s = self.scores
        n_items = s.shape[1]
        if s.nnz * 4 > s.shape[0] * n_items:
            return s.toarray()[rows, items].astype(np.float32)
        if not s.nnz:
            return np.zeros(len(rows), np.float32)
        key = np.repeat(np.arange(s.shape[0], dtype=np.int64), np.diff(s.indptr)) * n_items + s.indices
        wanted = np.asarray(rows, np.int64) * n_items + items
        found = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
        return np.where(key[found] == wanted, s.data[found], 0).astype(np.float32)


@dataclass
class NeighbourSource(CandidateSource):
    """Gathers the table's rows of the weighted history and adds them up."""

    name: str
    reason: str
    table: sp.csr_matrix
    weighting: Weighting
    kind = "neighbours"

    def answer(self, requests: Requests) -> Answer:
        weights = history_matrix(requests, self.table.shape[0], self.weighting)
        return SparseAnswer((weights @ self.table).tocsr())

    def save(self, folder: Path) -> None:
        for part in ("data", "indices", "indptr"):
            np.save(folder / f"{part}.npy", getattr(self.table, part))
        meta = {"name": self.name, "reason": self.reason, "weighting": asdict(self.weighting)}
        (folder / "source.json").write_text(json.dumps(meta | {"shape": self.table.shape}))

    @classmethod
    def load(cls, folder: Path) -> NeighbourSource:
        """Memory-map a saved table, so that several processes share one copy."""
        meta = json.loads((folder / "source.json").read_text())
        parts = [np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("data", "indices", "indptr")]
        table = sp.csr_matrix(tuple(parts), shape=tuple(meta["shape"]), copy=False)
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
