"""Retrieval written for reading: one request, one item and one number at a time, in 64-bit floats.

What serves is compiled and works on marked places; it must find what these few lines find.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from longtail.events import Requests
from longtail.retrieval import Retriever
from longtail.retrieval.base import CandidateSource
from longtail.retrieval.lists import ListSource, RepeatSource
from longtail.retrieval.neighbours import NeighbourSource
from longtail.retrieval.session_knn import SessionNeighbours
from longtail.retrieval.table import Table
from longtail.retrieval.vectors import SpectralSource
from longtail.retrieval.weighting import Weighting
from longtail.schema import DAY_US

Scores = dict[int, float]


def history_weights(asked: Requests, w: Weighting) -> Scores:
    """One request's past items and how much each counts."""
    h = asked.history
    events = list(zip(h.item.tolist(), h.time.tolist(), h.session.tolist(), strict=True))
    out: Scores = defaultdict(float)
    for age, (item, time, session) in enumerate(reversed(events)):
        if age >= w.last or (w.session and session != events[-1][2]) or (w.distinct and item in out):
            continue
        weight = w.decay**age
        if w.half_life_days is not None:
            weight *= 0.5 ** ((int(asked.time[0]) - time) / DAY_US / w.half_life_days)
        out[item] += weight
    return out


def rows_of(table: Table) -> list[Scores]:
    """Links of each row."""
    if table.dense.size:
        return [{int(i): float(row[i]) for i in np.flatnonzero(row)} for row in table.dense]
    bounds = zip(table.indptr[:-1], table.indptr[1:], strict=True)
    return [dict(zip(table.indices[a:b].tolist(), table.data[a:b].tolist(), strict=True)) for a, b in bounds]


def gathered(query: Scores, table: Table) -> Scores:
    """Weighted sum of rows."""
    rows, total = rows_of(table), defaultdict[int, float](float)
    for item, weight in query.items():
        for other, link in rows[item].items():
            total[other] += weight * link
    return total


def best(scores: Scores, k: int) -> list[int]:
    """The k best above zero, ties to the smaller."""
    return sorted((i for i in scores if scores[i] > 0), key=lambda i: (-scores[i], i))[:k]


def scores_of(source: CandidateSource, asked: Requests) -> Scores:
    """What a source says of every item that it knows."""
    if isinstance(source, NeighbourSource):
        return gathered(history_weights(asked, source.weighting), source.table)
    if isinstance(source, SessionNeighbours):
        query = {i: w * float(source.idf[i]) for i, w in history_weights(asked, source.weighting).items()}
        sessions = gathered(query, source.to_sessions)
        near = {s: sessions[s] for s in best(sessions, source.neighbours)}
        return {i: score * float(source.idf[i]) for i, score in gathered(near, source.to_items).items()}
    if isinstance(source, ListSource):
        out = dict(enumerate(source.scores.astype(float).tolist()))
        g, s = int(asked.segment[0]), source.segments
        if 0 <= g < len(s.factors):
            own = range(s.indptr[g], s.indptr[g + 1])
            out = {i: score * float(s.factors[g]) for i, score in out.items()}
            out |= {int(s.items[j]): float(s.scores[j]) for j in own}
        return out
    if isinstance(source, RepeatSource):
        return history_weights(asked, source.weighting)
    assert isinstance(source, SpectralSource)
    vectors = source.vectors.astype(float)
    weights = history_weights(asked, source.weighting)
    query = sum((w * source.inverse_degree[i] * vectors[i] for i, w in weights.items()), np.zeros(vectors.shape[1]))
    return dict(enumerate((vectors @ query).tolist())) if weights else {}


def candidates(retriever: Retriever, asked: Requests) -> dict[int, tuple[list[float], list[int], float]]:
    """item -> (scores by source, ranks by source, blend) of one request, before the cut."""
    said = [scores_of(source, asked) for source in retriever.sources]
    had = set() if retriever.repeats else set(asked.history.item.tolist())
    union: set[int] = set()
    for source, scores in zip(retriever.sources, said, strict=True):
        known = {i: s for i, s in scores.items() if i not in had}
        # A vector source proposes its nearest items, whatever the sign of their score.
        shift = 1 - min(known.values(), default=0) if isinstance(source, SpectralSource) else 0
        union |= set(best({i: s + shift for i, s in known.items()}, retriever.depth))
    items = sorted(union)
    ranks = []
    for scores in said:
        order = sorted(items, key=lambda i: (-scores.get(i, 0.0), i))
        ranks.append({item: place for place, item in enumerate(order)})
    out = {}
    for i in items:
        z = retriever.blend.intercept
        for s, scores in enumerate(said):
            z += retriever.blend.weights[s] / (1 + ranks[s][i] / 10) if scores.get(i, 0.0) > 0 else 0
        out[i] = [s.get(i, 0.0) for s in said], [r[i] for r in ranks], 1 / (1 + np.exp(-z))
    return out
