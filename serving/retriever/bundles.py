"""The bundles that a retriever holds: those of its deployment, and those that somebody still asks for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from longtail.engine.bundle import verify
from longtail.engine.deployment import Deployment, DeploymentWatch
from longtail.errors import LongtailError
from longtail.events import Histories, Requests
from longtail.metrics import BUNDLE_REFUSED, BUNDLE_TAKEN
from longtail.retrieval import Retriever

logger = logging.getLogger("longtail.retriever")

SERVER = "retriever"
# A recommender that refused the new deployment goes on asking for the old one: its probes alone come more often.
KEEP_S = 60.0


@dataclass
class Held:
    """The sources of one bundle, ready to propose, and when somebody last asked for it (by the clock of `Bundles`)."""

    version: str
    folder: Path
    n_items: int
    retriever: Retriever
    asked: float = field(default=0.0)

    @staticmethod
    def load(folder: Path) -> Held:
        """Verify a bundle, load its sources, and answer one request with them.

        Raises:
            InvalidBundle: a part of the bundle is missing, altered, or does not fit.
        """
        manifest = verify(folder)
        n_items = pq.read_metadata(folder / "catalogue" / "items.parquet").num_rows
        retriever = Retriever.load(folder / "retrieval")
        now = np.array([time.time_ns() // 1000])
        nobody = np.array([-1], np.int32)
        retriever.candidates(Requests(now, nobody, nobody, Histories.empty(1)), 10)
        return Held(manifest.version, Path(folder), n_items, retriever)


class Bundles:
    """By version. A new one is loaded beside the old ones; a bad one changes nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, Held] = {}
        self._named: frozenset[Path] = frozenset()

    @property
    def versions(self) -> list[str]:
        """What is held, the longest held first."""
        return list(self._held)

    def find(self, version: str | None) -> Held | None:
        """The bundle of a version, the first one held for None; None where it is not held."""
        found = self._held.get(version) if version else next(iter(self._held.values()), None)
        if found is not None:
            found.asked = self._clock()
        return found

    def start(self, deployment: Deployment, before: Deployment | None = None) -> None:
        """Load the bundles of a deployment before serving, and where none can be, those of what served `before`.

        Raises:
            LongtailError: none can be loaded; the error is the first one's.
        """
        errors = self._take(deployment)
        if not self._held:
            if before is None:
                raise errors[0]
            self.start(before)

    async def follow(self, watch: DeploymentWatch, every_s: float = 1.0) -> None:
        """Hold what the deployment file names, until cancelled."""
        while True:
            try:
                found = watch.changed()
                if found is not None:
                    await asyncio.to_thread(self._take, found)
            except Exception as error:  # noqa: BLE001 - whatever is offered, what runs goes on
                _refused("the deployment file", error)
            self.drop()
            await asyncio.sleep(every_s)

    def drop(self) -> None:
        """Let go of what the deployment no longer names and nobody has asked for in `KEEP_S`."""
        now = self._clock()
        gone = [v for v, held in self._held.items() if held.folder not in self._named and now - held.asked > KEEP_S]
        for version in gone[: len(self._held) - 1]:  # the last one stays, whatever the file says
            logger.info("lets go of bundle %s", version)
            del self._held[version]

    def _take(self, deployment: Deployment) -> list[LongtailError]:
        """Load what is not held yet; what could not be."""
        errors = []
        there = {held.folder for held in self._held.values()}
        for folder in [f for f in deployment.bundles if f not in there]:
            try:
                held = Held.load(folder)
            except LongtailError as error:
                _refused(str(folder), error)
                errors.append(error)
                continue
            held.asked = self._clock()
            self._held = {**self._held, held.version: held}
            BUNDLE_TAKEN.labels(SERVER).inc()
            logger.info("holds bundle %s", held.version)
        self._named = frozenset(deployment.bundles)
        return errors


def _refused(offered: str, error: Exception) -> None:
    BUNDLE_REFUSED.labels(SERVER).inc()
    why = str(error) if isinstance(error, LongtailError) else f"{type(error).__name__}: {error}"
    logger.error("not taken: %s: %s", offered, why)
