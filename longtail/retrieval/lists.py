"""List sources: the same items for everyone (popular, trending), for a segment, or from the user's own past."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from longtail.events import Log, Requests
from longtail.retrieval.base import Answer, CandidateSource, top_of_dense
from longtail.retrieval.neighbours import SparseAnswer, Weighting, history_matrix
from longtail.schema import DAY_US


def decayed_counts(log: Log, now: int, half_life_days: float | None) -> np.ndarray:
    """Interactions of each item, halved every `half_life_days` (None: all count alike), float32 [n_items]."""
    weight = None if half_life_days is None else np.exp2((log.time - now) / (DAY_US * half_life_days))
    return np.bincount(log.item, weights=weight, minlength=log.n_items).astype(np.float32)


class ListAnswer(Answer):
    """One ranked list per segment: `order` int64 [G, K] and `scores` float32 [G, I]."""

    def __init__(self, group: np.ndarray, order: np.ndarray, scores: np.ndarray) -> None:
        self.group, self.order, self.scores = group, order, scores

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        ids = np.full((len(self.group), k), -1, np.int64)
        width = min(k, self.order.shape[1])
        ids[:, :width] = self.order[self.group, :width]
        scores = np.where(ids >= 0, self.scores[self.group[:, None], ids], -np.inf).astype(np.float32)
        ids[~(scores > 0)] = -1
        return ids, np.where(ids >= 0, scores, -np.inf).astype(np.float32)

    def at(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        return self.scores[self.group[rows], items]


@dataclass
class ListSource(CandidateSource):
    """`scores` float32 [G, I]: row 0 serves everyone without a segment, row s + 1 the segment s."""

    name: str
    reason: str
    scores: np.ndarray
    kind = "list"

    def __post_init__(self) -> None:
        self.order = top_of_dense(np.asarray(self.scores), min(2000, self.scores.shape[1]))[0]

    def answer(self, requests: Requests) -> Answer:
        group = np.where(requests.segment + 1 < len(self.scores), requests.segment + 1, 0)
        return ListAnswer(group if len(self.scores) > 1 else np.zeros(len(requests), np.int64), self.order, self.scores)

    def save(self, folder: Path) -> None:
        np.save(folder / "scores.npy", self.scores)
        (folder / "source.json").write_text(json.dumps({"name": self.name, "reason": self.reason}))

    @classmethod
    def load(cls, folder: Path) -> ListSource:
        """Read a saved list."""
        meta = json.loads((folder / "source.json").read_text())
        return cls(meta["name"], meta["reason"], np.load(folder / "scores.npy", mmap_mode="r"))


@dataclass
class RepeatSource(CandidateSource):
    """The items of the user's own past, recent and frequent ones first."""

    name: str
    reason: str
    n_items: int
    weighting: Weighting
    kind = "list"

    def answer(self, requests: Requests) -> Answer:
        matrix = history_matrix(requests, self.n_items, self.weighting)
        return SparseAnswer(sp.csr_matrix(matrix))

    def save(self, folder: Path) -> None:
        meta = {"name": self.name, "reason": self.reason, "n_items": self.n_items}
        (folder / "source.json").write_text(json.dumps(meta | {"weighting": asdict(self.weighting)}))

    @classmethod
    def load(cls, folder: Path) -> RepeatSource:
        """Read a saved source."""
        meta = json.loads((folder / "source.json").read_text())
        return cls(meta["name"], meta["reason"], meta["n_items"], Weighting(**meta["weighting"]))


def popular(log: Log, now: int, half_life_days: float | None, name: str, reason: str) -> ListSource:
    """Most interactions, recent ones counting more."""
    return ListSource(name, reason, decayed_counts(log, now, half_life_days)[None])


def trending(log: Log, now: int, name: str, reason: str) -> ListSource:
    """Items whose last days stand out against their last month."""
    fast, slow = decayed_counts(log, now, 3), decayed_counts(log, now, 30)
    return ListSource(name, reason, (fast / (slow + 5) * np.sqrt(fast)).astype(np.float32)[None])


def popular_in_segment(
    log: Log, segment: np.ndarray, n_segments: int, now: int, name: str, reason: str, prior: float = 200.0
) -> ListSource:
    """Popular among people like the user: a segment's counts, drawn to everyone's by `prior` pseudo-interactions.

    `segment` int32 [n_users], -1 unknown.
    """
    everyone = decayed_counts(log, now, 30)
    share = everyone / max(float(everyone.sum()), 1.0)
    out = np.zeros((n_segments + 1, log.n_items), np.float32)
    out[0] = share
    of_event = segment[log.user]
    for s in range(n_segments):
        counts = decayed_counts(log.select(of_event == s), now, 30)
        out[s + 1] = (counts + prior * share) / (float(counts.sum()) + prior)
    return ListSource(name, reason, out)
