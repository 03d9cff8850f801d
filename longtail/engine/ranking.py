"""From requests to scored candidates: the two hops, and what can be done while they fly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from longtail.engine.asking import Asked, narrowed, question
from longtail.engine.hops import Guard, Late
from longtail.engine.parts import Bundle
from longtail.engine.people import PeopleStore, unknown_features
from longtail.engine.run import Run
from longtail.errors import Unavailable
from longtail.events import Requests
from longtail.features.batch import UserCategory
from longtail.features.request import Pairs, Prepared, prepare
from longtail.reranking.filters import screen
from longtail.retrieval.candidates import Ask, Candidates
from longtail.surfaces import BoundSurface

UserFeatures = tuple[dict[str, np.ndarray], UserCategory]


class Retrieve(Protocol):
    """Candidates of a batch, the best `ask.n` of each request, or `Unavailable`."""

    def __call__(self, requests: Requests, ask: Ask) -> Awaitable[Candidates]: ...


class Score(Protocol):
    """Scores float32 [N] of features float32 [N, F], or `Unavailable`."""

    def __call__(self, features: np.ndarray) -> Awaitable[np.ndarray]: ...


class Malformed(Unavailable):
    """An answer that cannot be used."""

    cause = "malformed"


@dataclass(frozen=True)
class Ranked:
    """Candidates of a batch, their `scores` float32 [N] and `features` float32 [N, F], and what `screen` said of them
    int8 [N]; None for what is missing.
    """

    candidates: Candidates | None = None
    scores: np.ndarray | None = None
    features: np.ndarray | None = None
    screened: np.ndarray | None = None


async def _sent() -> None:
    """Once for a hop's task, which asks, once for the loop, which sends: other work is done meanwhile."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@dataclass(frozen=True)
class Ranking:
    """The two hops behind their guards, and the store of user features."""

    bundle: Bundle
    people: PeopleStore
    retrieve: Retrieve
    score: Score
    retriever: Guard
    ranker: Guard
    features_s: float
    candidates: int

    async def __call__(self, asked: Sequence[Asked], surface: BoundSurface, requests: Requests, run: Run) -> Ranked:
        """Rank the candidates of one surface's requests; what goes missing on the way is noted in `run`."""
        wants_scores = surface.order == "ranker"
        hop: asyncio.Future = asyncio.ensure_future(self._candidates(asked, surface, requests, run))
        try:
            await _sent()
            early = wants_scores and not hop.done()
            prepared = await self._prepared(asked, requests, run) if early else None
            candidates = await hop
        finally:
            hop.cancel()
        if candidates is None or not wants_scores:
            return Ranked(candidates)
        if not early:
            prepared = await self._prepared(asked, requests, run)
        features = self._features(prepared, candidates, run)
        hop = asyncio.ensure_future(self._scores(features, run))
        try:
            await _sent()
            screened = self._screened(asked, surface, candidates)
            return Ranked(candidates, await hop, features, screened)
        finally:
            hop.cancel()

    async def _candidates(
        self, asked: Sequence[Asked], surface: BoundSurface, requests: Requests, run: Run
    ) -> Candidates | None:
        start = time.perf_counter()
        try:
            sent, ask = question(requests, asked, surface, self.candidates)
            found = await self.retriever.call(lambda: self.retrieve(sent, ask), run.until)
            found = narrowed(found, asked, self.bundle, surface.candidates or self.candidates)
            run.hops["retriever"] = "ok"
            return found
        except Exception as error:  # noqa: BLE001 - a stage boundary: a list made before, or popular items, stand in
            run.missing("retriever", error)
            return None
        finally:
            run.took("retriever", start)

    async def _prepared(self, asked: Sequence[Asked], requests: Requests, run: Run) -> Prepared | None:
        start = time.perf_counter()
        try:
            return prepare(requests, *await self._known(asked, run), self.bundle.items)
        except Exception as error:  # noqa: BLE001 - a stage boundary: the blended order stands in
            run.missing("features", error)
            return None
        finally:
            run.took("features", start)

    async def _known(self, asked: Sequence[Asked], run: Run) -> UserFeatures:
        end = asyncio.get_running_loop().time() + self.features_s
        try:
            async with asyncio.timeout_at(min(run.until, end)):
                return await self.people.features([a.instance.user_id for a in asked])
        except TimeoutError:
            run.missing("features", Late("the person's features came too late"))
        except Exception as error:  # noqa: BLE001 - a stage boundary: to the ranker everybody is a newcomer
            run.missing("features", error)
        return unknown_features(len(asked))

    def _features(self, prepared: Prepared | None, candidates: Candidates, run: Run) -> np.ndarray | None:
        if prepared is None:
            return None
        start = time.perf_counter()
        try:
            return prepared.rows(Pairs(candidates.rows, candidates.items, candidates.scores, candidates.ranks))
        except Exception as error:  # noqa: BLE001 - a stage boundary: the blended order stands in
            run.missing("features", error)
            return None
        finally:
            run.took("features", start)

    async def _scores(self, features: np.ndarray | None, run: Run) -> np.ndarray | None:
        if features is None:
            return None
        start = time.perf_counter()
        try:
            scores = await self.ranker.call(lambda: self._checked(features), run.until)
            run.hops["ranker"] = "ok"
            return scores
        except Exception as error:  # noqa: BLE001 - a stage boundary: the blended order stands in
            run.missing("ranker", error)
            return None
        finally:
            run.took("ranker", start)

    def _screened(self, asked: Sequence[Asked], surface: BoundSurface, candidates: Candidates) -> np.ndarray | None:
        bounds = np.searchsorted(candidates.rows, np.arange(len(asked) + 1))
        try:
            parts = [
                screen(candidates.items[bounds[b] : bounds[b + 1]], self.bundle.view, a.person, surface.rules, a.now)
                for b, a in enumerate(asked)
            ]
        except Exception:  # noqa: BLE001 - re-ranking screens what is not screened, and tells what goes wrong
            return None
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    async def _checked(self, features: np.ndarray) -> np.ndarray:
        scores = await self.score(features)
        if scores.shape != (len(features),) or not np.isfinite(scores).all():
            raise Malformed("the ranker's answer has another shape or is not finite")
        return scores
