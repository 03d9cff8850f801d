"""Vector sources whose query is a weighted sum over the history: the spectral filter of the interaction graph."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from longtail.compiled import compiled, frozen
from longtail.events import Requests
from longtail.retrieval.base import Answer, CandidateSource
from longtail.retrieval.index import VectorIndex, inner_products
from longtail.retrieval.neighbours import degree_normalised
from longtail.retrieval.weighting import Weighting, Weightings, slots


class VectorAnswer(Answer):
    """Queries float32 [B, d] against an index over item vectors float32 [I, d]; a query of zeros knows nothing."""

    def __init__(self, queries: np.ndarray, index: VectorIndex, vectors: np.ndarray) -> None:
        self.queries, self.index, self.vectors = queries, index, vectors

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        ids, scores = self.index.search(self.queries, k)
        unknown = ~self.queries.any(axis=1)
        ids[unknown], scores[unknown] = -1, -np.inf
        return ids, scores

    def at(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        return inner_products(self.queries, rows, self.vectors, items)


@dataclass
class SpectralSource(CandidateSource):
    """Ideal low-pass filter of the user-item graph (GF-CF, Shen et al., CIKM 2021): smooth what the history says."""

    name: str
    reason: str
    vectors: np.ndarray  # float32 [I, d] that queries are matched with
    inverse_degree: np.ndarray  # float32 [I]: an item of the history adds its vector times this to the query
    index: VectorIndex
    weighting: Weighting
    kind = "vectors"

    def __post_init__(self) -> None:
        self.vectors = frozen(self.vectors, np.float32)
        self.inverse_degree = frozen(self.inverse_degree, np.float32)
        self._weightings = Weightings([self.weighting])

    def answer(self, requests: Requests) -> Answer:
        indptr, items, weights = self._weightings.of(requests, slots(len(self.vectors)))
        queries = np.zeros((len(requests), self.vectors.shape[1]), np.float32)
        _sum_vectors(indptr[0], items[0], weights[0], self.inverse_degree, self.vectors, queries)
        return VectorAnswer(queries, self.index, self.vectors)

    def save(self, folder: Path) -> None:
        np.save(folder / "vectors.npy", self.vectors)
        np.save(folder / "inverse_degree.npy", self.inverse_degree)
        self.index.save(folder)
        meta = {"name": self.name, "reason": self.reason, "weighting": self.weighting.as_dict()}
        (folder / "source.json").write_text(json.dumps(meta))

    @classmethod
    def load(cls, folder: Path) -> SpectralSource:
        """Memory-map the vectors of a saved source."""
        meta = json.loads((folder / "source.json").read_text())
        vectors, inverse = (np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("vectors", "inverse_degree"))
        index = VectorIndex.load(folder, vectors)
        return cls(meta["name"], meta["reason"], vectors, inverse, index, Weighting(**meta["weighting"]))


@compiled
def _sum_vectors(
    indptr: np.ndarray,
    items: np.ndarray,
    weights: np.ndarray,
    factors: np.ndarray,
    vectors: np.ndarray,
    out: np.ndarray,
) -> None:
    for b in range(len(out)):
        for j in range(indptr[b], indptr[b + 1]):
            item = np.uint32(items[j])
            weight, total, vector = weights[j] * factors[item], out[b], vectors[item]
            for d in range(len(total)):
                total[d] += weight * vector[d]


def spectral(
    interactions: sp.csr_matrix, rank: int, weighting: Weighting, name: str, reason: str, seed: int
) -> SpectralSource:
    """Fit by a randomised truncated SVD of the degree-normalised interactions [n_users, n_items]."""
    from sklearn.utils.extmath import randomized_svd

    rank = max(1, min(rank, min(interactions.shape) - 1))
    normal = degree_normalised(interactions)
    if normal.nnz:
        _, _, right = randomized_svd(normal, rank, n_iter=3, random_state=seed)
    else:  # nobody has two items yet: there is nothing to smooth
        right = np.zeros((rank, interactions.shape[1]), np.float32)
    degree = np.sqrt(np.maximum(np.asarray(interactions.sum(0)).ravel(), 1)).astype(np.float32)
    basis = right.T.astype(np.float32)
    # A history item enters as basis / degree and is matched as basis * degree: the square makes one of the other.
    vectors = np.ascontiguousarray(basis * degree[:, None])
    index = VectorIndex.build(vectors, queries=np.ascontiguousarray(normal[:256] @ basis))
    return SpectralSource(name, reason, vectors, (degree**-2).astype(np.float32), index, weighting)
