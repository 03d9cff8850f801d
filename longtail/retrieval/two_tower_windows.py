"""Cut user histories into windows for causal training: every prefix of a window predicts what came next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from longtail.events import Log
from longtail.retrieval.two_tower import GAP_UNKNOWN, TwoTowerConfig, clock, gap_bucket
from longtail.schema import DAY_US

_WIDTHS = (4, 8, 16, 32, 64, 128, 256, 1 << 30)

_HIDDEN_SEGMENTS = 0.1


@dataclass(frozen=True)
class Batch:
    """W windows of up to T events and their P targets.

    `item`, `kind`, `gap` int64 [W, T]; per target: `state` int64 [P] (place in the flattened [W, T + 1] prefix states),
    `target` int64 [P], `weight` float32 [P], and the request's `since`, `segment`, `hour`, `weekday` int64 [P].
    """

    item: np.ndarray
    kind: np.ndarray
    gap: np.ndarray
    state: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    since: np.ndarray
    segment: np.ndarray
    hour: np.ndarray
    weekday: np.ndarray
    rng: np.random.Generator


class Epoch:
    """The batches of one epoch, made one by one."""

    def __init__(self, sequences: Sequences, plan: list[tuple[np.ndarray, np.ndarray]], seed: tuple[int, ...]) -> None:
        self._sequences, self._plan, self._seed = sequences, plan, seed

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        for n, (start, stop) in enumerate(self._plan):
            batch = self._sequences.batch(start, stop, np.random.default_rng((*self._seed, n)))
            if len(batch.target):
                yield batch


class Sequences:
    """The log as sequences. Events of one user at one instant are one basket: they are predicted from what was before.

    The last basket of `validation_users` users is held out: no training target, but what validation asks for. With
    `since` (microseconds) epochs hold only windows that end at or after it, and only what is that new is held out.
    `importance` float32 [N] multiplies the weight of each event as a target.
    """

    def __init__(
        self, log: Log, segment: np.ndarray, config: TwoTowerConfig, seed: int, since: int | None = None,
        importance: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.log, self.config, self.seed, self.since = log, config, seed, since
        self.segment = np.asarray(segment, np.int64) + 1
        bounds = log.indptr()
        n = len(log)
        first = np.ones(n, bool)
        first[1:] = (log.time[1:] != log.time[:-1]) | (log.user[1:] != log.user[:-1])
        basket = np.cumsum(first) - 1
        basket_start = np.append(np.flatnonzero(first), n)
        self.basket_start, self.basket_stop = basket_start[basket], basket_start[basket + 1]
        self.user_start, self.user_stop = bounds[:-1].copy(), bounds[1:].copy()
        rng = np.random.default_rng((seed, 1))
        last = np.maximum(bounds[1:] - 1, 0)
        eligible = np.flatnonzero((np.diff(bounds) > 1) & (self.basket_start[last] > bounds[:-1]))
        if since is not None:  # what a trained tower has learned from tells nothing of how good it is
            eligible = eligible[log.time[last[eligible]] >= since]
        # At most a tenth of the users: a small log needs its targets for training.
        held = rng.permutation(eligible)[: min(config.validation_users, len(eligible) // 10)]
        self.user_stop[held] = self.basket_start[last[held]]
        self.held = np.sort(held)
        self.weight = np.maximum(log.strength, 1e-6) ** config.strength_power
        if importance is not None:
            self.weight = self.weight * importance
        if config.half_life_days > 0:
            age = (log.time.max(initial=0) - log.time) / DAY_US
            self.weight = self.weight * np.exp2(-age / config.half_life_days)
        self.weight = self.weight.astype(np.float32)
        self.validation = list(self._validation())

    def epoch(self, number: int) -> Epoch:
        """Windows cut at a random offset, so that every event is seen at every depth over the epochs."""
        seed = (self.seed, 2, number)
        rng = np.random.default_rng(seed)
        last = self.config.last
        length = self.user_stop - self.user_start
        users = np.flatnonzero(length > 0)
        length, start = length[users], self.user_start[users]
        shift = np.where(length > last, rng.integers(0, last, len(users)), 0)
        pieces = -(-(length + shift) // last)
        which = np.repeat(np.arange(len(users)), pieces)
        piece = np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        begin = np.maximum(piece * last - shift[which], 0) + start[which]
        stop = np.minimum((piece + 1) * last - shift[which], length[which]) + start[which]
        if self.since is not None and len(begin):
            new = self.log.time[stop - 1] >= self.since
            begin, stop = begin[new], stop[new]
        order = rng.permutation(len(begin))
        order = order[: np.searchsorted(np.cumsum(stop[order] - begin[order]), self.config.epoch_targets) + 1]
        return Epoch(self, self._plan(begin[order], stop[order], rng), seed)

    def _plan(
        self, begin: np.ndarray, stop: np.ndarray, rng: np.random.Generator
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Batches of windows of like length, about `batch_targets` events each, in random order."""
        plan, width, low = [], stop - begin, 0
        for high in _WIDTHS:
            rows = np.flatnonzero((width > low) & (width <= high))
            size = max(1, self.config.batch_targets // min(high, self.config.last))
            plan += [(begin[rows[i : i + size]], stop[rows[i : i + size]]) for i in range(0, len(rows), size)]
            low = high
        return [plan[i] for i in rng.permutation(len(plan))]

    def batch(self, start: np.ndarray, stop: np.ndarray, rng: np.random.Generator) -> Batch:
        """Windows of log rows start[w]:stop[w]; the target of a prefix is drawn from the basket that came next."""
        log = self.log
        flat, row, column = _cells(start, stop - start)
        end = self.user_stop[log.user[start]]
        following = self.basket_stop[flat]
        has = following < end[row]
        opening = np.flatnonzero(start == self.user_start[log.user[start]])
        before = np.concatenate([flat[has], np.full(len(opening), -1)])
        basket = np.concatenate([following[has], start[opening]])
        limit = np.minimum(self.basket_stop[basket], np.concatenate([end[row[has]], end[opening]]))
        target = basket + (rng.random(len(basket)) * (limit - basket)).astype(np.int64)
        width = int((stop - start).max(initial=1))
        state = np.concatenate([row[has] * (width + 1) + column[has] + 1, opening * (width + 1)])
        batch = self._assemble(start, flat, row, column, width, state, before, target, rng)
        # A stranger has no segment: the tower must have met that too.
        hidden = rng.random(len(target)) < _HIDDEN_SEGMENTS
        return replace(batch, segment=np.where(hidden, 0, batch.segment))

    def _validation(self) -> Iterator[Batch]:
        rng = np.random.default_rng((self.seed, 3))
        for i in range(0, len(self.held), 500):
            users = self.held[i : i + 500]
            stop = self.user_stop[users]
            start = np.maximum(self.user_start[users], stop - self.config.last)
            flat, row, column = _cells(start, stop - start)
            width = int((stop - start).max(initial=1))
            size = self.basket_stop[stop] - stop
            target = stop + (rng.random(len(stop)) * size).astype(np.int64)
            state = np.arange(len(users)) * (width + 1) + (stop - start)
            yield self._assemble(start, flat, row, column, width, state, stop - 1, target, rng)

    def _assemble(
        self, start: np.ndarray, flat: np.ndarray, row: np.ndarray, column: np.ndarray, width: int,
        state: np.ndarray, before: np.ndarray, target: np.ndarray, rng: np.random.Generator,
    ) -> Batch:  # fmt: skip
        log = self.log
        item, kind = np.zeros((len(start), width), np.int64), np.zeros((len(start), width), np.int64)
        gap = np.full((len(start), width), GAP_UNKNOWN, np.int64)
        item[row, column], kind[row, column] = log.item[flat], log.kind[flat]
        later = column > 0
        gap[row[later], column[later]] = gap_bucket(log.time[flat[later]] - log.time[flat[later] - 1])
        since = np.where(before < 0, GAP_UNKNOWN, gap_bucket(log.time[target] - log.time[np.maximum(before, 0)]))
        return Batch(
            item, kind, gap, state, log.item[target].astype(np.int64), self.weight[target], since,
            self.segment[log.user[target]], *clock(log.time[target]), rng,
        )  # fmt: skip


def _cells(start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(log row, window, place in the window) of every event of the windows."""
    row = np.repeat(np.arange(len(start)), length)
    column = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    return start[row] + column, row, column
