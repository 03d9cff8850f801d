"""The two stages as one system: retrieve, assemble features, rank. The trainer, the evaluation and the benchmark
run this; the engine runs the same pieces behind servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import xgboost as xgb

from longtail.events import Catalogue, Requests
from longtail.events.log import ROW
from longtail.features.batch import Snapshots, take_user
from longtail.features.request import ItemTable, Pairs, assemble
from longtail.ranking.groups import Wanted
from longtail.ranking.ranker import TrainingRows
from longtail.retrieval import Candidates, Retriever

CHUNK = 256  # requests answered together: bounds memory, changes no value

Pairing = tuple[np.ndarray, np.ndarray] | None  # (request int64 [M], item int64 [M])


@dataclass(frozen=True)
class Stage:
    """What is known at one moment: sources fitted before it, and the snapshots in force."""

    time: int
    retriever: Retriever
    snapshots: Snapshots
    catalogue: Catalogue
    content: sp.csr_matrix

    def item_table(self) -> ItemTable:
        """The item snapshot stamped at this moment."""
        return ItemTable(self.snapshots.item(self.time), self.catalogue, self.content)

    def features(self, requests: Requests, candidates: Candidates, items: ItemTable) -> np.ndarray:
        """The ranker's input float32 [N, F]."""
        user = take_user(self.snapshots.user(self.time), requests.user)
        categories = self.snapshots.user_category(self.time).take(requests.user)
        pairs = Pairs(candidates.rows, candidates.items, candidates.scores, candidates.ranks)
        return assemble(requests, user, categories, items, pairs)

    def chunks(
        self, requests: Requests, n: int | None, also: Callable[[int, int], Pairing] = lambda first, stop: None
    ) -> Iterator[tuple[int, Requests, Candidates]]:
        """The batch in pieces: (first request, its requests, their candidates).

        `also(first, stop)` gives candidates of a piece beside those that retrieval proposes.
        """
        for a in range(0, len(requests), CHUNK):
            part = requests.take(np.arange(a, min(a + CHUNK, len(requests))))
            yield a, part, self.retriever.candidates(part, n, also(a, a + len(part)))


def training_rows(
    stage: Stage, requests: Requests, wanted: Wanted, negatives: float, n: int | None, seed: int,
    step: Callable[[int], None] = lambda done: None,
) -> tuple[TrainingRows, np.ndarray, np.ndarray, float]:  # fmt: skip
    """Label what retrieval proposes for past requests, and what the log says was on show beside it.

    Every candidate that was wanted or on show is kept, and a share of the others.

    Returns the rows, the kept candidates' source scores and ranks float32 [N, S] for the blend, and the share of
    wanted items that retrieval proposed at all.
    """
    rng = np.random.default_rng(seed)
    items = stage.item_table()
    blocks: list[tuple[np.ndarray, ...]] = []
    proposed = 0
    for first, part, candidates in stage.chunks(requests, n, wanted.shown_to):
        gain = wanted.label(candidates.rows + first, candidates.items)
        own = (candidates.ranks < stage.retriever.depth).any(axis=1)  # not there only because it was on show
        proposed += int(((gain > 0) & own).sum())
        hit = np.isin(candidates.rows, candidates.rows[gain > 0])
        request, item = wanted.shown_to(first, first + len(part))
        shown = np.isin(candidates.rows * ROW + candidates.items, request * ROW + item)
        keep = hit & ((gain > 0) | shown | (rng.random(len(gain)) < negatives))
        kept = candidates.take(keep)
        features = stage.features(part, kept, items)
        sizes = np.unique(kept.rows, return_counts=True)
        blocks.append((features, gain[keep], sizes[1], wanted.weight[sizes[0] + first], kept.scores, kept.ranks))
        step(first + len(part))
    names = [np.concatenate(column) for column in zip(*blocks, strict=True)] if blocks else [np.empty(0)] * 6
    rows = TrainingRows(names[0], names[1], names[2].astype(np.int64), names[3])
    return rows, names[4], names[5], proposed / max(len(wanted.item), 1)


@dataclass(frozen=True)
class Shown:
    """The best items of M requests as the ranker saw them, N rows: `request` int64 [N] ascending, `item` int64 [N],
    `features` float32 [N, F], `score` float32 [N], `source` int64 [N] the source that speaks for it most."""

    request: np.ndarray
    item: np.ndarray
    features: np.ndarray
    score: np.ndarray
    source: np.ndarray


def recommend(
    stage: Stage, booster: xgb.Booster | None, requests: Requests, k: int, n: int | None = None,
    step: Callable[[int], None] = lambda done: None,
) -> np.ndarray:  # fmt: skip
    """Best items of each request, int64 [B, k] padded with -1; without a booster in the order of the blend."""
    return recommend_tilted(stage, booster, requests, k, [None], n, step)[0]


def recommend_tilted(
    stage: Stage, booster: xgb.Booster | None, requests: Requests, k: int, tilts: Sequence[np.ndarray | None],
    n: int | None = None, step: Callable[[int], None] = lambda done: None,
) -> list[np.ndarray]:  # fmt: skip
    """`recommend` once for each of `tilts`, float32 [I] added to the score of every item, None for nothing.

    Candidates are proposed and scored once.
    """
    out = [np.full((len(requests), k), -1, np.int64) for _ in tilts]
    for first, size, candidates, _, score in _scored(stage, booster, requests, n):
        for lists, tilt in zip(out, tilts, strict=True):
            tilted = score if tilt is None else score + tilt[candidates.items]
            lists[first : first + size] = best_of(candidates.rows, candidates.items, tilted, size, k)
        step(first + size)
    return out


def recommend_shown(
    stage: Stage, booster: xgb.Booster, requests: Requests, k: int, keep: np.ndarray, places: int
) -> tuple[np.ndarray, Shown]:
    """`recommend`, and what the ranker saw of the first `places` items of the requests in `keep` bool [B]."""
    out = np.full((len(requests), k), -1, np.int64)
    parts = []
    for first, size, candidates, features, score in _scored(stage, booster, requests, None):
        best = best_of(candidates.rows, candidates.items, score, size, k)
        out[first : first + size] = best
        b, place = np.nonzero((best[:, :places] >= 0) & keep[first : first + size, None])
        at = np.searchsorted(candidates.rows * ROW + candidates.items, b * ROW + best[b, place])
        parts.append((b + first, best[b, place], features[at], np.asarray(score, np.float32)[at], candidates.best[at]))
    return out, Shown(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _scored(
    stage: Stage, booster: xgb.Booster | None, requests: Requests, n: int | None
) -> Iterator[tuple[int, int, Candidates, np.ndarray, np.ndarray]]:
    """(first request, requests, candidates, features, scores) a piece; no features without a booster."""
    items = stage.item_table()
    for first, part, candidates in stage.chunks(requests, n):
        features, score = np.empty((0, 0), np.float32), candidates.blend
        if booster is not None:
            features = stage.features(part, candidates, items)
            score = booster.inplace_predict(features)
        yield first, len(part), candidates, features, score


def source_lists(stage: Stage, requests: Requests, k: int) -> dict[str, np.ndarray]:
    """What each source alone would show: name -> int64 [B, k] padded with -1."""
    out = {name: np.full((len(requests), k), -1, np.int64) for name in stage.retriever.names}
    for a in range(0, len(requests), CHUNK):
        part = requests.take(np.arange(a, min(a + CHUNK, len(requests))))
        for source in stage.retriever.sources:
            out[source.name][a : a + len(part)] = source.retrieve(part, k)[0]
    return out


def best_of(rows: np.ndarray, items: np.ndarray, score: np.ndarray, n_requests: int, k: int) -> np.ndarray:
    """Top k items of each request by score, int64 [n_requests, k] padded with -1; ties to the smaller item."""
    order = np.lexsort((items, -score, rows))
    starts = np.searchsorted(rows[order], np.arange(n_requests))
    place = np.arange(len(order)) - starts[rows[order]]
    keep = place < k
    out = np.full((n_requests, k), -1, np.int64)
    out[rows[order][keep], place[keep]] = items[order][keep]
    return out
