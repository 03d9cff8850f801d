"""Which sources a shop gets, fitted on what was known at one moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from longtail.events import Log
from longtail.retrieval import neighbours as nb
from longtail.retrieval.base import CandidateSource
from longtail.retrieval.lists import RepeatSource, popular, popular_in_segment, trending
from longtail.retrieval.neighbours import NeighbourSource
from longtail.retrieval.session_knn import session_neighbours
from longtail.retrieval.table import Table
from longtail.retrieval.vectors import spectral
from longtail.retrieval.weighting import Weighting


@dataclass(frozen=True)
class SourcesConfig:
    """Sizes of the fitted sources."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    neighbours: int = 300  # entries kept per row of a neighbour table
    ease_ridge: float = 250.0
    ease_items: int = 13_000  # EASE is cubic in the items: beyond this the spectral source takes its place
    spectral_rank: int = 512
    without: tuple[str, ...] = ()  # sources left out by name, for ablations
    seed: int = 0


STEPS = Weighting(last=60, decay=0.93, distinct=True)
SHORT = Weighting(last=15, decay=0.8, distinct=True)
MONTHS = Weighting(half_life_days=60)
SESSION = Weighting(last=40, decay=0.97, distinct=True, session=True)


def fit_sources(
    log: Log, content: sp.csr_matrix, segment: np.ndarray, n_segments: int, now: int, config: SourcesConfig
) -> list[CandidateSource]:
    """All sources that fit the data, trained on the positives of `log`, which must end before `now`.

    `content` csr float32 [I, V] from `content_matrix`; `segment` int32 [n_users]. The same arguments give the same
    sources in the same order.
    """
    makers = _collaborative(log, now, config), _sequential(log, config), _lists(log, segment, n_segments, now)
    content_table = nb.content_neighbours(content, min(config.neighbours, 100))
    sources: list[CandidateSource] = [source for maker in makers for source in maker]
    if content_table.nnz:
        sources.append(NeighbourSource("content", "similar to what you looked at", Table.of(content_table), STEPS))
    return [s for s in sources if s.name not in config.without]


def _collaborative(log: Log, now: int, config: SourcesConfig) -> Iterator[CandidateSource]:
    x = nb.user_item(log)
    x = x[np.diff(x.indptr) > 1]
    distinct = Weighting(last=1000, distinct=True)
    # By the catalogue, not by what was seen so far: all windows of a shop must have the same sources.
    if log.n_items <= config.ease_items:
        weights = Table.of(nb.ease(x, config.ease_ridge, config.neighbours * 10))
        yield NeighbourSource("ease", "people with your taste chose it", weights, distinct)
        yield NeighbourSource("ease_recent", "people with your taste chose it", weights, MONTHS)
        yield NeighbourSource("ease_steps", "goes with what you chose lately", weights, STEPS)
    else:
        yield spectral(x, config.spectral_rank, distinct, "spectral", "people with your taste chose it", config.seed)
        table = Table.of(nb.graph_filter(x, config.neighbours))
        yield NeighbourSource("graph", "people with your taste chose it", table, distinct)
    table = Table.of(nb.cosine(x, config.neighbours, shrink=20.0))
    yield NeighbourSource("item_knn", "chosen by the same people as your items", table, STEPS)
    table = Table.of(nb.cosine(nb.session_item(log), config.neighbours, shrink=10.0))
    yield NeighbourSource("copurchase", "often bought together with your last items", table, SESSION)
    yield NeighbourSource("copurchase_months", "often bought together with your items", table, MONTHS)


def _sequential(log: Log, config: SourcesConfig) -> Iterator[CandidateSource]:
    reason = "what people looked at next"
    k = config.neighbours
    yield NeighbourSource("next_1", reason, Table.of(nb.rules(log, 1, 1.0, k)), Weighting(last=1))
    near = Table.of(nb.rules(log, 5, 0.6, k))
    yield NeighbourSource("next_5", reason, near, Weighting(last=5, decay=0.6))
    yield NeighbourSource("next_5_long", reason, near, Weighting(last=10, decay=0.8))
    yield NeighbourSource("next_20", reason, Table.of(nb.rules(log, 20, 0.9, k)), Weighting(last=20, decay=0.9))
    back = Table.of(nb.rules(log, 5, 0.6, k, backward=True))
    yield NeighbourSource("before_5", "looked at before your items", back, Weighting(last=5, decay=0.6))
    session = Weighting(last=20, decay=0.8)
    yield session_neighbours(log, "sessions", "people who went the same way chose it", session)


def _lists(log: Log, segment: np.ndarray, n_segments: int, now: int) -> Iterator[CandidateSource]:
    for name, half_life in (("popular_3d", 3.0), ("popular_7d", 7.0), ("popular_30d", 30.0), ("popular", None)):
        yield popular(log, now, half_life, name, "popular right now" if half_life else "a favourite of many")
    yield trending(log, now, "trending", "rising this week")
    if n_segments > 1:
        yield popular_in_segment(log, segment, n_segments, now, "popular_segment", "popular where you are")
    yield RepeatSource("repeats", "you chose it before", log.n_items, MONTHS)
