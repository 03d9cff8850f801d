"""A simulated shop whose lists a trained bundle makes, day by day, and what its servers would have written.

The bundle's own retriever, features and ranker answer every request of the simulation; the impression log (with the
features of what was shown) and the sealed events land in a state folder, in the servers' formats. Faults can be put
between them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xgboost as xgb

from longtail import steps
from longtail.benchmark import known_key
from longtail.datasets.importing import import_shop
from longtail.datasets.simulated_log import SURFACES, DayLog
from longtail.datasets.simulated_policy import PolicyContext
from longtail.datasets.simulated_world import Drift, Truth, build_world
from longtail.datasets.simulator import SimulatedShop, SimulatorConfig, simulate
from longtail.engine.impressions import Impression, table_of
from longtail.engine.parts import Bundle
from longtail.events import Log, Requests, Shop
from longtail.events.log import histories_before
from longtail.events.sealing import SCHEMA
from longtail.features.batch import snapshots
from longtail.features.request import feature_list
from longtail.identity import Pseudonymiser, load_key
from longtail.ranking.two_stage import Stage, best_of
from longtail.retrieval import Retriever
from longtail.retrieval.content import content_matrix
from longtail.schema import DAY_US, EVENT_STRENGTH, EVENT_TYPES
from longtail.steps.bundling import write_bundle
from longtail.training import TrainingConfig

CANDIDATES = 150
DEVICES = np.array(["mobile", "desktop", "tablet"], object)
BOT_MINUTES = 5


@dataclass(frozen=True)
class Fault:
    """What is wrong between the models and the people.

    `missing` and `scaled` name a feature that arrives as NaN, or in another unit; `dead` a source that proposes
    nothing; `popular` shows everybody the bestsellers; `bots` that many programs look at sixty items a minute.
    """

    missing: str = ""
    scaled: str = ""
    dead: str = ""
    popular: bool = False
    bots: int = 0


NO_FAULT = Fault()


class _Dead:
    """A source without an answer."""

    def __init__(self, name: str) -> None:
        self.name, self.reason = name, ""

    def answer(self, requests: Requests) -> _Dead:
        self.n = len(requests)
        return self

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full((self.n, k), -1, np.int64), np.full((self.n, k), -np.inf, np.float32)

    def at(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        return np.zeros(len(rows), np.float32)


def train(folder: Path, config: SimulatorConfig, days: int, training: TrainingConfig) -> Path:
    """Train a bundle on the first `days` of a simulated shop by the product's own steps; returns its folder."""
    shop = folder / "shop"
    truth = simulate(folder / "raw", config)
    until = config.start_us + days * DAY_US
    import_shop("simulator", folder / "raw", shop, key_file=known_key(folder), until=until, now=until)
    pseudonyms = Pseudonymiser(load_key(folder / "key"))
    truth.renamed(pseudonyms.of_all(truth.user_ids)).save(folder / "truth")
    return learned(shop, folder, training)


def learned(shop: Path, folder: Path, training: TrainingConfig) -> Path:
    """A bundle by the product's own steps, in full; returns its folder."""
    at = {name: folder / name for name in ("features", "tower", "index", "candidates", "ranker", "evaluation")}
    steps.build_features(shop, at["features"], training)
    steps.train_two_tower(shop, at["tower"], training)
    steps.build_index(at["tower"], at["index"], training)
    steps.build_candidates(shop, at["index"], at["candidates"], training)
    steps.train_ranker(at["candidates"], at["ranker"], training)
    figures = steps.evaluate(shop, at["index"], at["candidates"], at["ranker"], at["evaluation"], training)
    loaded = Shop.load(shop)
    write_bundle(
        loaded, {}, at["features"], at["candidates"], at["ranker"], at["evaluation"], folder / "bundle", figures,
        training, "",
    )  # fmt: skip
    return folder / "bundle"


@dataclass
class Served:
    """One shop that goes on living. `state` takes what its servers write; `day` is the next day to live."""

    shop: SimulatedShop
    truth: Truth  # ids as in the log: pseudonyms
    bundle: Bundle
    stage: Stage
    booster: xgb.Booster
    log: Log  # interest shown so far
    code: np.ndarray  # int64 [simulated users]: user code in the log
    segment: np.ndarray
    state: Path
    day: int
    fault: Fault = NO_FAULT
    rows: list[Impression] = field(default_factory=list)

    @staticmethod
    def open(folder: Path, state: Path, config: SimulatorConfig, days: int) -> Served:
        """The shop of `train` at the end of the days that its bundle knows."""
        truth = Truth.load(folder / "truth")
        world, _ = build_world(
            config.users, config.items, config.days, config.start_us, len(config.regions), config.list_size, None,
            config.seed,
        )  # fmt: skip
        living = SimulatedShop(config, world)
        rows = 0
        for day in range(days):  # again as in training: the same seed gives the same days
            rows += len(living.live(day).columns()["item"])
            living.adapt(rows, day)
        return Served(living, truth, *_loaded(folder / "bundle", folder / "shop", truth), state, days)

    def renew(self, bundle: Path, shop: Path) -> None:
        """Go on with a bundle that has learned from `shop`, which knows all that was logged so far."""
        loaded = _loaded(bundle, shop, self.truth)
        self.bundle, self.stage, self.booster, self.log, self.code, self.segment = loaded
        self._let_die()

    def fork(self, state: Path, drift: Drift | None, fault: Fault) -> Served:
        """The same shop from here on in another world: tastes, prices or traffic that drift, or a fault."""
        config = replace(self.shop.config, drift=drift)
        world, _ = build_world(
            config.users, config.items, config.days, config.start_us, len(config.regions), config.list_size, drift,
            config.seed,
        )  # fmt: skip
        other = SimulatedShop(config, world)
        kept = ("config", "truth", "policy", "intent")
        other.__dict__.update({k: copy.deepcopy(v) for k, v in self.shop.__dict__.items() if k not in kept})
        made = Served(other, self.truth, self.bundle, self.stage, self.booster, self.log, self.code, self.segment,
                      state, self.day, fault)  # fmt: skip
        made._let_die()
        return made

    def _let_die(self) -> None:
        if self.fault.dead:
            retriever = self.stage.retriever
            sources = [_Dead(s.name) if s.name == self.fault.dead else s for s in retriever.sources]
            self.stage = replace(self.stage, retriever=replace(retriever, sources=sources))

    def live(self) -> str:
        """Live a day by the bundle's lists; returns it, ISO."""
        self.rows = []
        self.shop.policy = self._lists
        lived = self.shop.live(self.day)
        self._write(lived)
        day = self.shop.truth.start_us // DAY_US + self.day
        self.day += 1
        return str(np.datetime64(int(day), "D"))

    def _lists(self, day: int, users: np.ndarray, context: PolicyContext) -> tuple[np.ndarray, np.ndarray]:
        who = self.code[users]
        history = histories_before(self.log, who, context.time, 100)
        requests = Requests(context.time, who.astype(np.int32), self.segment[who], history)
        known = replace(requests, user=np.where(who < self.log.n_users - len(self.code), who, -1).astype(np.int32))
        table, out = self.stage.item_table(), np.full((len(users), context.k), -1, np.int64)
        names = self.bundle.sources
        for first, part, found in self.stage.chunks(known, CANDIDATES):
            features = self._broken(self.stage.features(part, found, table))
            score = np.asarray(self.booster.inplace_predict(features), np.float32)
            if self.fault.popular:
                score = np.log1p(context.popularity)[found.items].astype(np.float32)
            region = context.region[first : first + len(part)][found.rows]
            allowed = np.where(context.eligible[region, found.items], score, -np.inf)
            best = best_of(found.rows, found.items, allowed, len(part), context.k)
            key = found.rows * 2**40 + found.items
            for b, items in enumerate(best):
                items = items[items >= 0]
                at = np.searchsorted(key, b * 2**40 + items)
                items, at = items[np.isfinite(allowed[at])], at[np.isfinite(allowed[at])]
                out[first + b, : len(items)] = items
                mine = slice(part.history.indptr[b], part.history.indptr[b + 1])
                ids = self.truth.item_ids[items].tolist()
                self.rows.append(
                    Impression(
                        f"r{self.shop.request_number - len(users) + first + b}",
                        str(self.truth.user_ids[users[first + b]]), None, "homepage", int(part.time[b]), "champion",
                        self.bundle.version, "full", "live", ids, [1.0] * len(ids), score[at].tolist(),
                        [names[s] for s in found.best[at]], int(part.segment[b]), part.history.item[mine],
                        part.history.time[mine], items, np.ascontiguousarray(features[at], "<f4").tobytes(),
                    )
                )  # fmt: skip
        return out, np.where(out >= 0, 1.0, 0.0)

    def _broken(self, features: np.ndarray) -> np.ndarray:
        if self.fault.missing or self.fault.scaled:
            names = [f.name for f in feature_list(self.bundle.sources)]
            if self.fault.missing:
                features[:, names.index(self.fault.missing)] = np.nan
            if self.fault.scaled:
                features[:, names.index(self.fault.scaled)] += np.float32(np.log(100))  # a logarithm: cents for euros
        return features

    def _write(self, lived: DayLog) -> None:
        """The day's lists and events into the state folder; interest shown goes to the histories."""
        c = lived.columns()
        time = lived.midnight_us + c["time"]
        surface = np.array([r.surface for r in self.rows] or [""], object)
        by_request = {r.request_id: n for n, r in enumerate(self.rows)}
        first = c["request"] >= 0
        for request, s in zip(
            c["request"][first & (c["kind"] == 0)], c["surface"][first & (c["kind"] == 0)], strict=True
        ):
            surface[by_request[f"r{request}"]] = SURFACES[s]
        for row, name in zip(self.rows, surface, strict=True):
            row.surface = str(name)
        rng = np.random.default_rng([self.shop.config.seed, self.day])
        kind = np.array(EVENT_TYPES, object)[c["kind"]]
        told = kind != "impression"
        people = self.truth.user_ids.astype(object)[c["user"]]
        columns = {
            "event_id": [f"e{self.day}-{n}" for n in range(len(time))], "user_id": people,
            "item_id": self.truth.item_ids.astype(object)[c["item"]], "event_type": kind, "timestamp": time,
            "session_id": [f"s{n}" for n in c["session"]], "surface": np.array(SURFACES, object)[c["surface"]],
            "position": np.where(c["position"] < 0, None, c["position"].astype(object)),
            "request_id": [None if n < 0 else f"r{int(n)}" for n in c["request"]],
            "value": np.where(np.isnan(c["value"]), None, c["value"].astype(object)),
            "dwell_ms": np.where(c["dwell"] < 0, None, c["dwell"].astype(object)),
            "device": DEVICES[c["device"]],
            "quantity": np.where(np.isnan(c["quantity"]), None, c["quantity"].astype(object)),
            "region": np.array(self.shop.config.regions, object)[self.shop.truth.region[c["user"]]],
            "received_at": time + rng.exponential(4e6, len(time)).astype(np.int64),
        }  # fmt: skip
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        rows = [row for row, keep in zip(rows, told, strict=True) if keep] + self._bot_events(rng)
        self._remember(c, time, told)
        _part(self.state / "impressions", self.day, table_of(self.rows), "time")
        table = pa.table({f.name: pa.array([r.get(f.name) for r in rows], _plain(f.type)).cast(f.type) for f in SCHEMA})
        _part(self.state / "events", self.day, table, "timestamp")

    def _bot_events(self, rng: np.random.Generator) -> list[dict]:
        start = self.shop.truth.start_us + self.day * DAY_US + 11 * (DAY_US // 24)
        out = []
        for bot in range(self.fault.bots):
            for n in range(60 * BOT_MINUTES):
                at = start + bot * 600_000_000 + n * 1_000_000
                item = str(self.truth.item_ids[rng.integers(0, len(self.truth.item_ids))])
                out.append({"event_id": f"b{self.day}-{bot}-{n}", "user_id": f"bot{bot}", "item_id": item,
                            "event_type": "view", "timestamp": at, "session_id": f"b{self.day}-{bot}",
                            "surface": "product", "device": "desktop", "region": "north",
                            "received_at": at + 1_000_000})  # fmt: skip
        return out

    def _remember(self, c: dict[str, np.ndarray], time: np.ndarray, told: np.ndarray) -> None:
        strength = np.array([EVENT_STRENGTH[t] for t in EVENT_TYPES], np.float32)[c["kind"]]
        keep = told & (strength > 0) & ~(c["value"] < 0)
        n = int(keep.sum())
        new = {
            "user": self.code[c["user"][keep]], "item": c["item"][keep], "time": time[keep], "kind": c["kind"][keep],
            "strength": strength[keep], "value": np.nan_to_num(c["value"][keep]),
            "quantity": np.where(np.isnan(c["quantity"][keep]), 1, c["quantity"][keep]),
            "session": 2**28 + c["session"][keep], "request": np.full(n, -1), "position": np.full(n, -1),
            "propensity": np.full(n, np.nan),
        }  # fmt: skip
        old = self.log
        whole = {f.name: np.concatenate([getattr(old, f.name), new[f.name].astype(getattr(old, f.name).dtype)])
                 for f in fields(old) if not f.name.startswith("n_")}  # fmt: skip
        order = np.lexsort((np.arange(len(whole["user"])), whole["time"], whole["user"]))
        self.log = Log(**{k: v[order] for k, v in whole.items()}, n_users=old.n_users, n_items=old.n_items)


def _loaded(bundle: Path, shop: Path, truth: Truth) -> tuple[Bundle, Stage, xgb.Booster, Log, np.ndarray, np.ndarray]:
    """The bundle, what answers requests by it, the interest shown so far, code and segment of the simulated people."""
    opened, loaded = Bundle.open(bundle, contents=False), Shop.load(shop)
    stage = Stage(
        opened.as_of, Retriever.load(bundle / "retrieval"),
        snapshots(loaded.log, loaded.catalogue, [opened.as_of]), loaded.catalogue, content_matrix(loaded.catalogue),
    )  # fmt: skip
    booster = xgb.Booster(model_file=next(bundle.glob("ranker/*/1/xgboost.ubj")))
    booster.set_param({"nthread": 1})
    codes = {user: n for n, user in enumerate(loaded.user_ids)}
    strangers = iter(range(len(codes), len(codes) + len(truth.user_ids)))
    code = np.array([codes[u] if u in codes else next(strangers) for u in truth.user_ids.tolist()])
    segment = np.full(len(codes) + len(truth.user_ids), -1, np.int32)
    segment[: len(codes)] = loaded.segment
    return opened, stage, booster, replace(loaded.log.positives, n_users=len(segment)), code, segment


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.int64() if pa.types.is_timestamp(kind) else kind


def _part(folder: Path, number: int, table: pa.Table, time: str) -> None:
    """One file for each day that the rows fall on."""
    days = table[time].cast(pa.int64()).to_numpy() // DAY_US
    for day in np.unique(days):
        target = folder / f"date={np.datetime64(int(day), 'D')}" / f"part-{number:05d}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.filter(pa.array(days == day)), target)
