"""The engine with its hops called in this process: the real retriever and booster, without servers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import xgboost

from longtail.engine.config import EngineConfig
from longtail.engine.engine import Engine
from longtail.engine.online import StoredPeople, lay_out
from longtail.engine.parts import Bundle
from longtail.engine.schema import Recommendation, parse
from longtail.engine.wire import pack_ask, pack_candidates, unpack_ask, unpack_candidates
from longtail.errors import Unavailable
from longtail.retrieval import Retriever

# Settings of an engine that waits for its parts however slow the machine is.
PATIENT = dict.fromkeys(("total_ms", "people_ms", "retriever_ms", "features_ms", "ranker_ms", "lists_ms"), 60_000.0)


def parts_of(folder: Path, state: Path):
    """(bundle, people, retrieve, score) of a bundle folder; what travels over the wire is packed and unpacked."""
    bundle = Bundle.open(folder)
    retriever = Retriever.load(folder / "retrieval")
    booster = xgboost.Booster(model_file=folder / "ranker" / bundle.ranker / "1" / "xgboost.ubj")

    async def retrieve(requests, ask):
        sent, ask = unpack_ask(pack_ask(requests, ask), len(bundle.catalogue), len(bundle.sources))
        found = retriever.candidates(sent, ask.n, ask.also, ask.weights)
        return unpack_candidates(pack_candidates(found), len(bundle.sources))

    async def score(features):
        return booster.inplace_predict(features)

    return bundle, StoredPeople(bundle, lay_out(bundle, state)), retrieve, score


def engine_of(parts, **settings) -> Engine:
    """An engine that stands at the moment when the bundle's data ends."""
    bundle, people, retrieve, score = parts
    config = EngineConfig(**{"candidates": 50} | settings)
    return Engine(bundle, people, retrieve, score, lambda: bundle.as_of, np.random.default_rng(0), config)


def ask(engine, *instances: dict) -> list[Recommendation]:
    """One call."""
    return asyncio.run(engine.recommend(parse({"instances": list(instances)}).instances))


def ids(answer: Recommendation) -> list[str]:
    """The items, best first."""
    return [item.item_id for item in answer.items]


async def dead(*given):
    """A hop that is down."""
    raise Unavailable("killed")


async def stalled(*given):
    """A hop that never answers."""
    await asyncio.sleep(30)
