"""A simulated shop whose logging policy and target policy are both known exactly, and the target's true value in it.

Both policies draw lists of three one after the other in proportion to a softmax (Plackett and Luce), from what is on
sale, by tastes of groups of people; the target knows finer groups and is surer of itself. Their chances depend on the
`cell` alone: day, region and both groups.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from longtail.datasets.simulated_policy import PolicyContext, plackett_luce
from longtail.datasets.simulated_world import Truth, build_world
from longtail.datasets.simulator import SimulatorConfig, simulate

PLACES = 3


@dataclass(frozen=True)
class Cells:
    """What both policies do in each of C cells of I items.

    `chance` float64 [C, I] of the first place; `marginal` float64 [C, I, K] chance of an item at each place.
    """

    chance: np.ndarray
    marginal: np.ndarray

    @staticmethod
    def of(chance: np.ndarray) -> Cells:
        """From the chances of the first place alone, exactly."""
        first = np.zeros((*chance.shape, PLACES))
        for c, p in enumerate(chance):
            on = np.flatnonzero(p > 0)
            p = p[on]
            left = np.maximum(1 - p, 1e-300)
            pairs = p[:, None] * p / left[:, None]  # [a, b]: a first, b second
            np.fill_diagonal(pairs, 0)
            rest = np.maximum(1 - p[:, None] - p, 1e-300)
            share = pairs / rest
            third = p * (share.sum() - share.sum(1) - share.sum(0))
            first[c, on] = np.stack([p, pairs.sum(0), third], axis=1)
        return Cells(chance, first)

    def given(self, cell: np.ndarray, items: np.ndarray) -> np.ndarray:
        """float64 [N, K]: the chance of each item of lists [N, K] given those above it."""
        p = np.take_along_axis(self.chance[cell], items, 1)
        return p / (1 - (np.cumsum(p, axis=1) - p))


@dataclass(frozen=True)
class Lists:
    """N logged lists: `user` int [N], `cell` int [N], `items` int [N, K], `logged` and `reward` float64 [N, K]."""

    user: np.ndarray
    cell: np.ndarray
    items: np.ndarray
    logged: np.ndarray
    reward: np.ndarray


@dataclass(frozen=True)
class World:
    """A shop: its log, what both policies do in its cells, what is known of items, and the truth.

    `taste` float64 [C, I, 2]: the two policies' own scores, all that a reward model may know; `examination` float [K];
    `expected` float64 [N]: clicks that the target's list would truly have got in the place of the logged one, in the
    mean.
    """

    lists: Lists
    logging: Cells
    target: Cells
    taste: np.ndarray
    examination: np.ndarray
    expected: np.ndarray


class _Groups:
    """A policy of the shop: softmax over the tastes of groups of people, `sure` times as steep."""

    def __init__(self, truth: Truth, groups: int, sure: float, seed: int) -> None:
        rng = np.random.default_rng([seed, groups])
        vectors = truth.user_vector
        centre = vectors[rng.integers(0, len(vectors), groups)]
        noisy = vectors + rng.normal(0, 0.7, vectors.shape)
        self.group = np.argmax(noisy @ centre.T - (centre**2).sum(1) / 2, axis=1)
        affinity = centre @ truth.item_vector.T + truth.quality
        self.score = sure * (affinity - affinity.mean()) / affinity.std()
        self.groups = groups

    def chance(self, group: np.ndarray, eligible: np.ndarray) -> np.ndarray:
        """float64 [R, I] of the first place."""
        odds = np.where(eligible, np.exp(self.score[group].astype(np.float64)), 0.0)
        return odds / odds.sum(1, keepdims=True)


class _Recorded:
    """The logging policy, remembering who asked, in which cell, and what was on sale."""

    def __init__(self, old: _Groups, new: _Groups, regions: int) -> None:
        self.old, self.new, self.regions = old, new, regions
        self.asked: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self.days: list[int] = []
        self.eligible: list[np.ndarray] = []

    def cell_of(self, users: np.ndarray, region: np.ndarray) -> np.ndarray:
        within = (region * self.old.groups + self.old.group[users]) * self.new.groups + self.new.group[users]
        return len(self.eligible) * self.regions * self.old.groups * self.new.groups + within

    def __call__(self, day: int, users: np.ndarray, context: PolicyContext) -> tuple[np.ndarray, np.ndarray]:
        cell = self.cell_of(users, context.region)
        self.eligible.append(context.eligible.copy())
        items, chance = np.zeros((len(users), context.k), np.int64), np.zeros((len(users), context.k))
        keys = context.region * self.old.groups + self.old.group[users]
        for key in np.unique(keys):
            rows = np.flatnonzero(keys == key)
            region, group = divmod(int(key), self.old.groups)
            p = self.old.chance(np.array([group]), context.eligible[region])[0]
            items[rows], chance[rows] = plackett_luce(p, len(rows), context.k, context.rng)
        self.asked.append((users, cell, items, chance))
        self.days.append(day)
        return items, chance


def world(seed: int, users: int, events: int, items: int = 30, days: int = 3) -> World:
    """Simulate a shop of about `events` events and work out the target's true value for every request in its log."""
    plain = SimulatorConfig(users, items, days, events, seed, list_size=PLACES)
    truth, _ = build_world(users, items, days, plain.start_us, len(plain.regions), PLACES, None, seed)
    old, new = _Groups(truth, 6, 0.7, seed), _Groups(truth, 14, 1.1, seed)
    policy = _Recorded(old, new, len(plain.regions))
    with tempfile.TemporaryDirectory() as folder:
        simulate(Path(folder), SimulatorConfig(users, items, days, events, seed, list_size=PLACES, policy=policy))
        log = pd.read_parquet(
            Path(folder) / "events.parquet", columns=["event_type", "request_id", "position"],
            filters=[("event_type", "==", "click")],
        )  # fmt: skip
    user, cell, shown, chance = (np.concatenate(column) for column in zip(*policy.asked, strict=True))
    if (shown < 0).any():
        raise ValueError("fewer items on sale than places: simulate more items")
    reward = np.zeros(shown.shape)
    reward[log["request_id"].str[1:].astype(np.int64), log["position"].astype(np.int64)] = 1.0
    day = np.repeat(policy.days, [len(part[0]) for part in policy.asked])
    eligible = np.concatenate(policy.eligible)  # [days x regions, I]
    code = np.arange(len(eligible) * old.groups * new.groups)
    market, groups = np.divmod(code, old.groups * new.groups)
    first, second = np.divmod(groups, new.groups)
    logging = Cells.of(old.chance(first, eligible[market]))
    target = Cells.of(new.chance(second, eligible[market]))
    taste = np.stack([old.score[first], new.score[second]], axis=2)
    examination = truth.examination[:PLACES].astype(np.float64)
    attraction = _attraction(truth, user, day)
    expected = np.einsum("nik,k,ni->n", target.marginal[cell], examination, attraction)
    return World(Lists(user, cell, shown, chance, reward), logging, target, taste, examination, expected)


def _attraction(truth: Truth, user: np.ndarray, day: np.ndarray) -> np.ndarray:
    """float64 [N, I]: the chance that a look at the item becomes a click, over what the session may be about."""
    tops = np.arange(len(truth.season_phase))
    member = (truth.top == tops[:, None]).astype(np.float32)
    centre = member @ truth.item_vector / np.maximum(member.sum(1, keepdims=True), 1)
    odds = truth.user_vector @ centre.T
    odds = np.exp(odds - odds.max(1, keepdims=True))
    wanted = (odds / odds.sum(1, keepdims=True))[user][:, truth.top]
    everything = np.arange(len(truth.item_ids))
    want = np.concatenate(
        [truth.utility(user[day == d][:, None], everything[None], float(d)) for d in np.unique(day)]
    ).astype(np.float64)
    return wanted * _click(want + 0.8) + (1 - wanted) * _click(want)


def _click(want: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-1.5 * (want - 2.7)))
