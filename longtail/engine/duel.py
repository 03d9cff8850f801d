"""Two engines make one list by team draft: who is asked sees both, and clicks say whose items people want."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from longtail.engine.engine import Engine
from longtail.engine.experiment_log import Drafted, DraftLog
from longtail.engine.journal import report
from longtail.engine.people import micros
from longtail.engine.schema import Instance, Level, Recommendation
from longtail.engine.shown import exposures_of, listed
from longtail.experiments.interleaving import draft_chances, team_draft
from longtail.metrics import LISTS

RUNGS: tuple[Level, ...] = ("full", "unranked", "last_good", "popular_segment", "popular")


@dataclass(eq=False)
class Duel:
    """Answers as an engine does. Both lists are asked for at once; neither may explore, so that the draft's chances are
    exact. When one of the two is not full, the better one is shown as it is, and nothing is drafted.
    """

    experiment: str
    a: Engine
    b: Engine
    drafts: DraftLog | None = None

    async def recommend(self, instances: Sequence[Instance]) -> list[Recommendation]:
        """A list for each instance, see `Engine.recommend`."""
        start = time.perf_counter()
        of_a, of_b = await asyncio.gather(*[e.recommend(instances, probe=True) for e in (self.a, self.b)])
        out = []
        for instance, one, two in zip(instances, of_a, of_b, strict=True):
            both = one.level == two.level == "full" and "precomputed" not in (one.made, two.made)
            answer, team = self._drafted(one, two) if both else (min(one, two, key=_rung), [])
            out.append(answer)
            self._log(instance, answer, team)
            LISTS.labels(answer.variant, instance.surface, answer.level, answer.made).inc()
            report([answer], instance.surface, 1e3 * (time.perf_counter() - start))
        return out

    def _drafted(self, one: Recommendation, two: Recommendation) -> tuple[Recommendation, list[int]]:
        ids = list(dict.fromkeys(i.item_id for answer in (one, two) for i in answer.items))
        code = {item: n for n, item in enumerate(ids)}
        first, second = ([code[i.item_id] for i in answer.items] for answer in (one, two))
        k = max(len(first), len(second))
        drafted, teams = team_draft(_row(first, k), _row(second, k), k, self.a.rng)
        shown, team = drafted[0].tolist(), teams[0].tolist()
        by_code = [{code[i.item_id]: i for i in answer.items} for answer in (one, two)]
        chances = draft_chances(first, second, shown)
        # The scores of two rankers do not compare: the places do.
        items = [
            replace(by_code[t][c], score=-float(place), propensity=chance)
            for place, (c, t, chance) in enumerate(zip(shown, team, chances, strict=True))
        ]
        version = f"{one.model_version}+{two.model_version}"
        causes = "; ".join(dict.fromkeys(c for c in (one.cause, two.cause) if c)) or None
        answer = replace(one, items=items, model_version=version, cause=causes)
        return answer, team

    def _log(self, instance: Instance, answer: Recommendation, team: list[int]) -> None:
        context, named = instance.context, self.a.pseudonym
        user = None if instance.user_id is None else named(instance.user_id)
        now = self.a.clock() if context.timestamp is None else micros(context.timestamp)
        row = listed(answer, instance, user, now, self.a.bundle.segment_code(context.region), named)
        if self.a.impressions is not None:
            self.a.impressions.add([row])
        if not team or instance.surface not in self.a.exposes:
            return
        if self.a.exposures is not None:
            self.a.exposures.add(exposures_of(row, instance, self.a.exposes[instance.surface], self.a.bundle))
        if self.drafts is not None:
            at = row.user_id, row.session_id, row.request_id, row.surface
            self.drafts.add([Drafted(row.time, self.experiment, *at, row.items, team)])


def _row(codes: list[int], k: int) -> np.ndarray:
    return np.array([[*codes, *[-1] * (k - len(codes))]], np.int64)


def _rung(answer: Recommendation) -> int:
    return RUNGS.index(answer.level)
