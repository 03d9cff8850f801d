"""List sources: the same items for everyone (popular, trending), for a segment, or from the user's own past."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from longtail.compiled import compiled, frozen
from longtail.events import Log, Requests
from longtail.retrieval.base import Answer, CandidateSource
from longtail.retrieval.gathering import TableSource, Way
from longtail.retrieval.table import top_positive
from longtail.retrieval.weighting import Weighting
from longtail.schema import DAY_US

LISTED = 2000  # places of a ranked list that are kept ready


def decayed_counts(log: Log, now: int, half_life_days: float | None) -> np.ndarray:
    """Interactions of each item, halved every `half_life_days` (None: all count alike), float32 [n_items]."""
    weight = None if half_life_days is None else np.exp2((log.time - now) / (DAY_US * half_life_days))
    return np.bincount(log.item, weights=weight, minlength=log.n_items).astype(np.float32)


@dataclass(frozen=True)
class Segments:
    """How the lists of G segments differ from everyone's, so that a large shop keeps no number per segment and item.

    In segment g the item `items[j]`, for j in `indptr[g]:indptr[g + 1]` and ascending, scores `scores[j]`; any other
    item `factors[g]` times what it scores for everyone.
    """

    factors: np.ndarray  # float32 [G]
    indptr: np.ndarray  # int64 [G + 1]
    items: np.ndarray  # int32 [nnz]
    scores: np.ndarray  # float32 [nnz]

    @staticmethod
    def none() -> Segments:
        """Everyone has one list."""
        return Segments(*(frozen(np.zeros(n), t) for n, t in _SEGMENT_PARTS.values()))

    @staticmethod
    def of(scores: np.ndarray) -> Segments:
        """Segments that name every item: `scores` float32 [G, I]."""
        groups, n = scores.shape
        parts = np.zeros(groups), np.arange(groups + 1) * n, np.tile(np.arange(n), groups), scores.ravel()
        return Segments(*(frozen(a, t) for a, (_, t) in zip(parts, _SEGMENT_PARTS.values(), strict=True)))


_SEGMENT_PARTS = {
    "factors": (0, np.float32),
    "indptr": (1, np.int64),
    "items": (0, np.int32),
    "scores": (0, np.float32),
}


class ListAnswer(Answer):
    """One ranked list per group: group 0 is everyone, group g + 1 the segment g."""

    def __init__(self, group: np.ndarray, source: ListSource) -> None:
        self.group, self.source = group, source

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        listed, worth = self.source.listed
        ids = np.full((len(self.group), k), -1, np.int64)
        scores = np.full((len(self.group), k), -np.inf, np.float32)
        width = min(k, listed.shape[1])
        ids[:, :width], scores[:, :width] = listed[self.group, :width], worth[self.group, :width]
        return ids, scores

    def at(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        out = np.empty(len(rows), np.float32)
        rows, items = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(items, np.int64)
        s = self.source.segments
        _list_scores(self.group, rows, items, self.source.scores, s.factors, s.indptr, s.items, s.scores, out)
        return out


@dataclass
class ListSource(CandidateSource):
    """`scores` float32 [I] serve everyone, `segments` say where a segment's differ."""

    name: str
    reason: str
    scores: np.ndarray
    segments: Segments = field(default_factory=Segments.none)
    kind = "list"

    def __post_init__(self) -> None:
        self.scores = frozen(self.scores, np.float32)
        width = min(LISTED, len(self.scores))
        lists = [top_positive(self.scores[None], width)]
        everything = np.arange(len(self.scores))
        for group in range(1, len(self.segments.factors) + 1):
            of_all = ListAnswer(np.array([group]), self).at(np.zeros_like(everything), everything)
            lists.append(top_positive(of_all[None], width))
        self.listed = np.concatenate([ids for ids, _ in lists]), np.concatenate([worth for _, worth in lists])

    def best(self, group: int) -> np.ndarray:
        """The ranked list int64 [n] of a group: 0 is everyone, g + 1 the segment g."""
        ids = self.listed[0][group]
        return ids[ids >= 0]

    def answer(self, requests: Requests) -> Answer:
        known = requests.segment < len(self.segments.factors)
        return ListAnswer(np.where(known, requests.segment + 1, 0).astype(np.int64), self)

    def save(self, folder: Path) -> None:
        np.save(folder / "scores.npy", self.scores)
        if len(self.segments.factors):
            for part in _SEGMENT_PARTS:
                np.save(folder / f"segments.{part}.npy", getattr(self.segments, part))
        (folder / "source.json").write_text(json.dumps({"name": self.name, "reason": self.reason}))

    @classmethod
    def load(cls, folder: Path) -> ListSource:
        """Memory-map a saved list."""
        meta = json.loads((folder / "source.json").read_text())
        segments = Segments.none()
        if (folder / "segments.factors.npy").is_file():
            mapped = {part: np.load(folder / f"segments.{part}.npy", mmap_mode="r") for part in _SEGMENT_PARTS}
            segments = Segments(**{part: frozen(mapped[part], t) for part, (_, t) in _SEGMENT_PARTS.items()})
        scores = np.load(folder / "scores.npy", mmap_mode="r")
        if scores.ndim == 2:  # a bundle that holds every item's score in every segment
            scores, segments = scores[0], Segments.of(scores[1:])
        return cls(meta["name"], meta["reason"], scores, segments)


@dataclass
class RepeatSource(TableSource):
    """The items of the user's own past, recent and frequent ones first."""

    name: str
    reason: str
    n_items: int
    weighting: Weighting
    kind = "list"

    @property
    def way(self) -> Way:
        return Way(self.weighting, self.n_items)

    def save(self, folder: Path) -> None:
        meta = {"name": self.name, "reason": self.reason, "n_items": self.n_items}
        (folder / "source.json").write_text(json.dumps(meta | {"weighting": self.weighting.as_dict()}))

    @classmethod
    def load(cls, folder: Path) -> RepeatSource:
        """Read a saved source."""
        meta = json.loads((folder / "source.json").read_text())
        return cls(meta["name"], meta["reason"], meta["n_items"], Weighting(**meta["weighting"]))


@compiled
def _list_scores(
    group: np.ndarray,
    rows: np.ndarray,
    items: np.ndarray,
    everyone: np.ndarray,
    factors: np.ndarray,
    indptr: np.ndarray,
    listed: np.ndarray,
    scores: np.ndarray,
    out: np.ndarray,
) -> None:
    for j in range(len(rows)):
        item, g = items[j], group[rows[j]] - 1
        out[j] = everyone[np.uint32(item)]
        if g >= 0:
            out[j] *= factors[g]
            low, high = indptr[g], indptr[g + 1]
            while low < high:
                middle = (low + high) >> 1
                if listed[middle] < item:
                    low = middle + 1
                else:
                    high = middle
            if low < indptr[g + 1] and listed[low] == item:
                out[j] = scores[low]


def popular(log: Log, now: int, half_life_days: float | None, name: str, reason: str) -> ListSource:
    """Most interactions, recent ones counting more."""
    return ListSource(name, reason, decayed_counts(log, now, half_life_days))


def trending(log: Log, now: int, name: str, reason: str) -> ListSource:
    """Items whose last days stand out against their last month."""
    fast, slow = decayed_counts(log, now, 3), decayed_counts(log, now, 30)
    return ListSource(name, reason, fast / (slow + 5) * np.sqrt(fast))


def popular_in_segment(
    log: Log, segment: np.ndarray, n_segments: int, now: int, name: str, reason: str, prior: float = 200.0
) -> ListSource:
    """Popular among people like the user: a segment's counts, drawn to everyone's by `prior` pseudo-interactions.

    `segment` int32 [n_users], -1 unknown.
    """
    everyone = decayed_counts(log, now, 30)
    share = everyone / max(float(everyone.sum()), 1.0)
    of_event = segment[log.user]
    factors, items, scores = [], [], []
    for s in range(n_segments):
        counts = decayed_counts(log.select(of_event == s), now, 30)
        total = float(counts.sum()) + prior
        own = np.flatnonzero(counts)
        factors.append(prior / total)
        items.append(own)
        scores.append((counts[own] + prior * share[own]) / total)
    indptr = np.cumsum([0, *(len(own) for own in items)])
    flat = np.concatenate([*items, np.empty(0)]), np.concatenate([*scores, np.empty(0)])
    parts = zip(_SEGMENT_PARTS.values(), (np.array(factors), indptr, *flat), strict=True)
    return ListSource(name, reason, share, Segments(*(frozen(part, dtype) for (_, dtype), part in parts)))
