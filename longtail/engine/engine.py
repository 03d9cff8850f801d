"""One request through its stages, and the ladder it steps down when a stage is missing.

people -> candidates (retriever) -> features -> scores (ranker) -> re-ranking. Without the ranker the blended order of
the candidates is shown, without the retriever what is popular in the segment, then what is popular at all. Every list
passes the same filters.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from longtail.engine.feature_log import FeatureLog
from longtail.engine.parts import Bundle
from longtail.engine.people import People, PeopleStore, requests_of
from longtail.engine.schema import Instance, Item, Level, Recommendation
from longtail.errors import Unavailable
from longtail.events import Requests
from longtail.features.request import Pairs, assemble
from longtail.metrics import DEGRADED, LISTS, SHOWN, STAGE_SECONDS
from longtail.reranking import BoundRules, PersonView, Reranked, keep_mask, rerank
from longtail.retrieval.candidates import Candidates
from longtail.schema import EVENT_CODE

logger = logging.getLogger("longtail.engine")

POPULAR_REASON = "popular right now"
SEGMENT_REASON = "popular where you are"


class Retrieve(Protocol):
    """Candidates of a batch, the best `n` of each request, or `Unavailable`."""

    def __call__(self, requests: Requests, n: int) -> Awaitable[Candidates]: ...


class Score(Protocol):
    """Scores float32 [N] of features float32 [N, F], or `Unavailable`."""

    def __call__(self, features: np.ndarray) -> Awaitable[np.ndarray]: ...


@dataclass(frozen=True)
class EngineConfig:
    """`candidates` a request ranks; `variant` names the experiment arm that this engine serves."""

    candidates: int = 500
    variant: str = "champion"


@dataclass
class _Run:
    """One call on its way: what failed, and how long each stage took (milliseconds)."""

    causes: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    def failed(self, stage: str, error: Exception) -> None:
        cause = getattr(error, "cause", type(error).__name__)
        DEGRADED.labels(stage, cause).inc()
        self.causes.append(f"{stage}: {cause}")
        logger.warning("stage %s missing: %s", stage, error)

    def done(self, stage: str, start: float) -> float:
        now = time.perf_counter()
        STAGE_SECONDS.labels(stage).observe(now - start)
        self.timings[stage] = (now - start) * 1e3
        return now


@dataclass
class Engine:
    """Answers batches of instances. Time, randomness, stores and the two hops come in as arguments."""

    bundle: Bundle
    people: PeopleStore
    retrieve: Retrieve
    score: Score
    clock: Callable[[], int]
    rng: np.random.Generator
    config: EngineConfig = EngineConfig()
    feature_log: FeatureLog | None = None

    async def recommend(self, instances: Sequence[Instance]) -> list[Recommendation]:
        """A list for each instance. A missing part never raises: the level and the cause say what was missing."""
        run = _Run()
        start = begin = time.perf_counter()
        people = self._people(instances, run)
        segment = self._segments(instances, people)
        codes = [self.bundle.codes.get_indexer([e.item_id for e in i.context.events]) for i in instances]
        requests = requests_of(instances, people, codes, segment, self.clock())
        start = run.done("people", start)
        candidates = await self._candidates(requests, run)
        start = run.done("retriever", start)
        scores, features = None, None
        if candidates is not None:
            features = self._features(requests, people, candidates, run)
            start = run.done("features", start)
            scores = await self._scores(features, run)
            start = run.done("ranker", start)
        lists = [self._list(b, i, requests, candidates, scores, run) for b, i in enumerate(instances)]
        run.done("rerank", start)
        run.done("total", begin)
        if self.feature_log is not None and features is not None and candidates is not None:
            ids = [r.request_id for r in lists]
            self.feature_log.add(ids, [i.user_id for i in instances], requests, candidates, features)
        wanted = [i.trace or i.context.trace for i in instances]
        return [replace_timings(r, run.timings) if w else r for r, w in zip(lists, wanted, strict=True)]

    def _people(self, instances: Sequence[Instance], run: _Run) -> People:
        try:
            return self.people.read([i.user_id for i in instances])
        except Exception as error:  # noqa: BLE001 - a stage boundary: without the store everybody is a newcomer
            run.failed("people", error)
            return People.nobody(len(instances))

    def _segments(self, instances: Sequence[Instance], people: People) -> np.ndarray:
        asked = np.array([self.bundle.segment_code(i.context.region) for i in instances], np.int32)
        return np.where(asked >= 0, asked, people.segment).astype(np.int32)

    async def _candidates(self, requests: Requests, run: _Run) -> Candidates | None:
        try:
            return await self.retrieve(requests, self.config.candidates)
        except Exception as error:  # noqa: BLE001 - a stage boundary: popular items stand in
            run.failed("retriever", error)
            return None

    def _features(self, requests: Requests, people: People, candidates: Candidates, run: _Run) -> np.ndarray | None:
        try:
            pairs = Pairs(candidates.rows, candidates.items, candidates.scores, candidates.ranks)
            return assemble(requests, people.user, people.categories, self.bundle.items, pairs)
        except Exception as error:  # noqa: BLE001 - a stage boundary: the blended order stands in
            run.failed("features", error)
            return None

    async def _scores(self, features: np.ndarray | None, run: _Run) -> np.ndarray | None:
        if features is None:
            return None
        try:
            scores = await self.score(features)
        except Exception as error:  # noqa: BLE001 - a stage boundary: the blended order stands in
            run.failed("ranker", error)
            return None
        if scores.shape != (len(features),) or not np.isfinite(scores).all():
            run.failed("ranker", Unavailable("the ranker's answer has another shape or is not finite"))
            return None
        return scores

    def _person(self, instance: Instance, requests: Requests, b: int) -> PersonView:
        history = slice(requests.history.indptr[b], requests.history.indptr[b + 1])
        items = requests.history.item[history].astype(np.int64)
        bought = items[requests.history.kind[history] == EVENT_CODE["purchase"]]
        segment = int(requests.segment[b])
        names = self.bundle.fallback.segments
        region = instance.context.region or (names[segment] if 0 <= segment < len(names) else None)
        age = -1 if instance.context.age is None else instance.context.age
        return PersonView(self.bundle.view.region_code(region), age, bought, items)

    def _list(
        self, b: int, instance: Instance, requests: Requests, candidates: Candidates | None,
        scores: np.ndarray | None, run: _Run,
    ) -> Recommendation:  # fmt: skip
        person, now = self._person(instance, requests, b), int(requests.time[b])
        items: list[Item] = []
        trace: dict[str, Any] | None = {} if instance.trace or instance.context.trace else None
        level: Level = "popular"
        if candidates is not None:
            mine = slice(*np.searchsorted(candidates.rows, [b, b + 1]))
            worth = candidates.blend[mine] if scores is None else scores[mine]
            best = rerank(
                worth, candidates.items[mine], self.bundle.view, person, self.bundle.rules, self.rng, now, instance.k,
                linear_scores=scores is None,
            )  # fmt: skip
            sources = candidates.best[mine][best.order]
            items = self._items(
                best, [self.bundle.sources[s] for s in sources], [self.bundle.reasons[s] for s in sources]
            )
            level = "unranked" if scores is None else "full"
            if trace is not None:
                trace |= {"candidates": int(mine.stop - mine.start), "dropped": best.dropped}
                trace["rules"] = {i.item_id: list(names) for i, names in zip(items, best.rules_applied, strict=True)}
        if len(items) < instance.k:
            stand_in, rung = self._popular(
                int(requests.segment[b]), person, now, instance.k, {i.item_id for i in items}
            )
            level = level if items else rung
            items += stand_in
        LISTS.labels(level).inc()
        for item in items:
            SHOWN.labels(item.source).inc()
        return Recommendation(
            request_id=instance.context.request_id or uuid.uuid4().hex, items=items,
            model_version=self.bundle.manifest.version, variant=self.config.variant, level=level,
            cause="; ".join(run.causes) or None, trace=trace,
        )  # fmt: skip

    def _items(self, best: Reranked, sources: Sequence[str], reasons: Sequence[str]) -> list[Item]:
        ids = self.bundle.catalogue.item_ids[best.items]
        columns = zip(ids, best.scores.tolist(), sources, reasons, best.propensity.tolist(), strict=True)
        return [Item(item_id=i, score=s, source=n, reason=r, propensity=p) for i, s, n, r, p in columns]

    def _popular(self, segment: int, person: PersonView, now: int, k: int, shown: set[str]) -> tuple[list[Item], Level]:
        """Up to k - len(shown) popular items that are not shown yet: those of the segment, else those of everyone."""
        fallback = self.bundle.fallback
        mine = fallback.by_segment[segment] if 0 <= segment < len(fallback.by_segment) else np.empty(0, np.int64)
        rules = without_exploration(self.bundle.rules)
        ids, out = self.bundle.catalogue.item_ids, list[Item]()
        level: Level = "popular"
        taken = self.bundle.codes.get_indexer(list(shown)).astype(np.int64)
        for source, reason, listed in (
            ("popular_segment", SEGMENT_REASON, mine),
            ("popular", POPULAR_REASON, fallback.popular),
        ):
            left = k - len(shown) - len(out)
            if left <= 0:
                break
            listed = listed[~np.isin(listed, taken)]
            # The safety filters alone first: they make the long tail behind the popular items short.
            listed = listed[keep_mask(listed, self.bundle.view, person)][: 20 * k + 200]
            worth = -np.log1p(np.arange(len(listed), dtype=np.float32))
            best = rerank(worth, listed, self.bundle.view, person, rules, self.rng, now, left)
            if len(best.items) and not out and source == "popular_segment":
                level = "popular_segment"
            out += self._items(best, [source] * len(best.items), [reason] * len(best.items))
            taken = np.concatenate([taken, best.items])
        if not out and not shown:
            listed = fallback.popular[keep_mask(fallback.popular, self.bundle.view, person)][:k]
            out = [Item(item_id=ids[i], score=0.0, source="popular", reason=POPULAR_REASON) for i in listed]
        return out, level


def without_exploration(rules: BoundRules) -> BoundRules:
    """The same rules without random places: a stand-in list is not an experiment."""
    quiet = rules.rules.exploration.model_copy(update={"epsilon": 0.0})
    return replace(rules, rules=rules.rules.model_copy(update={"exploration": quiet}))


def replace_timings(given: Recommendation, timings: dict[str, float]) -> Recommendation:
    """The list with the milliseconds of each stage; a stage that ran for a whole batch shows the batch's time."""
    return given.model_copy(update={"timings_ms": {name: round(ms, 3) for name, ms in timings.items()}})
