"""Item content as weighted tokens, the same for the catalogue that was trained on and for items that came later."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pandas as pd

from longtail.events import Catalogue
from longtail.schema import DAY_US

_WORD = re.compile(r"[^\W_]+")
_MAX_WORDS = 64
_AGE_EDGES_DAYS = (1, 3, 7, 14, 30, 60, 120, 365, 1095)


@dataclass(frozen=True)
class ContentBag:
    """Ragged tokens of I items: row i is `indptr[i]:indptr[i + 1]` of `token` int64 (vocabulary row) and `weight`."""

    indptr: np.ndarray
    token: np.ndarray
    weight: np.ndarray

    def vectors(self, table: np.ndarray) -> np.ndarray:
        """Weighted sums of token vectors [V, d] scaled to length one, float32 [I, d]; zero without a known token."""
        out = np.zeros((len(self.indptr) - 1, table.shape[1]), np.float32)
        rows = np.repeat(np.arange(len(out)), np.diff(self.indptr))
        np.add.at(out, rows, table[self.token] * self.weight[:, None])
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class ContentVocabulary:
    """Known tokens (ascending 64-bit hashes, so that no word list is kept) and the price bucket edges."""

    hashes: np.ndarray
    price_edges: np.ndarray

    @staticmethod
    def fit(catalogue: Catalogue, as_of: int, size: int) -> ContentVocabulary:
        """The `size` most frequent tokens that at least two items share."""
        price = catalogue.price[np.isfinite(catalogue.price)]
        edges = np.unique(np.quantile(price, np.linspace(0.1, 0.9, 9))) if len(price) else np.empty(0)
        _, tokens, _ = _tokens(catalogue, edges, as_of)
        hashes, counts = np.unique(tokens, return_counts=True)
        hashes, counts = hashes[counts > 1], counts[counts > 1]
        kept = np.argsort(-counts, kind="stable")[:size]
        return ContentVocabulary(np.sort(hashes[kept]), edges.astype(np.float64))

    def __len__(self) -> int:
        return len(self.hashes)

    @staticmethod
    def from_dict(values: dict, hashes: np.ndarray) -> ContentVocabulary:
        """The inverse of what training writes to config.json and content_tokens.npy."""
        return ContentVocabulary(hashes, np.asarray(values["price_edges"], np.float64))

    def bag(self, catalogue: Catalogue, as_of: int) -> ContentBag:
        """Known tokens of every item at a time in microseconds: each field weighs 1, all words together weigh 1."""
        rows, hashes, is_word = _tokens(catalogue, self.price_edges, as_of)
        at = np.searchsorted(self.hashes, hashes)
        at_safe = np.minimum(at, max(len(self) - 1, 0))
        known = self.hashes[at_safe] == hashes if len(self) else np.zeros(len(hashes), bool)
        rows, token, is_word = rows[known], at_safe[known], is_word[known]
        words = np.bincount(rows[is_word], minlength=len(catalogue))
        weight = np.where(is_word, 1 / np.sqrt(np.maximum(words, 1))[rows], 1).astype(np.float32)
        indptr = np.searchsorted(rows, np.arange(len(catalogue) + 1)).astype(np.int64)
        return ContentBag(indptr, token.astype(np.int64), weight)


def _tokens(catalogue: Catalogue, price_edges: np.ndarray, as_of: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(item int64 [n] ascending, hash int64 [n], is a word bool [n])."""
    frame, price, created = catalogue.frame, catalogue.price, catalogue.created_us
    price_at = np.searchsorted(price_edges, price)
    age_at = np.searchsorted(_AGE_EDGES_DAYS, (as_of - created) / DAY_US, side="right")
    known: dict[str, int] = {}
    rows, hashes, is_word = [], [], []
    columns = [_texts(frame[c]) for c in ("category", "brand", "title", "text")]
    for i, (category, brand, title, text) in enumerate(zip(*columns, strict=True)):
        parts = category.split("/") if category else []
        fields = [f"category={'/'.join(parts[: n + 1])}" for n in range(len(parts))]
        fields += [f"brand={brand}"] if brand else []
        fields += [f"price={price_at[i]}"] if np.isfinite(price[i]) else []
        fields += [f"age={age_at[i]}"] if created[i] >= 0 else []
        words = list(dict.fromkeys(_WORD.findall(f"{title} {text}".lower())))[:_MAX_WORDS]
        for name in fields + words:
            if name not in known:
                known[name] = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)
            hashes.append(known[name])
        rows.append(np.full(len(fields) + len(words), i))
        is_word += [False] * len(fields) + [True] * len(words)
    flat = np.concatenate(rows) if rows else np.empty(0, np.int64)
    return flat.astype(np.int64), np.asarray(hashes, np.int64), np.asarray(is_word, bool)


def _texts(column: pd.Series) -> list[str]:
    return column.astype(object).where(column.notna(), "").astype(str).tolist()
