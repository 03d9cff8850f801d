"""Sources that add up rows of tables: all of a retriever's in three compiled calls.

A source of its own would pay for a dozen small arrays and as many calls, which cost more than what is in them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from longtail.compiled import compiled, float32_at, frozen, int32_at, int64_at
from longtail.events import Requests
from longtail.retrieval.base import Answer, CandidateSource
from longtail.retrieval.best import finish, push
from longtail.retrieval.table import Table
from longtail.retrieval.weighting import Weighting, Weightings, slots


@dataclass(frozen=True)
class Way:
    """From a history to scored items: the weighted history itself, its rows in a table, or a second hop from there.

    With two tables the best `nearest` columns of the first are the rows of the second, and `factors` float32 [I]
    multiply the weights of the history and the scores.
    """

    weighting: Weighting
    n_items: int
    tables: tuple[Table, ...] = ()
    factors: np.ndarray | None = None
    nearest: int = 0

    def row(self, weighting: int) -> list[int]:
        """The numbers that the loops read, see `_HOPS` and what follows it."""
        first, second = (_address(t) for t in (*self.tables, _NONE, _NONE)[:2])
        longest = int(np.diff(self.tables[1].indptr).max(initial=0)) if len(self.tables) == 2 else 0
        factors = 0 if self.factors is None else self.factors.ctypes.data
        return [len(self.tables), weighting, self.n_items, factors, self.nearest, longest, *first, *second]


class TableSource(CandidateSource):
    """A source whose scores are gathered along a `Way`."""

    @property
    @abstractmethod
    def way(self) -> Way:
        """How its scores come about."""

    def answer(self, requests: Requests) -> Answer:
        """See `CandidateSource.answer`."""
        return _Alone(self._alone.answer(requests), len(requests))

    @cached_property
    def _alone(self) -> Gathering:
        return Gathering([self.way], np.zeros(1, np.int64))


class Gathering:
    """Ways that are gone together: the `Group` of table sources. Way s has the column `columns[s]` int64 [S]."""

    def __init__(self, ways: Sequence[Way], columns: np.ndarray) -> None:
        self._ways = list(ways)  # the arrays behind the addresses live as long as this does
        self.columns = frozen(columns, np.int64)
        distinct = list(dict.fromkeys(way.weighting for way in ways))
        self._weightings = Weightings(distinct)
        rows = [way.row(distinct.index(way.weighting)) for way in ways]
        self._plan = frozen(np.array(rows, np.int64).reshape(len(rows), _WIDTH), np.int64)
        tables = [table for way in ways for table in way.tables]
        self._width = max([way.n_items for way in ways] + [table.shape[1] for table in tables], default=0)

    def __reduce__(self) -> tuple:
        return Gathering, (self._ways, self.columns)  # addresses are this process's

    def answer(self, requests: Requests) -> Gathered:
        """What each of the S ways says of each of B requests."""
        slot = slots(self._width)
        indptr, items, weights = self._weightings.of(requests, slot)
        bounds = np.empty((len(self._plan), len(requests) + 1), np.int64)
        most = _most(self._plan, indptr, items)
        listed, scores = np.empty(most, np.int32), np.empty(most, np.float32)
        _gather(self._plan, indptr, items, weights, slot, bounds, listed, scores)
        return Gathered(self.columns, self._width, bounds, listed, scores)


class Gathered:
    """The items that each of S ways knows for each of B requests, in any order.

    Those of way s and request b are `bounds[s, b]:bounds[s, b + 1]` of `items` int32 and `scores` float32.
    """

    def __init__(
        self, columns: np.ndarray, width: int, bounds: np.ndarray, items: np.ndarray, scores: np.ndarray
    ) -> None:
        self._columns, self._width, self._bounds, self._items, self._scores = columns, width, bounds, items, scores

    def top(self, out: np.ndarray) -> np.ndarray:
        """See `GroupAnswer.top`; the scores float32 [S, B, k] come back."""
        scores = np.empty((len(self._bounds), *out.shape[1:]), np.float32)
        _top(self._bounds, self._items, self._scores, self._columns, out, scores)
        return scores

    def at(self, rows: np.ndarray, items: np.ndarray, out: np.ndarray) -> None:
        """See `GroupAnswer.at`."""
        rows, items = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(items, np.int64)
        _find(self._bounds, self._items, self._scores, rows, items, slots(self._width), self._columns, out)


class _Alone(Answer):
    """The answer of one way."""

    def __init__(self, gathered: Gathered, n: int) -> None:
        self._gathered, self._n = gathered, n

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        ids = np.empty((1, self._n, k), np.int64)
        return ids[0], self._gathered.top(ids)[0]

    def at(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        out = np.empty((1, len(rows)), np.float32)
        self._gathered.at(rows, items, out)
        return out[0]


# The columns of a plan: how many tables, which weighting, the number of items, the address of the factors, how many
# columns of the first table are rows of the second, the longest row of that; then the first and the second table.
_HOPS, _WEIGHTING, _ITEMS, _FACTORS, _NEAREST, _LONGEST, _FIRST, _SECOND = 0, 1, 2, 3, 4, 5, 6, 12
# Those of a table: rows, columns, and the addresses of its arrays, of which `dense` may be 0.
_ROWS, _COLUMNS, _INDPTR, _INDICES, _DATA, _DENSE, _WIDTH = 0, 1, 2, 3, 4, 5, 18
_NONE = Table((0, 0), np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), np.empty((0, 0)))


def _address(table: Table) -> list[int]:
    parts = [part.ctypes.data for part in (table.indptr, table.indices, table.data)]
    return [*table.shape, *parts, table.dense.ctypes.data if table.dense.size else 0]


# Below, indices are made unsigned: for signed ones Numba adds a test for negative positions to every access.


@compiled
def _links(table: np.ndarray, rows: np.ndarray) -> int:
    """How many different columns the rows can lead to."""
    if table[_DENSE]:
        return table[_COLUMNS]
    indptr = int64_at(table[_INDPTR], table[_ROWS] + 1)
    total = 0
    for row in rows:
        total += indptr[row + 1] - indptr[row]
    return min(total, table[_COLUMNS])


@compiled
def _most(plan: np.ndarray, query_indptr: np.ndarray, query_items: np.ndarray) -> int:
    """How many places the lists of all ways and requests can need."""
    total = 0
    for s in range(len(plan)):
        way, w = plan[s], plan[s, _WEIGHTING]
        for b in range(query_indptr.shape[1] - 1):
            rows = query_items[w, query_indptr[w, b] : query_indptr[w, b + 1]]
            if way[_HOPS] == 0:
                total += len(rows)
            elif way[_HOPS] == 1:
                total += _links(way[_FIRST:_SECOND], rows)
            else:
                widest = way[_ITEMS] if way[_SECOND + _DENSE] else way[_NEAREST] * way[_LONGEST]
                total += min(widest, way[_ITEMS])
    return total


@compiled
def _gather(
    plan: np.ndarray, query_indptr: np.ndarray, query_items: np.ndarray, query_weights: np.ndarray, slot: np.ndarray,
    bounds: np.ndarray, items: np.ndarray, scores: np.ndarray,
) -> None:  # fmt: skip
    n = 0
    for s in range(len(plan)):
        way, w = plan[s], plan[s, _WEIGHTING]
        for b in range(query_indptr.shape[1] - 1):
            bounds[s, b] = first = n
            rows = query_items[w, query_indptr[w, b] : query_indptr[w, b + 1]]
            weights = query_weights[w, query_indptr[w, b] : query_indptr[w, b + 1]]
            if way[_HOPS] == 0:
                for j in range(len(rows)):
                    items[n], scores[n] = rows[j], weights[j]
                    n += 1
            elif way[_HOPS] == 1:
                n = _add_rows(way[_FIRST:_SECOND], rows, weights, slot, items, scores, n)
            else:
                factors = float32_at(way[_FACTORS], way[_ITEMS])
                n = _two_hops(way, rows, weights, factors, slot, items, scores, n)
                for p in range(first, n):
                    scores[p] *= factors[np.uint32(items[p])]
        bounds[s, query_indptr.shape[1] - 1] = n


@compiled
def _two_hops(
    way: np.ndarray, rows: np.ndarray, weights: np.ndarray, factors: np.ndarray, slot: np.ndarray,
    items: np.ndarray, scores: np.ndarray, n: int,
) -> int:  # fmt: skip
    table, k = way[_FIRST:_SECOND], way[_NEAREST]
    scaled = np.empty(len(rows), np.float32)
    for j in range(len(rows)):
        scaled[j] = weights[j] * factors[np.uint32(rows[j])]
    most = _links(table, rows)
    listed, alike = np.empty(most, np.int32), np.empty(most, np.float32)
    found = _add_rows(table, rows, scaled, slot, listed, alike, 0)
    best, heap = np.empty(k, np.int64), np.empty(k, np.float32)
    kept = _best(listed[:found], alike[:found], best, heap)
    return _add_rows(way[_SECOND:], best[:kept].astype(np.int32), heap[:kept], slot, items, scores, n)


@compiled
def _add_rows(
    table: np.ndarray, rows: np.ndarray, weights: np.ndarray, slot: np.ndarray, items: np.ndarray, scores: np.ndarray,
    n: int,
) -> np.int64:  # fmt: skip
    """List the sum of rows, each times its weight, in the order given, from place n on; the place behind the last."""
    columns = table[_COLUMNS]
    if table[_DENSE]:
        total = np.zeros(columns, np.float32)
        for j in range(len(rows)):
            weight = weights[j]
            row = float32_at(table[_DENSE] + np.int64(rows[j]) * columns * 4, columns)
            for column in range(columns):
                total[column] += weight * row[column]
        for column in range(columns):
            if total[column] != 0:
                items[n], scores[n] = column, total[column]
                n += 1
        return np.int64(n)
    indptr = int64_at(table[_INDPTR], table[_ROWS] + 1)
    links = indptr[table[_ROWS]]
    indices, data = int32_at(table[_INDICES], links), float32_at(table[_DATA], links)
    first = at = np.uint64(n)
    for j in range(len(rows)):
        weight, link = weights[j], np.uint32(rows[j])
        for p in range(np.uint64(indptr[link]), np.uint64(indptr[link + np.uint32(1)])):
            i = np.uint32(indices[p])
            place = np.uint32(slot[i])
            if place == 0:
                items[at], scores[at] = i, weight * data[p]
                at += np.uint64(1)
                slot[i] = at - first
            else:
                scores[first + place - np.uint64(1)] += weight * data[p]
    for p in range(first, at):
        slot[np.uint32(items[p])] = 0
    return np.int64(at)


@compiled
def _best(items: np.ndarray, scores: np.ndarray, best: np.ndarray, heap: np.ndarray) -> int:
    """The best of a list above zero, see `finish`; how many there are."""
    k, n, floor = len(best), 0, np.float32(0)
    for p in range(np.uint64(len(items))):
        if scores[p] >= floor and scores[p] > 0:
            n = push(heap, best, n, scores[p], items[p])
            if n == k:
                floor = heap[0] if k else np.float32(np.inf)
    finish(heap, best, n)
    return n


@compiled
def _top(
    bounds: np.ndarray, items: np.ndarray, scores: np.ndarray, columns: np.ndarray, ids: np.ndarray, out: np.ndarray
) -> None:
    for s in range(len(bounds)):
        for b in range(bounds.shape[1] - 1):
            start, stop = bounds[s, b], bounds[s, b + 1]
            _best(items[start:stop], scores[start:stop], ids[columns[s], b], out[s, b])


@compiled
def _find(
    bounds: np.ndarray, listed: np.ndarray, scores: np.ndarray, rows: np.ndarray, items: np.ndarray, slot: np.ndarray,
    columns: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    start = 0
    while start < len(rows):
        b, stop, twice = rows[start], start, False
        # Marks at the few wanted items, then one pass over each list: nothing is sorted, nothing is searched.
        while stop < len(rows) and rows[stop] == b:
            twice |= slot[np.uint32(items[stop])] != 0
            slot[np.uint32(items[stop])] = stop - start + 1
            stop += 1
        for s in range(len(bounds)):
            mine = out[columns[s], start:stop]
            mine[:] = 0
            for p in range(np.uint64(bounds[s, b]), np.uint64(bounds[s, b + 1])):
                place = np.uint32(slot[np.uint32(listed[p])])
                if place > 0:
                    mine[place - np.uint32(1)] = scores[p]
            if twice:
                for j in range(stop - start):
                    mine[j] = mine[slot[np.uint32(items[start + j])] - 1]
        for j in range(start, stop):
            slot[np.uint32(items[j])] = 0
        start = stop
