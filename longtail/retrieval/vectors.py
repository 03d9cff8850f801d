"""Vector sources whose query is a weighted sum over the history: the spectral filter of the interaction graph."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from longtail.events import Requests
from longtail.retrieval.base import Answer, CandidateSource
from longtail.retrieval.index import VectorIndex
from longtail.retrieval.neighbours import Weighting, degree_normalised, history_matrix


class VectorAnswer(Answer):
    """Queries float32 [B, d] against an index over item vectors float32 [I, d]."""

    def __init__(self, queries: np.ndarray, index: VectorIndex, vectors: np.ndarray) -> None:
        self.queries, self.index, self.vectors = queries, index, vectors
        self.known = np.any(queries != 0, axis=1)

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        ids, _ = self.index.search(self.queries, k)
        ids[~self.known] = -1
        row, place = np.nonzero(ids >= 0)
        # The index rounds by the size of its batch: the pairs' own scores decide the order.
        scores = np.full(ids.shape, -np.inf, np.float32)
        scores[row, place] = self.at(row, ids[row, place])
        order = np.lexsort((ids, -scores))
        return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)

    def at(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        # einsum sums each row by itself: a matrix product would give other last bits for other batch sizes.
        return np.einsum("nd,nd->n", self.queries[rows], self.vectors[items]).astype(np.float32)


@dataclass
class SpectralSource(CandidateSource):
    """Ideal low-pass filter of the user-item graph (GF-CF, Shen et al., CIKM 2021): smooth what the history says."""

    name: str
    reason: str
    inward: np.ndarray  # float32 [I, d]: what an item of the history adds to the query
    outward: np.ndarray  # float32 [I, d]: the item vectors that queries are matched with
    index: VectorIndex
    weighting: Weighting
    kind = "vectors"

    def answer(self, requests: Requests) -> Answer:
        weights = history_matrix(requests, len(self.inward), self.weighting)
        queries = np.asarray(weights @ self.inward, np.float32)
        return VectorAnswer(queries, self.index, self.outward)

    def save(self, folder: Path) -> None:
        np.save(folder / "inward.npy", self.inward)
        np.save(folder / "outward.npy", self.outward)
        self.index.save(folder)
        meta = {"name": self.name, "reason": self.reason, "weighting": asdict(self.weighting)}
        (folder / "source.json").write_text(json.dumps(meta))

    @classmethod
    def load(cls, folder: Path) -> SpectralSource:
        """Memory-map the vectors of a saved source."""
        meta = json.loads((folder / "source.json").read_text())
        inward, outward = (np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("inward", "outward"))
        index = VectorIndex.load(folder)
        return cls(meta["name"], meta["reason"], inward, outward, index, Weighting(**meta["weighting"]))


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
    degree = np.sqrt(np.maximum(np.asarray(interactions.sum(0)).ravel(), 1)).astype(np.float32)[:, None]
    basis = right.T.astype(np.float32)
    inward, outward = np.ascontiguousarray(basis / degree), np.ascontiguousarray(basis * degree)
    index = VectorIndex.build(outward, queries=np.ascontiguousarray(normal[:256] @ basis))
    return SpectralSource(name, reason, inward, outward, index, weighting)
