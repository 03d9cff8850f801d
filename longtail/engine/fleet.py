"""Several bundles side by side, each for its share of the people, and a new one that takes over while requests run."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtail.engine.breaker import STATES
from longtail.engine.deployment import Deployment, DeploymentWatch, Variant
from longtail.engine.engine import Engine
from longtail.engine.schema import Instance, Recommendation
from longtail.errors import InvalidBundle, LongtailError
from longtail.experiments.assignment import place
from longtail.metrics import AGE, BREAKER, BUNDLE_REFUSED, BUNDLE_TAKEN

logger = logging.getLogger("longtail.fleet")

SERVER = "recommender"
TRY_EVERY_S = 0.2
DRAIN_S = 60.0
Open = Callable[[Path, str], Engine]


@dataclass(frozen=True)
class Arm:
    """One variant that serves: `share` of the people are its own."""

    name: str
    variant: Variant
    engine: Engine
    since: float


@dataclass(frozen=True)
class Refusal:
    """What was offered last and not taken, and why; `time` in seconds since 1970."""

    offered: str
    why: str
    time: float


class Fleet:
    """The variants of a deployment. `open_engine` (blocking, called in a thread) makes the engine of a bundle folder.

    A new bundle is opened beside the old, must answer a full recommendation through its own hops within `ready_s`, and
    takes over between two requests; requests that are under way end on the engine they began on. Whatever goes wrong
    on the way leaves everything as it was.
    """

    def __init__(self, open_engine: Open, salt: str = "longtail", ready_s: float = 60.0) -> None:
        self._open, self._salt, self._ready_s = open_engine, salt, ready_s
        self.arms: tuple[Arm, ...] = ()
        self.refused: Refusal | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._measured: set[tuple[str, str]] = set()

    def start(self, deployment: Deployment, before: Deployment | None = None) -> None:
        """Open the variants before serving. One that cannot be opened is refused; its people get the first that can.

        `before` is what served last: it is opened where nothing of the deployment can be.

        Raises:
            LongtailError: none can be opened; the error is the first one's.
        """
        arms, errors = [], []
        for name, variant in deployment.variants.items():
            try:
                arms.append(Arm(name, variant, self._open(variant.bundle, name), time.time()))
            except LongtailError as error:
                errors.append(error)
                self._refuse(str(variant.bundle), error)
        if not arms:
            if before is None:
                raise errors[0]
            self.start(before)
            return
        self.arms = tuple(arms)
        self.measure()

    @staticmethod
    def of(engine: Engine) -> Fleet:
        """A fleet of one engine that is open already and never changes."""
        fleet = Fleet(lambda folder, variant: engine)
        fleet.start(Deployment.single(engine.bundle.folder, engine.config.variant))
        return fleet

    def arm_of(self, instance: Instance) -> Arm:
        """Who answers: always the same variant for a user, else for a session, else for a request, else by chance."""
        arms = self.arms
        if len(arms) == 1:
            return arms[0]
        context = instance.context
        left = place(instance.user_id or context.session_id or context.request_id or uuid.uuid4().hex, self._salt)
        for arm in arms:
            left -= arm.variant.share
            if left < 0:
                return arm
        return arms[0]

    async def recommend(self, instances: Sequence[Instance]) -> list[Recommendation]:
        """A list for each instance, see `Engine.recommend`."""
        if len(instances) == 1 or len(self.arms) == 1:
            return await self.arm_of(instances[0]).engine.recommend(instances)
        places: dict[str, list[int]] = {}
        engines: dict[str, Engine] = {}
        for n, instance in enumerate(instances):
            arm = self.arm_of(instance)
            engines[arm.name] = arm.engine
            places.setdefault(arm.name, []).append(n)
        calls = [engines[name].recommend([instances[n] for n in p]) for name, p in places.items()]
        out: dict[int, Recommendation] = {}
        for p, answers in zip(places.values(), await asyncio.gather(*calls), strict=True):
            out |= zip(p, answers, strict=True)
        return [out[n] for n in range(len(instances))]

    async def probe(self) -> list[Recommendation]:
        """A list of each variant, shown to nobody."""
        answers = [await arm.engine.recommend([Instance(k=1)], probe=True) for arm in self.arms]
        return [answer for (answer,) in answers]

    async def take(self, deployment: Deployment) -> bool:
        """Serve another deployment; False when it was refused and nothing changed."""
        running = {arm.name: arm for arm in self.arms}
        opened: list[Arm] = []
        arms: list[Arm] = []
        for name, variant in deployment.variants.items():
            arm = running.get(name)
            if arm is not None and arm.variant.bundle == variant.bundle:
                arms.append(Arm(name, variant, arm.engine, arm.since))
                continue
            try:
                engine = await asyncio.to_thread(self._open, variant.bundle, name)
                opened.append(Arm(name, variant, engine, time.time()))
                await self._try(engine)
            except Exception as error:  # noqa: BLE001 - the edge of a swap: what runs goes on
                self._refuse(str(variant.bundle), error)
                await asyncio.gather(*[a.engine.close() for a in opened])
                return False
            arms.append(opened[-1])
        old = {id(arm.engine): arm.engine for arm in self.arms}
        self.arms = tuple(arms)
        for arm in opened:
            BUNDLE_TAKEN.labels(SERVER).inc()
            logger.info("%s now serves bundle %s", arm.name, arm.engine.bundle.version)
        for engine in [e for e in old.values() if all(e is not arm.engine for arm in arms)]:
            task = asyncio.ensure_future(_leave(engine))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        if opened:
            self.refused = None
        self.measure()
        return True

    async def _try(self, engine: Engine) -> None:
        """Wait for a full recommendation: the retriever and the ranker load the bundle at the same time.

        Raises:
            InvalidBundle: none came in time.
        """
        end = time.monotonic() + self._ready_s
        while True:
            (answer,) = await engine.recommend([Instance(k=1)], probe=True)
            if answer.level == "full" and answer.items:
                return
            if time.monotonic() > end:
                said = f"{answer.level} ({answer.cause})"
                raise InvalidBundle(f"gives no full recommendation within {self._ready_s:g} s, last: {said}")
            await asyncio.sleep(TRY_EVERY_S)

    async def follow(self, watch: DeploymentWatch | None, every_s: float = 1.0) -> None:
        """Serve what the deployment file says, and keep the gauges, until cancelled; looks every `every_s` seconds."""
        while True:
            try:
                found = watch.changed() if watch is not None else None
            except LongtailError as error:
                self._refuse("the deployment file", error)
                found = None
            if found is not None and watch is not None and await self.take(found):
                watch.accept(found)
            self.measure()
            await asyncio.sleep(every_s)

    def _refuse(self, offered: str, error: Exception) -> None:
        why = str(error) if isinstance(error, LongtailError) else f"{type(error).__name__}: {error}"
        self.refused = Refusal(offered, why, time.time())
        BUNDLE_REFUSED.labels(SERVER).inc()
        logger.error("not taken: %s: %s", offered, why)

    def measure(self) -> None:
        """Set the gauges of what serves now."""
        ages = {(arm.name, what): age for arm in self.arms for what, age in arm.engine.ages().items()}
        for labels in self._measured - set(ages):
            AGE.labels(*labels).set(math.nan)
        for labels, age in ages.items():
            AGE.labels(*labels).set(age)
        self._measured = set(ages)
        for arm in self.arms:
            for hop, guard in arm.engine.guards.items():
                BREAKER.labels(arm.name, hop).set(STATES.index(guard.breaker.state))

    def status(self) -> dict[str, Any]:
        """What serves, and what was refused last, for people and scripts."""
        return {
            "variants": {
                arm.name: {
                    "bundle": str(arm.variant.bundle), "version": arm.engine.bundle.version,
                    "share": arm.variant.share, "since": round(arm.since, 3), "in_flight": arm.engine.in_flight,
                    "breakers": {hop: guard.breaker.state for hop, guard in arm.engine.guards.items()},
                }
                for arm in self.arms
            },
            "refused": None if self.refused is None else vars(self.refused),
        }  # fmt: skip

    async def close(self) -> None:
        """Let go of every engine."""
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*[arm.engine.close() for arm in self.arms])


async def _leave(engine: Engine) -> None:
    """Close an engine that no new request reaches, once its last one has ended."""
    end = time.monotonic() + DRAIN_S
    while engine.in_flight and time.monotonic() < end:
        await asyncio.sleep(0.05)
    await engine.close()
