"""Training groups: requests of past windows, and what the people behind them wanted next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from longtail.events import Log, Requests
from longtail.events.log import ROW, histories_before

Unit = Literal["window", "session", "event"]


@dataclass(frozen=True)
class Wanted:
    """What each request led to, ragged.

    `indptr` int64 [B + 1], `item` int64 ascending within a request, `gain` float32 above zero. `weight` float32 [B]:
    the inverse examination propensity of the events behind the request, on average. `shown` (request int64 [M]
    ascending, item int64 [M]): what the log says was on show, each pair once; None where it says nothing.
    """

    indptr: np.ndarray
    item: np.ndarray
    gain: np.ndarray
    weight: np.ndarray
    shown: tuple[np.ndarray, np.ndarray] | None = None

    def shown_to(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """What was on show at the requests [first, stop): (request int64 [m] counted from `first`, item int64 [m])."""
        if self.shown is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        rows, items = self.shown
        a, b = np.searchsorted(rows, [first, stop])
        return rows[a:b] - first, items[a:b]

    def label(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Gain float32 [N] of the pairs, 0 where not wanted."""
        owner = np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))
        key = owner * ROW + self.item
        if not len(key):
            return np.zeros(len(rows), np.float32)
        asked = np.asarray(rows, np.int64) * ROW + items
        place = np.minimum(np.searchsorted(key, asked), len(key) - 1)
        return np.where(key[place] == asked, self.gain[place], 0).astype(np.float32)


def requests_of_window(
    positives: Log, gain: np.ndarray, weight: np.ndarray, segment: np.ndarray, start: int, stop: int, unit: Unit,
    repeats: bool, limit: int, seed: int, last: int = 1000, known_only: bool = True, impressions: Log | None = None,
) -> tuple[Requests, Wanted]:  # fmt: skip
    """Requests made in [start, stop) microseconds and what followed each.

    `unit` says when a request happens: once per person at `start` (wanted: all of the window), at the start of each
    session (wanted: all of it), or before each event (wanted: that event's item). `repeats=False` drops items that
    the person had before from what is wanted. At most `limit` requests, drawn by `seed`. `known_only` leaves out
    people without a history. `impressions` adds what was on show: in the window, in the session, or in the list that
    the event came from.
    """
    inside = np.flatnonzero((positives.time >= start) & (positives.time < stop) & (gain > 0))
    user, time = positives.user[inside], positives.time[inside]
    if unit == "window":
        group = user.astype(np.int64)
    elif unit == "session":
        group = positives.session[inside].astype(np.int64)
    else:
        group = np.arange(len(inside))
    _, first, group = np.unique(group, return_index=True, return_inverse=True)
    asked = np.full(len(first), start, np.int64) if unit == "window" else time[first]
    history = histories_before(positives, user[first], asked, last=last)
    requests = Requests(asked, user[first].astype(np.int32), segment[user[first]].astype(np.int32), history)

    item = positives.item[inside].astype(np.int64)
    key, where = np.unique(group * ROW + item, return_inverse=True)
    best = np.zeros(len(key), np.float32)
    np.maximum.at(best, where, gain[inside])
    heaviest = np.zeros(len(key), np.float32)
    np.maximum.at(heaviest, where, weight[inside])
    if not repeats:
        fresh = ~np.isin(key, history.rows * ROW + history.item)
        key, best, heaviest = key[fresh], best[fresh], heaviest[fresh]
    owner = key // ROW
    usable = np.bincount(owner, minlength=len(first)) > 0
    if known_only:
        usable &= history.lengths > 0
    chosen = np.flatnonzero(usable)
    if len(chosen) > limit:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, limit, replace=False))
    kept = np.isin(owner, chosen)
    owner = np.searchsorted(chosen, owner[kept])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(chosen)))]).astype(np.int64)
    mean = np.bincount(owner, heaviest[kept], len(chosen)) / np.maximum(np.diff(indptr), 1)
    shown = None
    if impressions is not None:
        link = {"window": "user", "session": "session", "event": "request"}[unit]
        codes = getattr(positives, link)[inside[first[chosen]]]
        shown = _on_show(impressions.select((impressions.time >= start) & (impressions.time < stop)), link, codes)
    wanted = Wanted(indptr, key[kept] % ROW, best[kept], mean.astype(np.float32), shown)
    return requests.take(chosen), wanted


def _on_show(impressions: Log, link: str, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(request int64 [M], item int64 [M]) of the impressions whose `link` column has the request's code, int [B]."""
    column = getattr(impressions, link)
    order = np.argsort(column, kind="stable")
    start, stop = (np.searchsorted(column[order], codes, side) for side in ("left", "right"))
    size = np.where(codes >= 0, stop - start, 0)
    rows = np.repeat(np.arange(len(codes)), size)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(size) - size, size)
    key = np.unique(rows * ROW + impressions.item[order[start[rows] + within]])
    return key // ROW, key % ROW
