"""Training a whole system: windows of the past, sources fitted before each, one ranker over what they proposed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
import scipy.sparse as sp
import xgboost as xgb
from pydantic import Field, TypeAdapter, ValidationError

from longtail.errors import InvalidInput
from longtail.events import Log, Requests, Shop
from longtail.features.batch import Snapshots, snapshots
from longtail.features.request import feature_list
from longtail.ranking.groups import Unit, Wanted, requests_of_window
from longtail.ranking.objective import Objective, gains
from longtail.ranking.propensity import examination, inverse_propensity, self_normalised
from longtail.ranking.ranker import RankerConfig, TrainingRows, train_ranker
from longtail.ranking.returns import return_rates
from longtail.ranking.two_stage import Stage, training_rows
from longtail.retrieval import Retriever
from longtail.retrieval.base import CandidateSource
from longtail.retrieval.blend import Blend, fit_blend
from longtail.retrieval.content import content_matrix
from longtail.retrieval.sources import SourcesConfig, fit_sources
from longtail.retrieval.two_tower import TwoTowerConfig
from longtail.schema import DAY_US, EVENT_CODE
from longtail.yaml_model import dotted, written

Report = Callable[[str], None]
Count = Annotated[int, Field(ge=1)]
PAST = 0.25  # share of the log that must lie before a window, to learn its sources from


@dataclass(frozen=True)
class IncrementalConfig:
    """How an incremental training goes on from the champion; everything else is as in `TrainingConfig`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    windows: Count = 2  # newest training windows that the ranker goes on with
    rounds: Count = 60  # trees that are added to the champion's
    most_rounds: Count = 600  # with more than that in all, the ranker is grown anew on those windows
    tower_epochs: Count = 2
    tower_rate: Annotated[float, Field(gt=0, le=1)] = 0.3  # share of the learning rate of a training in full


@dataclass(frozen=True)
class TrainingConfig:
    """What a training run learns from, and how.

    A request of the past happens once per person and window (`window`), at each session's start (`session`) or before
    each event (`event`); choose what is nearest to how lists are asked for.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    unit: Unit = "session"
    windows: Count = 4
    window_days: Count = 7
    requests: Count = 8_000  # at most this many a window
    negatives: Annotated[float, Field(gt=0, le=1)] = 0.25  # share of the candidates nobody wanted that the ranker sees
    depth: Count = 120  # items each source proposes
    repeats: bool = True  # may an item that the person already has be shown again
    history: Count = 100  # newest events of a person that a request carries, in training as in serving
    known_only: bool = False  # leave out people without a history
    objective: Objective = "conversion"
    propensity_weights: bool = True
    sources: SourcesConfig = field(default_factory=SourcesConfig)
    two_tower: TwoTowerConfig = field(default_factory=lambda: TwoTowerConfig(half_life_days=30.0))
    ranker: RankerConfig = field(default_factory=RankerConfig)
    incremental: IncrementalConfig = field(default_factory=IncrementalConfig)
    seed: int = 0

    @staticmethod
    def parse(text: str) -> TrainingConfig:
        """The configuration of a JSON object; keys it leaves out keep their defaults.

        Raises:
            InvalidInput: not JSON, an unknown key, or a value of another type.
        """
        try:
            return TypeAdapter(TrainingConfig).validate_json(text or "{}")
        except ValidationError as error:
            first = error.errors()[0]
            where = dotted(written(first["loc"])) or "the text"
            raise InvalidInput(f"training configuration: {where}: {first['msg']}") from None


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

    def requests(self, start: int, stop: int, limit: int | None = None) -> tuple[Requests, Wanted]:
        """Requests of a window, at most `limit` (default: the configuration's), and what each led to."""
        c = self.config
        return requests_of_window(
            self.positives, self.gain, self.weight, self.shop.segment, start, stop, c.unit, c.repeats,
            limit or c.requests, c.seed, c.history, c.known_only, self.impressions(start, stop),
        )  # fmt: skip

    def past(self, time: int) -> tuple[Log, np.ndarray]:
        """What showed interest before `time`, and the weight float32 [N] of each event for the place it came from."""
        before = self.positives.time < time
        return self.positives.select(before), self.weight[before].astype(np.float32)

    def impressions(self, start: int, stop: int) -> Log | None:
        """What was on show in lists in [start, stop); None when the log says nothing of it."""
        log = self.shop.log
        found = log.select((log.kind == EVENT_CODE["impression"]) & (log.time >= start) & (log.time < stop))
        return found if len(found) else None

    def windows(self, skip: int = 0) -> list[tuple[int, int]]:
        """(start, stop) of the training windows, newest first, without the newest `skip`."""
        return list(zip(self.stamps[1:], self.stamps[:-1], strict=True))[skip:]


def prepare(shop: Shop, until: int, config: TrainingConfig) -> TrainingSet:
    """Gains, weights, content and snapshots for windows that end at `until` (microseconds, exclusive)."""
    log = shop.log.before(until)
    positives = log.positives
    if not len(positives):
        raise InvalidInput(
            "no event shows interest in an item (view, click, cart, purchase): there is nothing to learn"
        )
    catalogue = shop.catalogue.with_return_rate(return_rates(log, shop.catalogue.category))
    gain = gains(positives, config.objective, catalogue.price, catalogue.margin, catalogue.return_rate)
    theta = examination(log) if config.propensity_weights else np.empty(0)
    weight = self_normalised(inverse_propensity(positives.position, theta), positives.position)
    first = int(positives.time.min())
    stamps = [until - w * config.window_days * DAY_US for w in range(config.windows + 1)]
    stamps = [s for s in stamps if s - first >= (until - first) * PAST or s == until]
    content = content_matrix(shop.catalogue)
    taken = snapshots(log, shop.catalogue, stamps)
    return TrainingSet(shop, positives, gain, weight, content, taken, stamps, until, config)


@dataclass(frozen=True)
class Proposals:
    """What retrieval proposed for the requests of past windows, labelled: all that the ranker and the blend learn from.

    `scores`, `ranks` float32 [N, S] belong to the rows; `recall` is the share of wanted items that were proposed.
    """

    rows: TrainingRows
    scores: np.ndarray
    ranks: np.ndarray
    sources: list[str]
    recall: float


def propose(
    data: TrainingSet, shared: list[CandidateSource], windows: list[tuple[int, int]], report: Report
) -> Proposals:
    """Ask retrieval, as it was at the start of each window [(start, stop), ...], and label by what followed."""
    names: list[str] = []
    parts: list[Labelled] = []
    for number, (start, stop) in enumerate(windows, 1):
        stage = data.stage(start, shared)
        names = stage.retriever.names
        found = label(data, stage, start, stop)
        report(f"window {number} of {len(windows)}: {found.requests} requests, {len(found.rows.gain)} candidates, "
               f"{found.recall:.0%} of what was wanted is among them")  # fmt: skip
        parts.append(found)
    return joined(parts, names)


@dataclass(frozen=True)
class Labelled:
    """One window's share of `Proposals`; `requests` were asked in it."""

    rows: TrainingRows
    scores: np.ndarray
    ranks: np.ndarray
    recall: float
    requests: int


def label(data: TrainingSet, stage: Stage, start: int, stop: int) -> Labelled:
    """What `stage`, which must know nothing since `start`, proposes for the requests of [start, stop)."""
    requests, wanted = data.requests(start, stop)
    found = training_rows(stage, requests, wanted, data.config.negatives, None, data.config.seed)
    return Labelled(*found, len(requests))


def joined(windows: Sequence[Labelled], sources: list[str]) -> Proposals:
    """The windows as one.

    Raises:
        InvalidInput: no request of them led to an item that was proposed.
    """
    parts = [w for w in windows if len(w.rows.sizes)]
    if not parts:
        raise InvalidInput(
            "the ranker has nothing to learn from: no past request led to an item that was proposed; "
            "use more events, or longer windows"
        )
    columns = ("features", "gain", "sizes", "weight")
    rows = TrainingRows(*(np.concatenate([getattr(p.rows, c) for p in parts]) for c in columns))
    scores, ranks = np.concatenate([p.scores for p in parts]), np.concatenate([p.ranks for p in parts])
    return Proposals(rows, scores, ranks, sources, float(np.mean([p.recall for p in parts])))


def learn(proposals: Proposals, config: TrainingConfig) -> tuple[xgb.Booster, Blend]:
    """The ranker, and the blend that orders candidates before it."""
    return train_ranker(proposals.rows, feature_list(proposals.sources), config.ranker), learn_blend(proposals)


def learn_blend(proposals: Proposals) -> Blend:
    """The blend of what each source said of wanted and unwanted candidates."""
    return fit_blend(proposals.scores, proposals.ranks, proposals.rows.gain > 0)
