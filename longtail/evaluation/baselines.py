"""The three simple systems that a recommender must beat: bestsellers, the person's own repeats, item-kNN."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from longtail.events import Histories, Log


def popularity(log: Log) -> np.ndarray:
    """int64 [I]: interactions of each item in the log."""
    return np.bincount(log.item[log.strength > 0], minlength=log.n_items).astype(np.int64)


def popular_lists(counts: np.ndarray, n_requests: int, k: int, exclude: Histories | None = None) -> np.ndarray:
    """int64 [B, k]: the most popular items (`counts` int64 [I]) for everyone, without those in `exclude`."""
    order = np.argsort(-counts, kind="stable")
    if exclude is None:
        return np.tile(_pad(order[counts[order] > 0][:k], k), (n_requests, 1))
    out = np.full((n_requests, k), -1, np.int64)
    for b in range(n_requests):
        known = np.unique(exclude.item[exclude.indptr[b] : exclude.indptr[b + 1]])
        head = order[: k + len(known)]
        head = head[~np.isin(head, known) & (counts[head] > 0)]
        out[b] = _pad(head[:k], k)
    return out


def repeat_lists(history: Histories, k: int) -> np.ndarray:
    """int64 [B, k]: the items the person touched most often, the latest first among equals."""
    out = np.full((len(history), k), -1, np.int64)
    for b in range(len(history)):
        items = history.item[history.indptr[b] : history.indptr[b + 1]]
        # Reversed, so that an item's first place is how recently it was touched.
        unique, first, count = np.unique(items[::-1], return_index=True, return_counts=True)
        out[b] = _pad(unique[np.lexsort((first, -count))][:k], k)
    return out


def item_knn_lists(
    log: Log, history: Histories, k: int, neighbours: int = 100, exclude_history: bool = False
) -> np.ndarray:
    """int64 [B, k]: item-item collaborative filtering with cosine similarity (Deshpande and Karypis, 2004).

    A person with many items says less about each pair of them, as in the paper: without it the baseline loses a
    quarter of its recall on Gowalla and would be too easy to beat. Each distinct item of a history votes for its
    `neighbours` nearest items; the votes are added.
    """
    log = log.positives
    pairs = sparse.csr_matrix((np.ones(len(log), np.float32), (log.user, log.item)), shape=(log.n_users, log.n_items))
    pairs.data[:] = 1
    norm = np.sqrt(np.maximum(np.asarray(pairs.sum(axis=0)).ravel(), 1))
    active = np.sqrt(np.maximum(np.asarray(pairs.sum(axis=1)).ravel(), 1))
    table = _nearest((sparse.diags(1 / active) @ pairs @ sparse.diags(1 / norm)).tocsr(), neighbours)
    out = np.full((len(history), k), -1, np.int64)
    for start in range(0, len(history), 256):
        rows = np.arange(start, min(start + 256, len(history)))
        part = history.take(rows)
        asked = sparse.csr_matrix((np.ones(len(part.item), np.float32), (part.rows, part.item)),
                                  shape=(len(rows), log.n_items))  # fmt: skip
        asked.data[:] = 1
        scores = (asked @ table).toarray()
        if exclude_history:
            scores[part.rows, part.item] = 0
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        found = np.where(np.take_along_axis(scores, best, axis=1) > 0, best, -1)
        out[rows, : found.shape[1]] = found
    return out


def _nearest(columns: sparse.csr_matrix, keep: int) -> sparse.csr_matrix:
    """Cosine of all column pairs, the `keep` largest of each row, without the diagonal."""
    by_item = columns.T.tocsr()
    blocks = []
    for start in range(0, by_item.shape[0], 512):
        block = (by_item[start : start + 512] @ columns).tocoo()
        off = block.col != block.row + start
        row, col, value = block.row[off], block.col[off], block.data[off]
        order = np.lexsort((col, -value, row))
        row, col, value = row[order], col[order], value[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        kept = rank < keep
        blocks.append(sparse.csr_matrix((value[kept], (row[kept], col[kept])), shape=block.shape))
    return sparse.vstack(blocks, format="csr")


def _pad(items: np.ndarray, k: int) -> np.ndarray:
    out = np.full(k, -1, np.int64)
    out[: len(items)] = items
    return out
