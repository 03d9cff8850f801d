"""List sources: the same items for everyone (popular, trending), for a segment, or from the user's own past."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from longtail.compiled import compiled, float32_at, frozen, int32_at, int64_at, prefetch
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


class Lists:
    """The `Group` of L list sources over one catalogue: what they say of an item lies side by side.

    List l has the column `columns[l]` int64 [L].
    """

    def __init__(self, sources: Sequence[ListSource], columns: np.ndarray) -> None:
        self._sources = list(sources)  # the arrays behind the addresses live as long as this does
        self.columns = frozen(columns, np.int64)
        side_by_side = np.stack([source.scores for source in sources], 1) if sources else np.empty((0, 0))
        self.scores = frozen(side_by_side, np.float32)
        self.plan = frozen(np.array([s._row() for s in sources], np.int64).reshape(len(sources), _PLAN), np.int64)

    def __reduce__(self) -> tuple:
        return Lists, (self._sources, self.columns)  # addresses are this process's

    def answer(self, requests: Requests) -> Listed:
        """The lists of people's segments."""
        return self.of(requests.segment)

    def of(self, segment: np.ndarray) -> Listed:
        """The lists of segments int32 [B]."""
        return Listed(self, frozen(segment, np.int32))


class Listed:
    """The lists of some segments."""

    def __init__(self, lists: Lists, segment: np.ndarray) -> None:
        self._lists, self._segment = lists, segment

    def top(self, out: np.ndarray) -> None:
        """See `GroupAnswer.top`."""
        _list_tops(self._lists.plan, self._segment, self._lists.columns, out)

    def at(self, rows: np.ndarray, items: np.ndarray, out: np.ndarray) -> None:
        """See `GroupAnswer.at`; quickest where items ascend."""
        pairs = frozen(rows, np.int64), frozen(items, np.int64)
        _list_scores(self._lists.plan, self._lists.scores, self._segment, *pairs, self._lists.columns, out)


class ListAnswer(Answer):
    """One list: everyone's, or that of the person's segment."""

    def __init__(self, segment: np.ndarray, source: ListSource) -> None:
        self.segment, self.source = segment, source

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        ids = np.empty((1, len(self.segment), k), np.int64)
        self.source.alone.of(self.segment).top(ids)
        rows, places = np.nonzero(ids[0] >= 0)
        scores = np.full(ids.shape[1:], -np.inf, np.float32)
        scores[rows, places] = self.at(rows, ids[0, rows, places])
        return ids[0], scores

    def at(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        out = np.empty((1, len(rows)), np.float32)
        self.source.alone.of(self.segment).at(rows, items, out)
        return out[0]


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
        self.listed = np.full((1 + len(self.segments.factors), width), -1, np.int64)
        self.listed[0] = top_positive(self.scores[None], width)[0][0]
        everything = np.arange(len(self.scores))
        for group in range(len(self.segments.factors)):
            of_all = ListAnswer(np.array([group], np.int32), self).at(np.zeros_like(everything), everything)
            self.listed[1 + group] = top_positive(of_all[None], width)[0][0]

    @cached_property
    def alone(self) -> Lists:
        """This list for itself."""
        return Lists([self], np.zeros(1, np.int64))

    def _row(self) -> list[int]:
        s = self.segments
        parts = (self.listed, s.factors, s.indptr, s.items, s.scores)
        return [self.listed.shape[1], len(s.factors), len(s.items), *(part.ctypes.data for part in parts)]

    def best(self, group: int) -> np.ndarray:
        """The ranked list int64 [n] of a group: 0 is everyone, g + 1 the segment g."""
        ids = self.listed[group]
        return ids[ids >= 0]

    def answer(self, requests: Requests) -> Answer:
        return ListAnswer(requests.segment, self)

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


# The columns of the plan of lists: places of the ranked lists, segments, entries of the segments; then the addresses of
# the ranked lists and of the parts of the segments.
_PLACES, _GROUPS, _ENTRIES, _LISTED, _FACTORS, _INDPTR, _ITEMS, _SCORES, _PLAN = 0, 1, 2, 3, 4, 5, 6, 7, 8


@compiled
def _list_tops(plan: np.ndarray, segment: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    for s in range(len(plan)):
        places, groups = plan[s, _PLACES], plan[s, _GROUPS]
        listed = int64_at(plan[s, _LISTED], places * (groups + 1))
        for b in range(len(segment)):
            first = places * (segment[b] + 1) if 0 <= segment[b] < groups else 0
            row = out[columns[s], b]
            for place in range(len(row)):
                row[place] = listed[first + place] if place < places else -1


@compiled
def _list_scores(
    plan: np.ndarray, everyone: np.ndarray, segment: np.ndarray, rows: np.ndarray, items: np.ndarray,
    columns: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    for j in range(len(rows)):
        prefetch(everyone, items, j)
        row = everyone[np.uint32(items[j])]
        for s in range(len(columns)):
            out[columns[s], j] = row[s]
    for s in range(len(plan)):
        groups = plan[s, _GROUPS]
        if groups == 0:
            continue
        factors, indptr = float32_at(plan[s, _FACTORS], groups), int64_at(plan[s, _INDPTR], groups + 1)
        listed = int32_at(plan[s, _ITEMS], plan[s, _ENTRIES])
        scores, mine = float32_at(plan[s, _SCORES], plan[s, _ENTRIES]), out[columns[s]]
        of, last, place = -1, np.int64(-1), np.int64(0)
        for j in range(len(rows)):
            g, item = segment[rows[j]], items[j]
            if not 0 <= g < groups:
                continue
            stop = indptr[g + 1]
            if g != of or item < last:
                of, place = g, indptr[g]
            last = item
            # From where the item before was found, in steps that double: items ascend, and the next is near.
            step = 1
            while place + step < stop and listed[place + step] < item:
                place += step
                step *= 2
            low, high = place, min(place + step, stop)
            while low < high:
                middle = (low + high) >> 1
                if listed[middle] < item:
                    low = middle + 1
                else:
                    high = middle
            place = low
            found = place < stop and listed[place] == item
            mine[j] = scores[place] if found else mine[j] * factors[g]


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
