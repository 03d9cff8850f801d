"""Lists made before anybody asks, by the engine that answers requests, with its two hops called in this process.

What comes out is what a request at that moment would get on the full rung, without exploration: a list that waits for
its reader for hours is no place to sample.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longtail.engine.baked import BakedPeople
from longtail.engine.config import EngineConfig
from longtail.engine.engine import Engine
from longtail.engine.ids import IdTable
from longtail.engine.lists import ListStore, StoredList
from longtail.engine.parts import Bundle
from longtail.engine.people import PeopleStore
from longtail.engine.ranking import Retrieve, Score
from longtail.engine.schema import Instance, Recommendation
from longtail.errors import InvalidBundle, InvalidInput, Unavailable
from longtail.events import Requests
from longtail.retrieval.candidates import Ask, Candidates
from longtail.surfaces import BoundSurface, BoundSurfaces

CHUNK = 128  # people whose lists are made together: bounds memory, changes no list
SCHEMA = pa.schema(
    [
        ("user_id", pa.string()), ("surface", pa.string()), ("items", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())), ("sources", pa.list_(pa.string())), ("reasons", pa.list_(pa.string())),
        ("model_version", pa.string()), ("time", pa.timestamp("us", "UTC")),
    ]
)  # fmt: skip
# Nobody waits for a list: one that is late means that something is broken, and the run ends.
PATIENT_MS = 24 * 3600 * 1000.0
NOTHING_LEFT = "filters: nothing left"  # the engine's note on a list that only safety and the block list made

MadeList = tuple[str, Recommendation]


@dataclass(frozen=True)
class Precomputed:
    """How a surface went: `lists` in the file `path`, and people `without` one, for whom a request makes it."""

    surface: str
    path: Path
    lists: int
    without: int


def local_hops(bundle: Bundle) -> tuple[Retrieve, Score]:
    """The bundle's retriever and ranker, called in this process.

    Raises:
        InvalidBundle: one of them cannot be read.
    """
    import xgboost

    from longtail.retrieval import Retriever

    retriever = Retriever.load(bundle.folder / "retrieval")
    model = bundle.folder / "ranker" / bundle.ranker / "1" / "xgboost.ubj"
    try:
        booster = xgboost.Booster(model_file=model)
    except (OSError, xgboost.core.XGBoostError) as error:
        raise InvalidBundle(f"{model} cannot be read ({type(error).__name__}): train again") from error

    async def retrieve(requests: Requests, ask: Ask) -> Candidates:
        return retriever.candidates(requests, ask.n, ask.also, ask.weights)

    async def score(features: np.ndarray) -> np.ndarray:
        if not len(features):
            return np.empty(0, np.float32)
        return np.ascontiguousarray(booster.inplace_predict(features), np.float32).reshape(-1)

    return retrieve, score


def engine_of(
    bundle: Bundle, people: PeopleStore, hops: tuple[Retrieve, Score], now: int,
    candidates: int = EngineConfig.candidates, surfaces: BoundSurfaces | None = None, chunk: int = CHUNK,
) -> Engine:  # fmt: skip
    """The engine that makes lists for one moment, `now` (microseconds since 1970).

    It waits as long as it takes, explores nothing and remembers nothing. `people` reads by stored ids (pseudonyms).
    """
    config = EngineConfig(
        candidates=candidates, total_ms=PATIENT_MS, people_ms=PATIENT_MS, retriever_ms=PATIENT_MS,
        features_ms=PATIENT_MS, ranker_ms=PATIENT_MS, slot_wait_ms=PATIENT_MS, batch=chunk, last_good=0, cached=0,
    )  # fmt: skip
    engine = Engine(bundle, people, *hops, clock=lambda: now, rng=np.random.default_rng(0), config=config)
    engine.surfaces = quiet(surfaces or bundle.surfaces)
    return engine


def quiet(surfaces: BoundSurfaces) -> BoundSurfaces:
    """The same surfaces without exploration."""
    return BoundSurfaces({name: _quiet(surfaces[name]) for name in surfaces}, surfaces.warnings)


def _quiet(surface: BoundSurface) -> BoundSurface:
    rules = surface.rules.rules
    calm = rules.model_copy(update={"exploration": rules.exploration.model_copy(update={"epsilon": 0.0})})
    return replace(surface, rules=replace(surface.rules, rules=calm))


def surfaces_to_make(surfaces: BoundSurfaces, names: Sequence[str] = ()) -> list[BoundSurface]:
    """The named surfaces; without names those that the file calls `made: precomputed`.

    Raises:
        InvalidInput: there is no such surface, or its lists depend on what a request says.
    """
    chosen = [surfaces[name] for name in names or [n for n in surfaces if surfaces[n].made == "precomputed"]]
    if not chosen:
        raise InvalidInput("no surface is `made: precomputed`: name one with --surface")
    for surface in chosen:
        if surface.anchor == "items" or surface.within is not None:
            raise InvalidInput(f"surface {surface.name}: its lists depend on the request's items or category")
    return chosen


def everybody(bundle: Path) -> tuple[int, Iterator[str]]:
    """How many people a bundle folder knows, and their stored ids; read from the mapped file as they are needed."""
    ids = BakedPeople.open(bundle).ids.ids
    return len(ids), (raw.decode("utf-8", "surrogatepass") for raw in ids)


async def make(
    engine: Engine, surface: str, users: Iterable[str], k: int | None = None, chunk: int = CHUNK
) -> AsyncIterator[tuple[int, list[MadeList]]]:
    """The lists of one surface by stored user id, a chunk at a time: (people of the chunk, the lists made for them).

    Raises:
        Unavailable: a stage failed; the message names it.
    """
    remaining = iter(users)
    while part := list(islice(remaining, chunk)):
        answers = await engine.recommend([Instance(user_id=user, surface=surface, k=k) for user in part])
        made = []
        for user, answer in zip(part, answers, strict=True):
            if answer.cause not in (None, NOTHING_LEFT):
                raise Unavailable(f"{surface}: a stage of the engine failed ({answer.cause}): no list is written")
            if answer.level == "full" and answer.cause is None:
                made.append((user, answer))
        yield len(part), made


async def precompute(
    engine: Engine, surface: BoundSurface, users: Iterable[str], out: Path, store: ListStore | None = None,
    k: int | None = None, progress: Callable[[int], None] = lambda done: None,
) -> Precomputed:  # fmt: skip
    """Write the lists of one surface to `<out>/<surface>.parquet` and, chunk by chunk, to the store.

    The file appears when it is whole, in the place of the one before it. The store has every list as soon as it is
    made: each is whole by itself, and one of a run that was killed is newer than what it replaced. `progress` hears how
    many people are done.
    """
    now, done, lists = engine.clock(), 0, 0
    path = Path(out) / f"{surface.name}.parquet"
    with _whole(path) as beside, pq.ParquetWriter(beside, SCHEMA, compression="zstd") as file:
        async for people, made in make(engine, surface.name, users, k, engine.config.batch):
            if made:
                file.write_table(_table(made, surface.name, now))
                if store is not None:
                    codes = engine.bundle.codes
                    await store.put([(user, surface.name, _stored(answer, now, codes)) for user, answer in made])
            done, lists = done + people, lists + len(made)
            progress(done)
    return Precomputed(surface.name, path, lists, done - lists)


def _stored(answer: Recommendation, now: int, codes: IdTable) -> StoredList:
    """A list as a store keeps it, made at `now` (microseconds) by a bundle with these item codes."""
    ids = [i.item_id for i in answer.items]
    scores, sources = [i.score for i in answer.items], [i.source for i in answer.items]
    return StoredList(ids, scores, sources, answer.model_version, now, codes.find(ids).tolist())


def _table(made: Sequence[MadeList], surface: str, now: int) -> pa.Table:
    answers = [answer for _, answer in made]
    columns = [
        [user for user, _ in made], [surface] * len(made), [[i.item_id for i in a.items] for a in answers],
        [[i.score for i in a.items] for a in answers], [[i.source for i in a.items] for a in answers],
        [[i.reason for i in a.items] for a in answers], [a.model_version for a in answers], [now] * len(made),
    ]  # fmt: skip
    arrays = [pa.array(values, of.type) for values, of in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, put in its place at the end; a run that fails leaves what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
