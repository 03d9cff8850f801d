"""A simulated shop: people with tastes visit, a logging policy shows lists, and what follows is logged, day by day."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from longtail.datasets.progress import Progress, silent
from longtail.datasets.raw import Raw, read_table
from longtail.datasets.simulated_log import DayLog, EventWriter
from longtail.datasets.simulated_policy import PolicyContext, PopularTaste
from longtail.datasets.simulated_world import Drift, Truth, build_world
from longtail.errors import InvalidInput
from longtail.schema import DAY_US

Policy = Callable[[int, np.ndarray, PolicyContext], tuple[np.ndarray, np.ndarray]]
HOUR_US = DAY_US // 24
DEVICES = ("mobile", "desktop", "tablet")
BOUGHT = 0.5  # of what goes into a cart
EXTRA = 0.6  # more pieces of a consumable, on average


@dataclass(frozen=True)
class SimulatorConfig:
    """What to simulate; the same values give the same bytes.

    `events` is a target met within a few per cent. `best_first`: lists show what the logging policy likes best first,
    so that place and taste go together, instead of in the order of its draws. `own_views`: what a session finds by
    itself, by searching, on average; with 0 people see nothing but lists. `policy(day, users [R], context)` gives
    items [R, k] and the chance float [R, k] of each at its place given the places above; None is `PopularTaste`.
    """

    users: int = 5_000
    items: int = 2_000
    days: int = 120
    events: int = 1_000_000
    seed: int = 7
    list_size: int = 8
    start: str = "2024-01-01"
    regions: tuple[str, ...] = ("north", "south", "east", "west")
    guest_share: float = 0.1
    drift: Drift | None = None
    best_first: bool = False
    own_views: float = 1.4
    policy: Policy | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("users", "items", "days", "events", "list_size"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"simulator: {name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.own_views <= 100:
            raise InvalidInput(f"simulator: own_views must be between 0 and 100, got {self.own_views}")
        if self.list_size > self.items:
            raise InvalidInput(f"simulator: list_size {self.list_size} is larger than the catalogue of {self.items}")
        if not self.regions:
            raise InvalidInput("simulator: regions needs at least one name")

    @property
    def start_us(self) -> int:
        """Midnight UTC of the first day, microseconds."""
        return int(pd.Timestamp(self.start, tz="UTC").value // 1000)


def read(folder: Path) -> Raw:
    """The events and items that `simulate` wrote."""
    folder = Path(folder)
    items = read_table(folder / "items.parquet", ("item_id",))
    if not (folder / "events.parquet").is_file():
        raise InvalidInput(f"{folder / 'events.parquet'} does not exist: run `longtail simulate` first")
    return Raw(folder / "events.parquet", items)


def simulate(folder: Path, config: SimulatorConfig, progress: Progress = silent) -> Truth:
    """Write `events.parquet`, `items.parquet` and `truth/truth.npz` of a simulated shop into the folder.

    Events are written day by day in time order, one day is in memory at a time.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    truth, items = build_world(
        config.users, config.items, config.days, config.start_us, len(config.regions), config.list_size, config.drift,
        config.seed,
    )  # fmt: skip
    shop = SimulatedShop(config, truth)
    with EventWriter(folder / "events.parquet", truth, config.regions) as writer:
        for day in range(config.days):
            writer.write(shop.live(day))
            shop.adapt(writer.rows, day)
            progress("simulating days", day + 1, config.days)
    names = np.array(config.regions, object)
    items["regions"] = items["regions"].map(lambda codes: None if codes is None else list(names[codes]))
    items["in_stock"] = shop.in_stock & (truth.retired_day > config.days)
    items.to_parquet(folder / "items.parquet", index=False)
    truth.save(folder / "truth")
    return truth


def attraction(want: np.ndarray) -> np.ndarray:
    """The chance that a look at an item in a list becomes a click, of any shape."""
    return 1 / (1 + np.exp(-1.5 * (want - 2.7)))


def cart_chance(want: np.ndarray) -> np.ndarray:
    """The chance that what was clicked or found goes into the cart."""
    return 0.35 / (1 + np.exp(-1.4 * (want - 1.5)))


def return_chance(want: np.ndarray) -> np.ndarray:
    """The chance that what was bought comes back."""
    return 0.12 / (1 + np.exp(want - 1.5))


@dataclass(frozen=True)
class Shown:
    """The lists of one day: `user` int [R], `items` int64 [R, k] (-1 for none), `want` float32 [R, k].

    `want` is how much the person wanted each item in that session: what decides clicks and purchases.
    """

    user: np.ndarray
    items: np.ndarray
    want: np.ndarray


class SimulatedShop:
    """A shop that is lived day by day: stock, popularity, what people own and returns under way go on to the next.

    `shown` holds the lists of the day that was lived last, None before any.
    """

    def __init__(self, config: SimulatorConfig, truth: Truth) -> None:
        self.config, self.truth = config, truth
        self.rng = np.random.default_rng([config.seed, 2])
        n, rng = config.users, self.rng
        self.policy: Policy = config.policy or PopularTaste(truth, config.seed, best_first=config.best_first)
        self.activity = rng.gamma(0.8, 1.0, n) + 0.02
        self.arrival = np.where(rng.random(n) < 0.6, 0, rng.integers(0, config.days, n))
        self.anonymous = rng.random(n) < config.guest_share  # people who never sign in
        self.devices = 1 + rng.binomial(2, 0.3, n)
        self.household = np.where(rng.random(n) < 0.02, rng.integers(0, n, n), np.arange(n))  # whose device it is
        self.in_stock = np.ones(config.items, bool)
        self.popularity = np.exp(truth.quality.astype(np.float64)) * 2
        self.owned = np.full((n, 4), -1, np.int32)
        self.later: dict[int, list[dict[str, np.ndarray]]] = {}
        self.per_session = 1.5 * config.list_size + 2.0
        self.sessions_so_far = 0
        self.session_number = self.request_number = 0
        self.shown: Shown | None = None
        tops = np.arange(len(truth.season_phase))
        member = (truth.top == tops[:, None]).astype(np.float32)
        centre = member @ truth.item_vector / np.maximum(member.sum(1, keepdims=True), 1)
        self.intent = [np.cumsum(_softmax(v @ centre.T), axis=1) for v in (truth.user_vector, truth.user_vector_after)]

    def adapt(self, rows: int, day: int) -> None:
        """Learn how many events a session really leaves, so that the target is met."""
        if self.sessions_so_far:
            self.per_session = max(rows / self.sessions_so_far, 1.0)
        self.left = max(self.config.events - rows, 0) / max(self.config.days - day - 1, 1)

    def live(self, day: int) -> DayLog:
        """Live one day; days must follow one another."""
        _rng, truth = self.rng, self.truth
        self._restock(day)
        eligible = truth.sold_in & self.in_stock & (truth.created_day <= day) & (truth.retired_day > day)
        log = DayLog(truth.start_us + day * DAY_US)
        log.extend(self.later.pop(day, []))
        visit = self._visits(day)
        if not len(visit["user"]) or not eligible.any():
            return log
        self._lists(day, visit, eligible, log)
        self._own_ways(day, visit, eligible, log)
        clicks = log.count("click", len(truth.item_ids)) + 3 * log.count("purchase", len(truth.item_ids))
        self.popularity = 0.97 * self.popularity + clicks + 0.03 * 0.5
        return log

    def _restock(self, day: int) -> None:
        draw = self.rng.random(len(self.in_stock))
        self.in_stock = np.where(self.in_stock, draw > 0.004, draw < 0.15)

    def _visits(self, day: int) -> dict[str, np.ndarray]:
        """The sessions of the day: who, when, on which device, signed in or not, looking for which department."""
        rng, config, n = self.rng, self.config, self.config.users
        left = getattr(self, "left", config.events / config.days)
        drift = config.drift
        busy = 1 + 0.15 * np.cos(2 * np.pi * (day - 5) / 7)
        if drift and day >= drift.start_day:
            busy *= drift.traffic
        count = rng.poisson(left / self.per_session * busy)
        weight = np.cumsum(self.activity * (self.arrival <= day))
        if weight[-1] == 0:
            count = 0
        user = np.minimum(np.searchsorted(weight, rng.random(count) * weight[-1], side="right"), n - 1)
        hour = np.clip(rng.normal(np.where(rng.random(count) < 0.6, 19.5, 12.5), 2.2), 0, 22.5)
        device = np.floor(rng.random(count) ** 1.6 * self.devices[user]).astype(np.int64)
        tastes = self.intent[int(drift is not None and day >= drift.start_day)]
        visit = {
            "user": user,
            "time": (hour * HOUR_US).astype(np.int64) + rng.integers(0, HOUR_US // 60, count),
            "device": device,
            "device_owner": np.where(device == 0, self.household[user], user),
            "signed": ~self.anonymous[user] & (rng.random(count) < 0.85),
            "intent": (rng.random((count, 1)) > tastes[user]).sum(1).clip(max=tastes.shape[1] - 1),
            "session": self.session_number + np.arange(count),
        }
        self.session_number += count
        self.sessions_so_far += count
        return visit

    def _want(self, day: int, user: np.ndarray, items: np.ndarray, intent: np.ndarray) -> np.ndarray:
        """Utility plus what the session is about, float32, shapes broadcast."""
        return self.truth.utility(user, items, float(day)) + 0.8 * (self.truth.top[items] == intent)

    def _lists(self, day: int, visit: dict[str, np.ndarray], eligible: np.ndarray, log: DayLog) -> None:
        """Lists from the logging policy: everything shown is logged, a place is looked at with its known chance."""
        rng, truth, k = self.rng, self.truth, self.config.list_size
        lists = 1 + rng.poisson(0.5, len(visit["user"]))
        row = np.repeat(np.arange(len(lists)), lists)
        nth = np.arange(len(row)) - np.repeat(np.cumsum(lists) - lists, lists)
        base = {name: values[row] for name, values in visit.items()}
        base["time"] = base["time"] + nth * 150_000_000
        base["request"] = self.request_number + np.arange(len(row))
        self.request_number += len(row)
        context = PolicyContext(
            truth.start_us + day * DAY_US + base["time"],
            truth.region[base["user"]],
            eligible,
            self.popularity,
            k,
            rng,
            base["signed"],
        )
        items, chance = self.policy(day, base["user"], context)
        shown = items >= 0
        want = self._want(day, base["user"][:, None], np.maximum(items, 0), base["intent"][:, None])
        self.shown = Shown(base["user"], items, want)
        attractive = rng.random(items.shape) < attraction(want)
        clicked = shown & attractive & (rng.random(items.shape) < truth.examination[:k])
        r, p = np.nonzero(shown)
        surface = np.where(nth == 0, 0, 1)
        base["surface"] = surface
        log.add("impression", _take(base, r), items[r, p], p, position=p, propensity=chance[r, p])
        r, p = np.nonzero(clicked)
        delay = 3_000_000 + 9_000_000 * p + rng.integers(0, 4_000_000, len(r))
        after = log.add("click", _take(base, r), items[r, p], delay, position=p, dwell=_dwell(rng, want[r, p]))
        self._consider(day, after, items[r, p], want[r, p], log, position=p)

    def _own_ways(self, day: int, visit: dict[str, np.ndarray], eligible: np.ndarray, log: DayLog) -> None:
        """What people find by themselves (search), mostly what they truly want, now and then once more."""
        rng, truth = self.rng, self.truth
        views = rng.poisson(self.config.own_views, len(visit["user"]))
        base = _take(visit, np.repeat(np.arange(len(views)), views))
        n = len(base["user"])
        base["time"] = base["time"] + rng.integers(5_000_000, 400_000_000, n)
        base["surface"] = np.full(n, 2)
        sellable = np.flatnonzero(eligible.any(0))
        known = np.cumsum(np.sqrt(self.popularity[sellable]))
        pool = np.concatenate(
            [np.searchsorted(known, rng.random((n, 20)) * known[-1]).clip(max=len(sellable) - 1),
             rng.integers(0, len(sellable), (n, 28))], axis=1,
        )  # fmt: skip
        pool = sellable[pool]
        want = self._want(day, base["user"][:, None], pool, base["intent"][:, None])
        want = np.where(eligible[truth.region[base["user"]][:, None], pool], want, -np.inf)
        best = np.argmax(want + 0.35 * rng.gumbel(size=want.shape), axis=1)
        items, want = pool[np.arange(n), best], want[np.arange(n), best]
        again = self.owned[base["user"], rng.integers(0, self.owned.shape[1], n)]
        repeat = (again >= 0) & (rng.random(n) < 0.45) & eligible[truth.region[base["user"]], again]
        items, want = np.where(repeat, again, items), np.where(repeat, 2.2, want).astype(np.float32)
        keep = np.isfinite(want)
        base, items, want = _take(base, np.flatnonzero(keep)), items[keep], want[keep]
        after = log.add("view", base, items, np.zeros(len(items), np.int64), dwell=_dwell(rng, want))
        self._consider(day, after, items, want, log)

    def _consider(
        self, day: int, base: dict[str, np.ndarray], items: np.ndarray, want: np.ndarray, log: DayLog,
        position: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """From a click or view on: cart, purchase, and later perhaps a return or a rating."""
        rng, truth, drift = self.rng, self.truth, self.config.drift
        chosen = np.flatnonzero(rng.random(len(items)) < cart_chance(want))
        place = None if position is None else position[chosen]
        base, items, want = _take(base, chosen), items[chosen], want[chosen]
        base = log.add("add_to_cart", base, items, rng.integers(8_000_000, 40_000_000, len(items)), position=place)
        bought = np.flatnonzero(rng.random(len(items)) < BOUGHT)
        place = None if place is None else place[bought]
        base, items, want = _take(base, bought), items[bought], want[bought]
        factor = drift.prices if drift and day >= drift.start_day else 1.0
        quantity = 1 + (truth.consumable[items] * rng.poisson(EXTRA, len(items)))
        value = np.round(np.exp(truth.log_price[items].astype(np.float64)) * factor, 2) * quantity
        base = log.add(
            "purchase", base, items, rng.integers(20_000_000, 90_000_000, len(items)), position=place, value=value,
            quantity=quantity,
        )  # fmt: skip
        keep = truth.consumable[items]
        self.owned[base["user"][keep], rng.integers(0, self.owned.shape[1], keep.sum())] = items[keep]
        returned = np.flatnonzero(rng.random(len(items)) < return_chance(want))
        self._postpone(day, 2, "purchase", base, items, returned, -value[returned], quantity[returned])
        rated = np.flatnonzero(rng.random(len(items)) < 0.06)
        stars = np.clip(np.round(3 + 0.8 * want[rated] + rng.normal(0, 0.7, len(rated))), 1, 5)
        self._postpone(day, 3, "rating", base, items, rated, stars, None)

    def _postpone(
        self, day: int, soonest: int, kind: str, base: dict[str, np.ndarray], items: np.ndarray, rows: np.ndarray,
        value: np.ndarray, quantity: np.ndarray | None,
    ) -> None:  # fmt: skip
        when = day + soonest + self.rng.integers(0, 10, len(rows))
        for late in np.unique(when[when < self.config.days]):
            of = np.flatnonzero(when == late)
            part = _take(base, rows[of])
            part.pop("request", None)
            part["session"] = self.session_number + np.arange(len(of))
            self.session_number += len(of)
            part["time"] = self.rng.integers(8 * HOUR_US, 22 * HOUR_US, len(of))
            part["surface"] = np.full(len(of), 3)
            row = DayLog.rows(
                kind, part, items[rows[of]], value=value[of], quantity=None if quantity is None else quantity[of]
            )
            self.later.setdefault(int(late), []).append(row)


def _take(columns: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in columns.items()}


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _dwell(rng: np.random.Generator, want: np.ndarray) -> np.ndarray:
    """Milliseconds looked at, longer for what is wanted."""
    return np.exp(rng.normal(8.6 + 0.4 * np.clip(want, -3, 4), 0.6)).astype(np.int64)
