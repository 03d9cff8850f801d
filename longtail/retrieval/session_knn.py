"""Session neighbours: people who went the same way before (V-SKNN, Ludewig & Jannach, UMUAI 2018)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from longtail.compiled import frozen
from longtail.events import Log
from longtail.retrieval.gathering import TableSource, Way
from longtail.retrieval.table import Table
from longtail.retrieval.weighting import Weighting


@dataclass
class SessionNeighbours(TableSource):
    """A neighbour table in two hops: item -> sessions that held it [I, S], session -> its items [S, I]."""

    name: str
    reason: str
    to_sessions: Table
    to_items: Table
    idf: np.ndarray  # float32 [I]
    neighbours: int
    weighting: Weighting
    kind = "neighbours"

    @property
    def way(self) -> Way:
        tables = self.to_sessions, self.to_items
        return Way(self.weighting, len(self.idf), tables, frozen(self.idf, np.float32), self.neighbours)

    def save(self, folder: Path) -> None:
        self.to_sessions.save(folder, "to_sessions.")
        self.to_items.save(folder, "to_items.")
        np.save(folder / "idf.npy", self.idf)
        meta = {"name": self.name, "reason": self.reason, "neighbours": self.neighbours}
        meta |= {"weighting": self.weighting.as_dict(), "sessions": self.to_items.shape[0]}
        (folder / "source.json").write_text(json.dumps(meta))

    @classmethod
    def load(cls, folder: Path) -> SessionNeighbours:
        """Memory-map a saved source."""
        meta = json.loads((folder / "source.json").read_text())
        idf = frozen(np.load(folder / "idf.npy", mmap_mode="r"), np.float32)
        items, sessions = len(idf), meta["sessions"]
        to_sessions = Table.load(folder, (items, sessions), "to_sessions.")
        to_items = Table.load(folder, (sessions, items), "to_items.")
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
    idf = frozen(np.maximum(idf, 0), np.float32)
    return SessionNeighbours(name, reason, Table.of(to_sessions), Table.of(x.tocsr()), idf, neighbours, weighting)
