"""Training a whole system: windows of the past, sources fitted before each, one ranker over what they proposed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp
import xgboost as xgb

from longtail.errors import InvalidInput
from longtail.events import Log, Shop
from longtail.features.batch import Snapshots, snapshots
from longtail.features.request import feature_list
from longtail.ranking.groups import Unit, requests_of_window
from longtail.ranking.objective import gains
from longtail.ranking.propensity import examination, inverse_propensity
from longtail.ranking.ranker import RankerConfig, TrainingRows, train_ranker
from longtail.ranking.two_stage import Stage, training_rows
from longtail.retrieval import Retriever
from longtail.retrieval.base import CandidateSource
from longtail.retrieval.blend import Blend, fit_blend
from longtail.retrieval.content import content_matrix
from longtail.retrieval.sources import SourcesConfig, fit_sources
from longtail.schema import DAY_US

Report = Callable[[str], None]


@dataclass(frozen=True)
class TrainingConfig:
    """What a training run learns from, and how.

    A request of the past happens once per person and window (`window`), at each session's start (`session`) or before
    each event (`event`); choose what is nearest to how lists are asked for.
    """

    unit: Unit = "session"
    windows: int = 4
    window_days: int = 7
    requests: int = 8_000  # at most this many a window
    negatives: float = 0.25  # share of the candidates nobody wanted that the ranker sees
    depth: int = 120  # items each source proposes
    repeats: bool = True  # may an item that the person already has be shown again
    objective: str = "conversion"
    propensity_weights: bool = True
    sources: SourcesConfig = field(default_factory=SourcesConfig)
    ranker: RankerConfig = field(default_factory=RankerConfig)
    seed: int = 0


@dataclass(frozen=True)
class TrainingSet:
    """Everything that fits a shop at `until`: computed once, shared by all windows."""

    shop: Shop
    positives: Log
    gain: np.ndarray
    weight: np.ndarray
    content: sp.csr_matrix
    snapshots: Snapshots
    stamps: list[int]  # window starts, newest first, then `until` itself comes before them
    until: int
    config: TrainingConfig

    def stage(self, time: int, shared: list[CandidateSource], blend: Blend | None = None) -> Stage:
        """Sources fitted on what happened before `time`; `shared` ones were fitted earlier still."""
        known = self.positives.before(time)
        if not len(known):
            raise InvalidInput("nothing happened before the first training window: use fewer or shorter windows")
        segments = len(self.shop.segments)
        own = fit_sources(known, self.content, self.shop.segment, segments, time, self.config.sources)
        sources = own + [s for s in shared if s.name not in self.config.sources.without]
        blend = blend or Blend.equal(len(sources))
        retriever = Retriever(sources, blend, self.config.depth, self.config.repeats)
        return Stage(time, retriever, self.snapshots, self.shop.catalogue, self.content)


def prepare(shop: Shop, until: int, config: TrainingConfig) -> TrainingSet:
    """Gains, weights, content and snapshots for windows that end at `until` (microseconds, exclusive)."""
    log = shop.log.before(until)
    positives = log.positives
    if not len(positives):
        raise InvalidInput(
            "no event shows interest in an item (view, click, cart, purchase): there is nothing to learn"
        )
    gain = gains(positives, config.objective, shop.catalogue.price, shop.catalogue.margin)
    theta = examination(log) if config.propensity_weights else np.empty(0)
    weight = inverse_propensity(positives.position, theta)
    first = int(positives.time.min())
    stamps = [until - w * config.window_days * DAY_US for w in range(config.windows + 1)]
    # A window needs a past to learn its sources from: a quarter of the log at least.
    stamps = [s for s in stamps if s - first >= (until - first) * 0.25 or s == until]
    content = content_matrix(shop.catalogue)
    taken = snapshots(log, shop.catalogue, stamps)
    return TrainingSet(shop, positives, gain, weight, content, taken, stamps, until, config)


@dataclass(frozen=True)
class Trained:
    """A ranker, the blend learned beside it, and what it was learned from."""

    booster: xgb.Booster
    blend: Blend
    figures: dict[str, float]


def learn(data: TrainingSet, shared: list[CandidateSource], windows: list[tuple[int, int]], report: Report) -> Trained:
    """Propose, label and rank the given windows [(start, stop), ...]: one ranker and one blend over all of them."""
    config = data.config
    parts: list[TrainingRows] = []
    evidence: list[tuple[np.ndarray, np.ndarray]] = []
    names: list[str] = []
    recalls = []
    for start, stop in windows:
        stage = data.stage(start, shared)
        names = stage.retriever.names
        requests, wanted = requests_of_window(
            data.positives, data.gain, data.weight, data.shop.segment, start, stop, config.unit, config.repeats,
            config.requests, config.seed,
        )  # fmt: skip
        rows, scores, ranks, recall = training_rows(stage, requests, wanted, config.negatives, None, config.seed)
        report(f"window {len(parts) + 1}/{len(windows)}: {len(requests)} requests, {len(rows.gain)} rows, "
               f"{recall:.1%} of the wanted items proposed")  # fmt: skip
        if len(rows.sizes):
            parts.append(rows)
            evidence.append((scores, ranks))
            recalls.append(recall)
    if not parts:
        raise InvalidInput("the ranker has nothing to learn from: no past request led to an item that was proposed")
    rows = TrainingRows(
        *(np.concatenate([getattr(p, f) for p in parts]) for f in ("features", "gain", "sizes", "weight"))
    )
    scores, ranks = (np.concatenate([e[j] for e in evidence]) for j in (0, 1))
    blend = fit_blend(scores, ranks, rows.gain > 0)
    booster = train_ranker(rows, [f.name for f in feature_list(names)], config.ranker)
    figures = {
        "rows": float(len(rows.gain)),
        "groups": float(len(rows.sizes)),
        "candidate_recall": float(np.mean(recalls)),
    }
    return Trained(booster, blend, figures)
