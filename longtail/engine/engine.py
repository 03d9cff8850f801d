"""One request through its stages, and the ladder it steps down when a stage is missing.

people -> candidates (retriever), and features meanwhile -> scores (ranker) -> re-ranking. Without the ranker the
blended order of the candidates is shown; without the retriever the last good list of this person, then what is popular
in the segment, then what is popular at all. Every list passes the same filters. No stage is waited for longer than its
deadline, and the request as a whole not longer than its own.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from secrets import token_hex
from typing import TYPE_CHECKING

import numpy as np

from longtail.engine.asking import Asked, Pseudonym, resolve, surfaces_of, unchanged
from longtail.engine.breaker import Breaker
from longtail.engine.config import EngineConfig
from longtail.engine.drafts import Draft, filled, kept, ranked, reason_of
from longtail.engine.experiment_log import ExposureLog
from longtail.engine.exposure import Exposure
from longtail.engine.hops import Guard, Late
from longtail.engine.impressions import ImpressionLog
from longtail.engine.journal import report
from longtail.engine.kept import KeptList, Lru
from longtail.engine.limiter import Limiter, LimiterConfig
from longtail.engine.parts import Bundle
from longtail.engine.people import PeopleStore, requests_of
from longtail.engine.popular import Popular
from longtail.engine.ranking import Ranked, Ranking, Retrieve, Score
from longtail.engine.run import Run
from longtail.engine.schema import Instance, Item, Level, Recommendation
from longtail.engine.shown import exposures_of, impression_of, listed
from longtail.engine.trace import trace_of
from longtail.events import Histories, Requests
from longtail.metrics import IN_FLIGHT, KEPT, LISTS, SHOWN
from longtail.surfaces import BoundSurface, BoundSurfaces

if TYPE_CHECKING:
    from longtail.engine.lists import ListStore

NOTHING = np.empty(0, np.int64)
# By surface, the experiments (name, variant) that a list there is an exposure to.
Exposes = Mapping[str, Sequence[tuple[str, str]]]


@dataclass(eq=False)
class Engine:
    """Answers batches of instances. Time, randomness, stores and the two hops come in as arguments.

    `last_good` may be shared by engines, so that a new bundle has the lists of the old one.
    """

    bundle: Bundle
    people: PeopleStore
    retrieve: Retrieve
    score: Score
    clock: Callable[[], int]
    rng: np.random.Generator
    config: EngineConfig = EngineConfig()
    lists: ListStore | None = None
    pseudonym: Pseudonym = unchanged
    impressions: ImpressionLog | None = None
    last_good: Lru[KeptList] | None = None
    exposures: ExposureLog | None = None
    exposes: Exposes = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        config = self.config
        self._busy = _Busy()
        self._surfaces = self.bundle.surfaces
        self._popular = Popular(self.bundle)
        self._exposure = Exposure(len(self.bundle.catalogue))
        self._cache: Lru[KeptList] = Lru(config.cached)
        self._last_good: Lru[KeptList] = Lru(config.last_good) if self.last_good is None else self.last_good
        self.guards = {
            "retriever": self._guard("retriever", config.retriever_slots, config.retriever_ms),
            "ranker": self._guard("ranker", config.ranker_slots, config.ranker_ms),
            "lists": self._guard("lists", 2 * config.retriever_slots, config.lists_ms),
        }
        self._ranking = Ranking(
            self.bundle, self.people, self.retrieve, self.score, self.guards["retriever"], self.guards["ranker"],
            config.features_ms / 1e3, config.candidates,
        )  # fmt: skip

    def _guard(self, hop: str, slots: int, deadline_ms: float) -> Guard:
        limiter = Limiter(hop, LimiterConfig(slots, self.config.slot_wait_ms / 1e3))
        return Guard(Breaker(hop, self.config.breaker), limiter, deadline_ms / 1e3)

    @property
    def surfaces(self) -> BoundSurfaces:
        """The surfaces in force; setting others forgets the lists that were cached under the old ones."""
        return self._surfaces

    @surfaces.setter
    def surfaces(self, surfaces: BoundSurfaces) -> None:
        self._surfaces = surfaces
        self._cache = Lru(self.config.cached)

    def beside(self, variant: str, surfaces: BoundSurfaces, exposes: Exposes) -> Engine:
        """The same engine (parts, stores, limits) for other people: with surfaces and cached lists of their own."""
        other = copy.copy(self)
        other.config = replace(self.config, variant=variant)
        other.surfaces, other.exposes = surfaces, exposes
        return other

    @property
    def in_flight(self) -> int:
        """Calls that are being answered by this engine and those beside it."""
        return self._busy.calls

    async def recommend(self, instances: Sequence[Instance], probe: bool = False) -> list[Recommendation]:
        """A list for each instance. A missing part never raises: the level and the cause say what was missing.

        The list of a `probe` is shown to nobody: it is neither counted nor logged nor remembered.

        Raises:
            InvalidInput: an instance names a surface that there is not; the message names the field.
        """
        surfaces = surfaces_of(instances, self._surfaces)
        IN_FLIGHT.inc()
        self._busy.calls += 1
        try:
            if len(instances) == 1:
                return await self._answer(instances, surfaces[0], probe)
            places: dict[str, list[int]] = {}
            for n, surface in enumerate(surfaces):
                places.setdefault(surface.name, []).append(n)
            groups = [self._surface([instances[n] for n in p], surfaces[p[0]], probe) for p in places.values()]
            answers = dict(
                pair
                for p, group in zip(places.values(), await asyncio.gather(*groups), strict=True)
                for pair in zip(p, group, strict=True)
            )
            return [answers[n] for n in range(len(instances))]
        finally:
            self._busy.calls -= 1
            IN_FLIGHT.dec()

    async def _surface(self, instances: Sequence[Instance], surface: BoundSurface, probe: bool) -> list[Recommendation]:
        """The lists of one surface, `batch` at a time: a large call must not hold up the small ones."""
        size = self.config.batch
        parts = [instances[start : start + size] for start in range(0, len(instances), size)]
        return [answer for part in parts for answer in await self._answer(part, surface, probe)]

    async def _answer(self, instances: Sequence[Instance], surface: BoundSurface, probe: bool) -> list[Recommendation]:
        run = Run(asyncio.get_running_loop().time() + self.config.total_ms / 1e3)
        requests = await self._requests(instances, run)
        asked = resolve(instances, surface, requests, self.bundle, self._popular, self.pseudonym)
        drafts: list[Draft | None] = [None] * len(asked)
        if surface.made == "precomputed":
            drafts = [await self._stored(a, surface, run, "full") for a in asked]
        elif surface.cache_s > 0:
            drafts = [self._cached(a, surface) for a in asked]
        rest = [b for b, draft in enumerate(drafts) if draft is None]
        found = Ranked()
        if rest:
            part = requests if len(rest) == len(asked) else requests.take(np.array(rest))
            found = await self._ranking([asked[b] for b in rest], surface, part, run)
        start = time.perf_counter()
        places = {b: n for n, b in enumerate(rest)}
        slices = [_slice(found, places.get(b)) for b in range(len(asked))]
        for b, (a, mine) in enumerate(zip(asked, slices, strict=True)):
            draft = drafts[b] or self._draft(a, surface, found, mine, run) or await self._stand_in(a, surface, run)
            drafts[b] = filled(draft, a, surface, self.bundle, self._popular)
        run.took("rerank", start)
        run.took("total", run.begin)
        done = list(zip(asked, [d for d in drafts if d is not None], slices, strict=True))
        lists = [self._finish(a, draft, found, mine, run) for a, draft, mine in done]
        if not probe:
            # What is only for the books is done when the answer is on its way.
            asyncio.get_running_loop().call_soon(self._book, lists, done, surface, requests, found, run)
        return lists

    def _book(
        self, lists: Sequence[Recommendation], done: Sequence[tuple[Asked, Draft, slice]], surface: BoundSurface,
        requests: Requests, found: Ranked, run: Run,
    ) -> None:  # fmt: skip
        self._remember(done, surface)
        self._log(lists, done, requests, found)
        self._expose(lists, done, surface.name)
        report(lists, surface.name, run.timings["total"])

    async def _requests(self, instances: Sequence[Instance], run: Run) -> Requests:
        start, n = time.perf_counter(), len(instances)
        end = asyncio.get_running_loop().time() + self.config.people_ms / 1e3
        try:
            async with asyncio.timeout_at(min(run.until, end)):
                history, segment, causes = await self.people.histories([i.user_id for i in instances])
            run.causes += causes
        except Exception as error:  # noqa: BLE001 - a stage boundary: without the store everybody is a newcomer
            run.missing("people", Late("the histories came too late") if isinstance(error, TimeoutError) else error)
            history, segment = Histories.empty(n), np.full(n, -1, np.int32)
        sent = [self.bundle.segment_code(i.context.region) for i in instances]
        segment = np.where(np.array(sent) >= 0, sent, segment).astype(np.int32)
        events = [i.context.events for i in instances]
        codes = [self.bundle.codes.find([e.item_id for e in given]) if given else NOTHING for given in events]
        requests = requests_of(instances, history, codes, segment, self.clock())
        run.took("people", start)
        return requests

    def _cached(self, asked: Asked, surface: BoundSurface) -> Draft | None:
        """The list that an equal request got a moment ago."""
        if asked.instance.trace or asked.instance.context.trace:
            return None
        found = self._cache.get(asked.equal)
        draft = None
        if found is not None and 0 <= asked.now - found.time <= surface.cache_s * 1e6:
            draft = kept(found, asked, surface, self.bundle, "full", "cache")
        whole = draft is not None and found is not None and len(draft.items) == len(found.items)
        KEPT.labels("cache", "hit" if whole else "miss").inc()
        return draft if whole else None

    async def _stored(self, asked: Asked, surface: BoundSurface, run: Run, level: Level) -> Draft | None:
        """The list that was computed before for this person and surface."""
        lists, user = self.lists, asked.user
        if lists is None or user is None:
            return None
        try:
            found = await self.guards["lists"].call(lambda: lists.get(user, surface.name), run.until)
            KEPT.labels("stored", "miss" if found is None else "hit").inc()
            if found is None:
                return None
            columns = zip(found.items, found.scores, found.sources, strict=True)
            reasons = {source: reason_of(self.bundle, source) for source in set(found.sources)}
            items = [Item(i, score, source, reasons[source]) for i, score, source in columns]
            stored = KeptList(items, np.array(found.codes, np.int64), found.model_version, found.time_us)
            draft = kept(stored, asked, surface, self.bundle, level, "precomputed")
        except Exception as error:  # noqa: BLE001 - a stage boundary: the list is made now, whatever the store holds
            run.missing("lists", error)
            return None
        return draft if draft.items else None

    def _draft(self, asked: Asked, surface: BoundSurface, found: Ranked, mine: slice, run: Run) -> Draft | None:
        if found.candidates is None:
            return None
        try:
            draft = ranked(
                asked, surface, self.bundle, found.candidates, mine, found.scores, self.rng, self._exposure.counts,
                found.screened,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - a stage boundary: a list made before, or popular items, stand in
            run.missing("rerank", error)
            return None
        if not draft.items:
            asked.notes.append("candidates: none")
            return None
        return draft

    async def _stand_in(self, asked: Asked, surface: BoundSurface, run: Run) -> Draft | None:
        """The last good list of this person, from memory or from the store."""
        found = self._last_good.get(asked.key) if asked.key is not None else None
        if found is None:
            plain = not len(asked.anchors) and asked.category is None
            return await self._stored(asked, surface, run, "last_good") if plain else None
        KEPT.labels("last_good", "hit").inc()
        draft = kept(found, asked, surface, self.bundle, "last_good", "cache")
        return draft if draft.items else None

    def _remember(self, done: Sequence[tuple[Asked, Draft, slice]], surface: BoundSurface) -> None:
        """Count what is shown, and keep the good lists."""
        for asked, draft, _ in done:
            LISTS.labels(self.config.variant, surface.name, draft.level, draft.made).inc()
            self._exposure.add(draft.codes, asked.now)
            for source, n in Counter(item.source for item in draft.items).items():
                SHOWN.labels(source).inc(n)
            if draft.level != "full" or draft.made != "live":
                continue
            good = KeptList(draft.items, draft.codes, draft.version, asked.now)
            if asked.key is not None:
                self._last_good.put(asked.key, good)
            if surface.cache_s > 0:
                self._cache.put(asked.equal, good)

    def _finish(self, asked: Asked, draft: Draft, found: Ranked, mine: slice, run: Run) -> Recommendation:
        context = asked.instance.context
        causes = [*run.causes, *asked.notes, *draft.causes]
        timings = trace = None
        if asked.instance.trace or context.trace:
            timings = {name: round(ms, 3) for name, ms in run.timings.items()}
            sources = self.bundle.sources
            trace = trace_of(draft, run, sources, found.candidates, mine, found.scores, found.features)
        return Recommendation(
            context.request_id or token_hex(16), draft.items, draft.version, self.config.variant, draft.level,
            draft.made, "; ".join(dict.fromkeys(causes)) or None, timings, trace,
        )  # fmt: skip

    def ages(self) -> dict[str, float]:
        """Seconds since the model and the index were made, and since the moment that the features know of."""
        made = datetime.fromisoformat(self.bundle.manifest.created)
        trained = (datetime.now(UTC) - (made if made.tzinfo else made.replace(tzinfo=UTC))).total_seconds()
        return {"model": trained, "index": trained, "features": (self.clock() - self.bundle.as_of) / 1e6}

    async def close(self) -> None:
        """Let go of the hops' connections and the stores that are this engine's own."""
        for part in (self.retrieve, self.score, self.people):
            if hasattr(part, "close"):
                await part.close()

    def _log(
        self, lists: Sequence[Recommendation], done: Sequence[tuple[Asked, Draft, slice]], requests: Requests,
        found: Ranked,
    ) -> None:  # fmt: skip
        if self.impressions is None:
            return
        rows = []
        for b, (answer, (a, draft, mine)) in enumerate(zip(lists, done, strict=True)):
            items = NOTHING if found.candidates is None else found.candidates.items[mine]
            features = None if found.features is None else found.features[mine]
            keep = self.impressions.features
            rows.append(impression_of(answer, a, draft, requests, b, items, features, keep, self.pseudonym))
        self.impressions.add(rows)

    def _expose(
        self, lists: Sequence[Recommendation], done: Sequence[tuple[Asked, Draft, slice]], surface: str
    ) -> None:
        """Log who met a variant. A list below the full rung, or made before by no variant, is nobody's exposure."""
        to = self.exposes.get(surface)
        if not to or self.exposures is None:
            return
        for answer, (asked, draft, _) in zip(lists, done, strict=True):
            if draft.level == "full" and draft.made != "precomputed":
                row = listed(answer, asked.instance, asked.user, asked.now, asked.segment, self.pseudonym)
                self.exposures.add(exposures_of(row, asked.instance, to, self.bundle))


@dataclass
class _Busy:
    """Calls in flight, counted for an engine and all beside it."""

    calls: int = 0


def _slice(found: Ranked, place: int | None) -> slice:
    """The candidates of the request at `place` of the ranked batch."""
    if found.candidates is None or place is None:
        return slice(0, 0)
    start, stop = np.searchsorted(found.candidates.rows, [place, place + 1])
    return slice(int(start), int(stop))
