"""The systems that the loop compares: each learns every night from what it showed itself."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import xgboost as xgb

from longtail.datasets.simulated_policy import PolicyContext
from longtail.engine.exposure import Exposure
from longtail.events import Requests, Shop
from longtail.events.log import histories_before
from longtail.ranking.ranker import RankerConfig
from longtail.ranking.two_stage import Stage
from longtail.reranking import ItemView, PersonView, rerank
from longtail.reranking.exploration import doubt
from longtail.retrieval.lists import decayed_counts
from longtail.retrieval.sources import SourcesConfig
from longtail.schema import DAY_US
from longtail.surfaces import BoundSurface, Surfaces
from longtail.training import Labelled, TrainingConfig, joined, label, learn, prepare

WITHOUT = ("ease_recent", "ease_steps", "copurchase", "copurchase_months", "next_1", "next_5_long", "next_20",
           "before_5", "sessions", "popular_3d", "popular")  # fmt: skip
TRAINING = TrainingConfig(
    windows=3, requests=500, negatives=0.1, depth=50, propensity_weights=True, sources=SourcesConfig(without=WITHOUT),
    ranker=RankerConfig(rounds=60, eta=0.15, max_depth=5, max_bin=64, threads=1),
)  # fmt: skip
EXPLORING = """
rules:
  exploration: {epsilon: 0.1, skip_first: 7, pool: 15, temperature: 0.3, thompson: 1}
  long_tail: {after: 9, pool: 8}
"""


@dataclass(frozen=True)
class Setting:
    """One arm of the comparison: whether logs are corrected for exposure, and whether lists explore."""

    correction: bool
    exploration: bool


class TwoStage:
    """Longtail: sources, blend, ranker, re-ranking with its rules, all trained again each night.

    What the sources of a day propose for the week after it is asked once, when that week is over: `prepare` would do it
    again every night, with the same answer.
    """

    def __init__(self, setting: Setting, seed: int) -> None:
        self.config = replace(TRAINING, propensity_weights=setting.correction, seed=seed)
        self.surfaces = Surfaces.parse(EXPLORING if setting.exploration else "")
        self.stages: OrderedDict[int, Stage] = OrderedDict()
        self.windows: OrderedDict[tuple[int, int], Labelled] = OrderedDict()
        self.booster: xgb.Booster | None = None

    def train(self, shop: Shop, now: int, ready: bool = True) -> None:
        """Learn from the log before `now`; not `ready`: only fit what later nights need."""
        data = prepare(shop, now, self.config)
        for start, stop in data.windows():
            if start in self.stages and (start, stop) not in self.windows:
                self.windows[start, stop] = label(data, self.stages[start], start, stop)
        stage = data.stage(now, [])
        self.stages[now] = stage
        if ready:
            known = [self.windows[w] for w in data.windows() if w in self.windows]
            proposals = joined(known, stage.retriever.names)
            self.booster, blend = learn(proposals, self.config)
            stage.retriever.blend = blend
            self._serve(shop, stage, data.positives)
        oldest = now - self.config.window_days * DAY_US
        self.stages = OrderedDict((t, s) for t, s in self.stages.items() if t >= oldest)
        weeks = now - (self.config.windows + 1) * self.config.window_days * DAY_US
        self.windows = OrderedDict((w, found) for w, found in self.windows.items() if w[0] >= weeks)

    def _serve(self, shop: Shop, stage: Stage, positives) -> None:
        self.stage, self.shop, self.positives = stage, shop, positives
        self.table = stage.item_table()
        counts = self.table.snapshot
        unknown = doubt(counts["clicks_30d"], counts["impressions_30d"])
        self.view = ItemView.from_catalogue(shop.catalogue, doubt=unknown)
        self.surface: BoundSurface = self.surfaces.bind(shop.catalogue, stage.retriever.names)["homepage"]
        if not hasattr(self, "exposure"):
            self.exposure = Exposure(len(shop.catalogue))

    def __call__(self, day: int, users: np.ndarray, context: PolicyContext) -> tuple[np.ndarray, np.ndarray]:
        user = np.where(context.signed, users, -1).astype(np.int32)
        order = np.argsort(context.time, kind="stable")
        asked = Requests(
            context.time[order], user[order], context.region[order].astype(np.int32),
            histories_before(self.positives, user[order], context.time[order], last=self.config.history),
        )  # fmt: skip
        items = np.full((len(users), context.k), -1, np.int64)
        chance = np.zeros((len(users), context.k))
        codes = [self.view.region_code(name) for name in self.shop.segments]
        people = [PersonView(code) for code in codes]
        assert self.booster is not None
        for first, part, found in self.stage.chunks(asked, None):
            scores = self.booster.inplace_predict(self.stage.features(part, found, self.table))
            edges = np.searchsorted(found.rows, np.arange(len(part) + 1))
            for b in range(len(part)):
                mine, row, now = slice(edges[b], edges[b + 1]), order[first + b], int(part.time[b])
                best = rerank(
                    scores[mine], found.items[mine], self.view, people[part.segment[b]], self.surface.rules,
                    context.rng, now, context.k, shown=self.exposure.counts,
                )  # fmt: skip
                items[row, : len(best.items)], chance[row, : len(best.items)] = best.items, best.propensity
                self.exposure.add(best.items, now)
        return items, chance


class Popular:
    """What was clicked and bought most lately, the same for everybody in a region."""

    def __init__(self, half_life_days: float = 7.0) -> None:
        self.half_life_days = half_life_days

    def train(self, shop: Shop, now: int, ready: bool = True) -> None:
        """Count."""
        self.counts = decayed_counts(shop.log.before(now).positives, now, self.half_life_days)

    def __call__(self, day: int, users: np.ndarray, context: PolicyContext) -> tuple[np.ndarray, np.ndarray]:
        best = np.full((len(context.eligible), context.k), -1, np.int64)
        for region, sold in enumerate(context.eligible):
            order = np.lexsort((np.arange(len(sold)), -self.counts))
            found = order[sold[order]][: context.k]
            best[region, : len(found)] = found
        return best[context.region], np.ones((len(users), context.k))
