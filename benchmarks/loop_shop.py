"""A simulated shop lived day by day, its growing log, and what each day was truly worth."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np

from longtail.datasets.simulated_log import DayLog
from longtail.datasets.simulated_world import Truth, build_world
from longtail.datasets.simulator import (
    BOUGHT,
    EXTRA,
    Policy,
    Shown,
    SimulatedShop,
    SimulatorConfig,
    attraction,
    cart_chance,
    return_chance,
)
from longtail.evaluation.metrics import gini
from longtail.events import Catalogue, Log, Shop
from longtail.schema import DAY_US, EVENT_STRENGTH, EVENT_TYPES

STRENGTH = np.array([EVENT_STRENGTH[kind] for kind in EVENT_TYPES], np.float32)
NEW_DAYS = 21  # an item is new for so many days


class World:
    """The shop and everything it has logged. People who are not signed in get a code of their own for each session."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.truth, items = build_world(
            config.users, config.items, config.days, config.start_us, len(config.regions), config.list_size,
            config.drift, config.seed,
        )  # fmt: skip
        items["regions"] = items["regions"].map(
            lambda codes: None if codes is None else [config.regions[c] for c in codes]
        )
        self.catalogue = Catalogue.from_frame(items)
        self.shop = SimulatedShop(config, self.truth)
        self.day = 0
        self.guests = int(2 * config.events / self.shop.per_session)  # no day brings so many more sessions than planned
        self.log = _nothing(config.users + self.guests, config.items)

    def under(self, policy: Policy) -> World:
        """The same world from here on, with other lists."""
        other = copy.copy(self)
        other.shop = copy.deepcopy(self.shop)
        other.shop.policy = policy
        return other

    @property
    def now(self) -> int:
        """Midnight before the next day, microseconds."""
        return self.config.start_us + self.day * DAY_US

    def live(self) -> Shown:
        """Live the next day and log it; returns its lists."""
        log = self.shop.live(self.day)
        self.day += 1
        if log.pieces:
            self.log = self._with(log)
        assert self.shop.shown is not None
        return self.shop.shown

    def seen(self) -> Shop:
        """The shop as its owner sees it: the log so far, and what is on sale."""
        created, retired = self.truth.created_day, self.truth.retired_day
        frame = self.catalogue.frame.copy()
        frame["in_stock"] = self.shop.in_stock & (created <= self.day) & (retired > self.day)
        n, regions = self.config.users, len(self.config.regions)
        segment = np.concatenate([self.truth.region, np.full(self.guests, -1)]).astype(np.int32)
        of_guests = self.log.user >= n
        segment[self.log.user[of_guests]] = self.region[of_guests]
        ids = np.arange(n + self.guests).astype(str).astype(object)
        names = np.array(self.config.regions[:regions], object)
        return Shop(self.log, replace(self.catalogue, frame=frame), ids, segment, names, np.empty(0, object))

    def _with(self, day: DayLog) -> Log:
        c = day.columns()
        user = np.where(c["signed"], c["user"], self.config.users + c["session"] % self.guests).astype(np.int32)
        strength = np.where(c["value"] < 0, np.float32(0), STRENGTH[c["kind"]])
        quantity = np.where(np.isnan(c["quantity"]), 1, c["quantity"])
        new = (
            user, c["item"].astype(np.int32), day.midnight_us + c["time"], c["kind"], strength,
            np.nan_to_num(c["value"]).astype(np.float32), quantity.astype(np.float32), c["session"].astype(np.int32),
            c["request"].astype(np.int32), c["position"].astype(np.int16), c["propensity"].astype(np.float32),
        )  # fmt: skip
        old = self.log
        names = ("user", "item", "time", "kind", "strength", "value", "quantity", "session", "request", "position",
                 "propensity")  # fmt: skip
        joined = [np.concatenate([getattr(old, name), column]) for name, column in zip(names, new, strict=True)]
        # Days follow one another: a stable sort by person keeps each one's events in the order of time.
        order = np.argsort(joined[0], kind="stable")
        region = self.truth.region[c["user"]]
        self.region = np.concatenate([getattr(self, "region", np.empty(0, np.int32)), region])[order]
        return Log(*(column[order] for column in joined), old.n_users, old.n_items)


def _nothing(users: int, items: int) -> Log:
    types = (np.int32, np.int32, np.int64, np.int8, np.float32, np.float32, np.float32, np.int32, np.int32, np.int16,
             np.float32)  # fmt: skip
    return Log(*(np.empty(0, t) for t in types), users, items)


@dataclass(frozen=True)
class Worth:
    """What a day's lists were worth by the simulator's truth, and how they were spread.

    `utility`: how much people wanted what they were shown, standard deviations, places weighed by the chance of a look.
    `clicks`: expected clicks a list. `revenue`: expected money of a list's purchases less returns. `exposure` int [I]:
    how often each item was shown.
    """

    utility: float
    clicks: float
    revenue: float
    exposure: np.ndarray


def worth(shown: Shown, truth: Truth) -> Worth:
    """Measure one day."""
    there = shown.items >= 0
    items = np.maximum(shown.items, 0)
    look = np.where(there, truth.examination[: shown.items.shape[1]].astype(np.float64), 0.0)
    want = shown.want.astype(np.float64)
    click = look * attraction(want)
    money = np.exp(truth.log_price.astype(np.float64)) * np.where(truth.consumable, 1 + EXTRA, 1.0)
    bought = click * cart_chance(want) * BOUGHT
    revenue = bought * money[items] * (1 - return_chance(want))
    n = len(shown.items)
    return Worth(
        float((look * want).sum() / look.sum()), float(click.sum() / n), float(revenue.sum() / n),
        np.bincount(shown.items[there], minlength=len(truth.item_ids)),
    )  # fmt: skip


def spread(exposure: np.ndarray, truth: Truth, day: int) -> dict[str, float]:
    """Gini, coverage and new-item figures of exposure int [D, I] over the days that end with `day`.

    Over what was on sale in all of them: `gini`, `coverage`; `new_share` of the showings that new items got;
    `discovered`: the share of new items that were shown at least ten times.
    """
    first = day - len(exposure) + 1
    sold = (truth.created_day <= first) & (truth.retired_day > day)
    new = sold & (truth.created_day > first - NEW_DAYS) & (truth.created_day >= 0)
    total = exposure.sum(0)
    return {
        "gini": gini(total[sold]), "coverage": float((total[sold] > 0).mean()),
        "new_share": float(total[new].sum() / max(total[sold].sum(), 1)),
        "discovered": float((total[new] >= 10).mean()) if new.any() else float("nan"),
    }  # fmt: skip
