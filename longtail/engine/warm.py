"""A first answer that nobody waits for: what an engine makes on first use is made before requests come."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from longtail.engine.engine import Engine
from longtail.engine.people import unknown_features
from longtail.engine.schema import Context, Instance, SessionEvent
from longtail.events import Histories, Requests
from longtail.features.batch import UserCategory
from longtail.retrieval.candidates import Ask, Candidates

SOME = 50
PATIENT_MS = 600_000.0


class _Nobody:
    async def histories(self, user_ids: Sequence[str | None]) -> tuple[Histories, np.ndarray, list[str]]:
        return Histories.empty(len(user_ids)), np.full(len(user_ids), -1, np.int32), []

    async def features(self, user_ids: Sequence[str | None]) -> tuple[dict[str, np.ndarray], UserCategory]:
        return unknown_features(len(user_ids))


async def _flat(features: np.ndarray) -> np.ndarray:
    return np.zeros(len(features), np.float32)


def warm(engine: Engine) -> None:
    """Answer a newcomer and a guest with a click, without hops and stores; blocks, and may run in any thread."""
    bundle = engine.bundle
    items = np.sort(bundle.fallback.popular[:SOME])
    if not len(items):
        return

    async def some(requests: Requests, ask: Ask) -> Candidates:
        rows = np.repeat(np.arange(len(requests)), len(items))
        said = np.zeros((len(rows), len(bundle.sources)), np.float32)
        flat = np.zeros(len(rows), np.float32)
        return Candidates(rows, np.tile(items, len(requests)), said, said, flat, np.zeros(len(rows), np.int64))

    patient = replace(
        engine.config, total_ms=PATIENT_MS, people_ms=PATIENT_MS, retriever_ms=PATIENT_MS, features_ms=PATIENT_MS,
        ranker_ms=PATIENT_MS,
    )  # fmt: skip
    quiet = replace(engine, people=_Nobody(), retrieve=some, score=_flat, lists=None, impressions=None, config=patient)
    quiet.surfaces = engine.surfaces
    click = SessionEvent(item_id=bundle.catalogue.ids_of(items[:1])[0])
    asked = [Instance(), Instance(context=Context(events=(click,), region=next(iter(bundle.fallback.segments), None)))]
    asyncio.run(quiet.recommend(asked, probe=True))
