"""Ranking metrics per case, and what a whole set of lists does to the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from longtail.errors import InvalidInput


@dataclass(frozen=True)
class Truth:
    """What each of B people really wanted: the items of case b are `items[indptr[b]:indptr[b + 1]]`.

    `indptr` int64 [B + 1]; `items` int64 [nnz], no item twice in a case; `gains` float32 [nnz] above zero, or None
    when every item is worth the same.
    """

    indptr: np.ndarray
    items: np.ndarray
    gains: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def sizes(self) -> np.ndarray:
        """int64 [B]."""
        return np.diff(self.indptr)

    @property
    def rows(self) -> np.ndarray:
        """int64 [nnz]: the case of each item."""
        return np.repeat(np.arange(len(self)), self.sizes)

    @staticmethod
    def from_pairs(case: np.ndarray, item: np.ndarray, n_cases: int, gain: np.ndarray | None = None) -> Truth:
        """Truth of (case, item) pairs in any order; a repeated pair counts once, with its largest gain."""
        gains = np.ones(len(case), np.float32) if gain is None else np.asarray(gain, np.float32)
        order = np.lexsort((-gains, item, case))
        case, item, gains = np.asarray(case)[order], np.asarray(item)[order], gains[order]
        first = np.ones(len(case), bool)
        first[1:] = (case[1:] != case[:-1]) | (item[1:] != item[:-1])
        case, item, gains = case[first], item[first], gains[first]
        indptr = np.searchsorted(case, np.arange(n_cases + 1)).astype(np.int64)
        return Truth(indptr, item.astype(np.int64), None if gain is None else gains)

    def only(self, pairs: np.ndarray) -> Truth:
        """The truth of the masked pairs (bool [nnz]); cases that lose all their items stay, empty."""
        indptr = np.concatenate([[0], np.cumsum(pairs)])[self.indptr].astype(np.int64)
        return Truth(indptr, self.items[pairs], None if self.gains is None else self.gains[pairs])

    def take(self, cases: np.ndarray) -> Truth:
        """The given cases (bool [B] or int [b]), in that order."""
        cases = np.flatnonzero(cases) if np.asarray(cases).dtype == bool else np.asarray(cases)
        sizes = self.sizes[cases]
        indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        flat = np.arange(indptr[-1]) + np.repeat(self.indptr[cases] - indptr[:-1], sizes)
        return Truth(indptr, self.items[flat], None if self.gains is None else self.gains[flat])


def gains_of(lists: np.ndarray, truth: Truth) -> np.ndarray:
    """float32 [B, k]: the gain of every listed item, 0 where the person did not want it.

    Raises:
        InvalidInput: another number of lists than cases, or a list with an item twice.
    """
    lists = check_lists(lists)
    if len(lists) != len(truth):
        raise InvalidInput(f"{len(lists)} lists for {len(truth)} cases: give one list for every case")
    if not truth.items.size or not lists.size:
        return np.zeros(lists.shape, np.float32)
    span = int(max(lists.max(), truth.items.max())) + 1
    keys = truth.rows * span + truth.items
    order = np.argsort(keys)
    wanted = np.arange(len(lists))[:, None] * span + lists
    at = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    found = (keys[order][at] == wanted) & (lists >= 0)
    gain = np.float32(1) if truth.gains is None else truth.gains[order][at]
    return np.where(found, gain, np.float32(0)).astype(np.float32)


def check_lists(lists: np.ndarray) -> np.ndarray:
    """Lists int64 [B, k] padded with -1; InvalidInput for another shape or an item twice in one list."""
    lists = np.asarray(lists)
    if lists.ndim != 2:
        raise InvalidInput(f"lists must have the shape [cases, k], not {list(lists.shape)}")
    ordered = np.sort(lists, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise InvalidInput("a list shows an item twice: deduplicate before judging")
    return lists.astype(np.int64)


def per_case(lists: np.ndarray, truth: Truth, ks: Sequence[int] = (10, 20)) -> dict[str, np.ndarray]:
    """recall@k, ndcg@k, hit@k and mrr@k of every case: float64 [B] each, NaN for cases that want nothing.

    recall@k: share of the wanted items within the first k. ndcg@k: discounted gain over that of the best possible list
    (Jarvelin and Kekalainen, 2002). hit@k: 1 if any wanted item is there. mrr@k: 1 / place of the first one, else 0.
    """
    gain = gains_of(lists, truth)
    sizes = truth.sizes
    empty = sizes == 0
    out: dict[str, np.ndarray] = {}
    for k in ks:
        hits = gain[:, :k] > 0
        discount = 1 / np.log2(np.arange(2, 2 + hits.shape[1]))
        first = hits.argmax(axis=1) if hits.shape[1] else np.zeros(len(hits), np.int64)
        values = {
            "recall": hits.sum(axis=1) / np.maximum(sizes, 1),
            "ndcg": (gain[:, :k] @ discount) / np.where(empty, 1, ideal_gain(truth, k)),
            "hit": hits.any(axis=1).astype(np.float64),
            "mrr": np.where(hits.any(axis=1), 1 / (first + 1), 0.0),
        }
        out |= {f"{name}@{k}": np.where(empty, np.nan, value) for name, value in values.items()}
    return out


def ideal_gain(truth: Truth, k: int) -> np.ndarray:
    """float64 [B]: discounted gain of the best possible list of k."""
    discount = 1 / np.log2(np.arange(2, 2 + k))
    if truth.gains is None:
        return np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(truth.sizes, k)]
    rows = truth.rows
    order = np.lexsort((-truth.gains, rows))
    place = np.arange(len(rows)) - np.repeat(truth.indptr[:-1], truth.sizes)
    worth = np.where(place < k, truth.gains[order] * discount[np.minimum(place, k - 1)], 0.0)
    return np.bincount(rows, weights=worth, minlength=len(truth))


def exposure(lists: np.ndarray, n_items: int) -> np.ndarray:
    """int64 [I]: in how many lists each item of the catalogue is shown."""
    shown = lists[lists >= 0]
    return np.bincount(shown, minlength=n_items)


def coverage(lists: np.ndarray, n_items: int) -> float:
    """Share of the catalogue that at least one list shows."""
    return float((exposure(lists, n_items) > 0).sum() / n_items) if n_items else 0.0


def gini(counts: np.ndarray) -> float:
    """Inequality of non-negative counts: 0 all equal, close to 1 when a few hold everything; 0 if all are zero."""
    ordered = np.sort(np.asarray(counts, np.float64))
    n, total = len(ordered), ordered.sum()
    if total == 0:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))


def novelty(lists: np.ndarray, popularity: np.ndarray) -> np.ndarray:
    """Mean self-information -log2 p(item) of each list, bits: float64 [B], NaN for empty lists.

    p is the item's share of the training interactions (`popularity` int64 [I]), one added to every count.
    """
    bits = -np.log2((popularity + 1) / (popularity.sum() + len(popularity)))
    shown = lists >= 0
    total = np.where(shown, bits[np.where(shown, lists, 0)], 0).sum(axis=1)
    count = shown.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def diversity(lists: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Share of a list's item pairs that lie in different groups: float64 [B], NaN for lists under two items.

    `groups` int [I], such as category codes; an unknown group (-1) differs from all.
    """
    out = np.full(len(lists), np.nan)
    for start in range(0, len(lists), 2048):
        part = lists[start : start + 2048]
        shown = part >= 0
        code = np.where(shown, groups[np.where(shown, part, 0)], -1)
        alike = ((code[:, :, None] == code[:, None, :]) & (code >= 0)[:, :, None]).sum(axis=(1, 2)) - (code >= 0).sum(1)
        count = shown.sum(axis=1)
        pairs = count * (count - 1)
        out[start : start + 2048] = np.where(pairs > 0, 1 - alike / np.maximum(pairs, 1), np.nan)
    return out


def diversity_of_vectors(lists: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Mean 1 - cosine over a list's item pairs: float64 [B], NaN under two items; `vectors` [I, d] of unit length."""
    out = np.full(len(lists), np.nan)
    for start in range(0, len(lists), 2048):
        part = lists[start : start + 2048]
        shown = part >= 0
        rows = vectors[np.where(shown, part, 0)] * shown[:, :, None]
        count = shown.sum(axis=1)
        own = (rows**2).sum(axis=(1, 2))
        pairs = count * (count - 1)
        alike = (rows.sum(axis=1) ** 2).sum(axis=1) - own
        out[start : start + 2048] = np.where(pairs > 0, 1 - alike / np.maximum(pairs, 1), np.nan)
    return out
