"""Session neighbours: people who went the same way before (V-SKNN, Ludewig & Jannach, UMUAI 2018)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from longtail.events import Log, Requests
from longtail.retrieval.base import Answer, CandidateSource
from longtail.retrieval.neighbours import SparseAnswer, Weighting, history_matrix, keep_best

_PARTS = ("data", "indices", "indptr")


@dataclass
class SessionNeighbours(CandidateSource):
    """A neighbour table in two hops: item -> sessions that held it [I, S], session -> its items [S, I]."""

    name: str
    reason: str
    to_sessions: sp.csr_matrix
    to_items: sp.csr_matrix
    idf: np.ndarray  # float32 [I]
    neighbours: int
    weighting: Weighting
    kind = "neighbours"

    def answer(self, requests: Requests) -> Answer:
        query = history_matrix(requests, len(self.idf), self.weighting)
        query.data = query.data * self.idf[query.indices]
        nearest = keep_best((query @ self.to_sessions).tocsr(), self.neighbours)
        scores = (nearest @ self.to_items).tocsr()
        scores.data = scores.data * self.idf[scores.indices]
        return SparseAnswer(scores)

    def save(self, folder: Path) -> None:
        for name in ("to_sessions", "to_items"):
            for part in _PARTS:
                np.save(folder / f"{name}.{part}.npy", getattr(getattr(self, name), part))
        np.save(folder / "idf.npy", self.idf)
        meta = {"name": self.name, "reason": self.reason, "neighbours": self.neighbours}
        meta |= {"weighting": asdict(self.weighting), "sessions": self.to_items.shape[0]}
        (folder / "source.json").write_text(json.dumps(meta))

    @classmethod
    def load(cls, folder: Path) -> SessionNeighbours:
        """Memory-map a saved source."""
        meta = json.loads((folder / "source.json").read_text())
        idf = np.load(folder / "idf.npy")
        shapes = {"to_sessions": (len(idf), meta["sessions"]), "to_items": (meta["sessions"], len(idf))}
        to_sessions, to_items = (
            sp.csr_matrix(tuple(np.load(folder / f"{name}.{p}.npy", mmap_mode="r") for p in _PARTS), shape=shape)
            for name, shape in shapes.items()
        )
        return cls(
            meta["name"], meta["reason"], to_sessions, to_items, idf, meta["neighbours"], Weighting(**meta["weighting"])
        )


def session_neighbours(
    log: Log, name: str, reason: str, weighting: Weighting, neighbours: int = 500, newest: int = 200_000
) -> SessionNeighbours:
    """Fit on the `newest` sessions of two or more items; later sessions count up to three times the oldest."""
    _, first, code = np.unique(log.session, return_index=True, return_inverse=True)
    started = log.time[first]
    order = np.empty(len(first), np.int64)
    order[np.argsort(started, kind="stable")] = np.arange(len(first))
    x = sp.csr_matrix((np.ones(len(log), np.float32), (order[code], log.item)), shape=(len(first), log.n_items))
    x.sum_duplicates()
    x.data[:] = 1
    x = x[np.diff(x.indptr) > 1][-newest:]
    length = np.maximum(np.diff(x.indptr), 1)
    count = np.maximum(np.asarray(x.sum(0)).ravel(), 1)
    idf = np.log(max(x.shape[0], 1) / count).astype(np.float32)
    age = (0.5 + np.arange(x.shape[0]) / max(x.shape[0], 1)).astype(np.float32)
    to_sessions = (sp.diags((age * length**-0.5).astype(np.float32)) @ x).T.tocsr().astype(np.float32)
    return SessionNeighbours(name, reason, to_sessions, x.tocsr(), np.maximum(idf, 0), neighbours, weighting)
