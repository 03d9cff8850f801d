"""Opens bundles for the recommender: verified and laid out by a process of its own while others are served."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longtail.engine.asking import Pseudonym, unchanged
from longtail.engine.config import EngineConfig
from longtail.engine.engine import Engine
from longtail.engine.experiment_log import ExposureLog
from longtail.engine.impressions import ImpressionLog
from longtail.engine.kept import KeptList, Lru
from longtail.engine.lists import ListStore
from longtail.engine.online import StoredPeople, lay_out
from longtail.engine.parts import Bundle
from longtail.engine.warm import warm
from longtail.errors import InvalidBundle, LongtailError
from longtail.features.live import LiveStore
from longtail.features.live_shifted import ShiftedLive
from longtail.surfaces import Surfaces
from serving.recommender.hops import RankerHop, RetrieverHop

logger = logging.getLogger("longtail.recommender")
PREPARE_S = 3600.0
MANY_PEOPLE = 20_000


def clock_of(kind: str, as_of: int) -> Callable[[], int]:
    """Microseconds since 1970, of the wall or continuing from where the data ends (for shops of the past)."""
    if kind == "wall":
        return lambda: time.time_ns() // 1000
    start = time.monotonic_ns()
    return lambda: as_of + (time.monotonic_ns() - start) // 1000


@dataclass
class Opener:
    """Makes the engine of a bundle folder, with everything that engines share.

    `beside` is set once requests are served: from then on a bundle is verified and its people are laid out by another
    process, because both would hold this one's interpreter. So is a bundle of many people at the start, for the memory.
    """

    state: Path
    retriever: str
    ranker: str
    config: EngineConfig
    clock: str = "wall"
    pseudonym: Pseudonym = unchanged
    live: LiveStore | None = None
    lists: ListStore | None = None
    impressions: ImpressionLog | None = None
    surfaces: Callable[[], Surfaces | None] = lambda: None
    seed: int | None = None
    beside: bool = False
    exposures: ExposureLog | None = None

    def __post_init__(self) -> None:
        self._last_good: Lru[KeptList] = Lru(self.config.last_good)

    def __call__(self, folder: Path, variant: str) -> Engine:
        """Open a bundle; the hops connect when they are first used.

        Raises:
            InvalidBundle: a part is missing, altered, unreadable, or does not fit the others.
            InvalidInput: its surfaces have mistakes.
        """
        beside = self.beside or many_people(folder)
        if beside:
            prepare_beside(folder, self.state)
        bundle = Bundle.open(folder, contents=not beside)
        clock = clock_of(self.clock, bundle.as_of)
        live = self.live
        if live is not None and self.clock == "data":
            live = ShiftedLive(live, time.time_ns() // 1000 - clock())  # what is done today belongs to that clock's now
        people = StoredPeople(bundle, lay_out(bundle, self.state), self.pseudonym, live)
        given = {name: getattr(self.config, name) for name in self.config.__dataclass_fields__}
        engine = Engine(
            bundle=bundle, people=people,
            retrieve=RetrieverHop(self.retriever, bundle),
            score=RankerHop(self.ranker, bundle),
            clock=clock, rng=np.random.default_rng(self.seed),
            config=EngineConfig(**given | {"variant": variant}), lists=self.lists, pseudonym=self.pseudonym,
            impressions=self.impressions, last_good=self._last_good, exposures=self.exposures,
        )  # fmt: skip
        surfaces = self.surfaces()
        if surfaces is not None:
            engine.surfaces = surfaces.bind(bundle.catalogue, bundle.sources)
        for warning in engine.surfaces.warnings:
            logger.warning("%s: surface %s", variant, warning)
        warm(engine)
        return engine


def many_people(folder: Path) -> bool:
    """Whether laying out a bundle's people would leave this process with much memory that it never needs again."""
    try:
        return pq.read_metadata(folder / "users.parquet").num_rows > MANY_PEOPLE
    except (OSError, pa.ArrowException):
        return False  # whoever opens the bundle says what is wrong with it


def prepare_beside(folder: Path, state: Path) -> None:
    """Verify a bundle and lay out its people in a process of low priority.

    Raises:
        InvalidBundle: what that process found wrong.
    """
    words = [sys.executable, "-m", "serving.recommender.opening", str(folder), str(state)]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PREPARE_S, check=False
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InvalidBundle(f"{folder} could not be prepared: {error}") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"ended with code {done.returncode}"]
        raise InvalidBundle(said[-1])


def prepare(arguments: Sequence[str] | None = None) -> None:
    """`python -m serving.recommender.opening BUNDLE STATE`: what `prepare_beside` runs."""
    parser = argparse.ArgumentParser(prog="serving.recommender.opening", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("state", type=Path)
    given = parser.parse_args(arguments)
    try:
        lay_out(Bundle.open(given.bundle), given.state)
    except LongtailError as error:
        sys.exit(" ".join(str(error).split()))


if __name__ == "__main__":
    from serving.lean import keep_out

    # Here, and not between fork and exec, where the threads of a server may hold a lock for ever.
    os.nice(10)
    keep_out()
    prepare()
