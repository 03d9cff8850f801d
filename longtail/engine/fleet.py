"""Bundles side by side for their shares of the people, the experiments over them, and new ones that take over while
requests run."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtail.engine.asking import Pseudonym, unchanged
from longtail.engine.breaker import STATES
from longtail.engine.crossing import Crossing, cross
from longtail.engine.deployment import Deployment, DeploymentWatch, Variant
from longtail.engine.duel import Duel
from longtail.engine.engine import Engine
from longtail.engine.experiment_log import DraftLog
from longtail.engine.schema import Instance, Recommendation
from longtail.errors import InvalidBundle, LongtailError
from longtail.experiments.assignment import SLOTS, place
from longtail.experiments.placed import Placed
from longtail.metrics import AGE, BREAKER, BUNDLE_REFUSED, BUNDLE_TAKEN, CONFIG_REFUSED
from longtail.surfaces import Surfaces

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
    """The variants of a deployment and its experiments. `open_engine` (blocking, called in a thread) makes the engine
    of a bundle folder; `surfaces` are those of the server's own file, None: each bundle's own.

    A new bundle is opened beside the old, must answer a full recommendation through its own hops within `ready_s`, and
    takes over between two requests; requests that are under way end on the engine they began on. Whatever goes wrong
    on the way leaves everything as it was.
    """

    def __init__(
        self, open_engine: Open, salt: str = "longtail", ready_s: float = 60.0, pseudonym: Pseudonym = unchanged,
        surfaces: Surfaces | None = None, drafts: DraftLog | None = None,
    ) -> None:  # fmt: skip
        self._open, self._salt, self._ready_s = open_engine, salt, ready_s
        self._pseudonym, self._surfaces, self.drafts = pseudonym, surfaces, drafts
        self.arms: tuple[Arm, ...] = ()
        self.refused: Refusal | None = None
        self._tested: tuple[Arm, ...] = ()  # bundles that only variants of experiments name
        self._crossing: Crossing | None = None
        self._serves: Deployment | None = None
        self._changing = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()
        self._measured: set[tuple[str, str]] = set()

    def start(self, deployment: Deployment, before: Deployment | None = None) -> None:
        """Open the variants before serving. One that cannot be opened is refused; its people get the first that can,
        and those of an experiment that cannot run what serves everybody else.

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
        for name, placed in deployment.experiments.items():
            try:
                for folder in [f for f in placed.bundles if f not in self._roots()]:
                    engine = self._open(folder, name)
                    self._tested += (Arm(name, Variant(bundle=folder, share=0.0), engine, time.time()),)
                trial = deployment.model_copy(update={"experiments": {name: placed}})
                cross(trial, arms[0].engine, self._roots(), self._surfaces)
            except LongtailError as error:
                self._refuse(f"experiment {name}", error)
                deployment = deployment.without(name)
        self._crossing = cross(deployment, arms[0].engine, self._roots(), self._surfaces, self.drafts)
        self._serves = deployment
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
        user = None if instance.user_id is None else self._pseudonym(instance.user_id)
        left = place(user or context.session_id or context.request_id or uuid.uuid4().hex, self._salt)
        for arm in arms:
            left -= arm.variant.share
            if left < 0:
                return arm
        return arms[0]

    def answerer(self, instance: Instance) -> Engine | Duel:
        """Who answers, by the experiments that run, else by the shares of the variants."""
        crossing = self._crossing
        if crossing is not None:
            user, session = instance.user_id, instance.context.session_id
            met = crossing.router.met(
                None if user is None else self._pseudonym(user),
                None if session is None else self._pseudonym(session, "session"), instance.surface,
            )  # fmt: skip
            if met:
                return crossing.answers[met]
        return self.arm_of(instance).engine

    async def recommend(self, instances: Sequence[Instance]) -> list[Recommendation]:
        """A list for each instance, see `Engine.recommend`."""
        if len(instances) == 1:
            return await self.answerer(instances[0]).recommend(instances)
        places: dict[Engine | Duel, list[int]] = {}
        for n, instance in enumerate(instances):
            places.setdefault(self.answerer(instance), []).append(n)
        calls = [engine.recommend([instances[n] for n in p]) for engine, p in places.items()]
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
        async with self._changing:
            return await self._take(deployment)

    async def _take(self, deployment: Deployment) -> bool:
        there, opened = self._roots(), dict[Path, Engine]()
        running = {arm.name: arm for arm in self.arms}
        offered = "the deployment file"

        async def engine_of(folder: Path, name: str) -> Engine:
            known = there.get(folder) or opened.get(folder)
            if known is not None:
                return known if known.config.variant == name else known.beside(name, known.surfaces, {})
            nonlocal offered
            offered = str(folder)
            opened[folder] = engine = await asyncio.to_thread(self._open, folder, name)
            await self._try(engine)
            offered = "the deployment file"
            return engine

        try:
            arms: list[Arm] = []
            for name, variant in deployment.variants.items():
                arm = running.get(name)
                same = arm is not None and arm.variant.bundle == variant.bundle
                engine = arm.engine if arm and same else await engine_of(variant.bundle, name)
                arms.append(Arm(name, variant, engine, arm.since if arm and same else time.time()))
            tested: dict[Path, Arm] = {}
            for name, placed in deployment.experiments.items():
                for folder in [f for f in placed.bundles if f not in {arm.variant.bundle for arm in arms}]:
                    engine = await engine_of(folder, name)
                    tested[folder] = Arm(name, Variant(bundle=folder, share=0.0), engine, time.time())
            roots = _roots(arms, tested.values())
            crossing = await asyncio.to_thread(
                cross, deployment, arms[0].engine, roots, self._surfaces, self.drafts
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - the edge of a swap: what runs goes on
            self._refuse(offered, error)
            await asyncio.gather(*[engine.close() for engine in opened.values()])
            return False
        self.arms, self._tested, self._crossing = tuple(arms), tuple(tested.values()), crossing
        self._serves, self.refused = deployment, None
        for engine in opened.values():
            BUNDLE_TAKEN.labels(SERVER).inc()
            logger.info("%s now serves bundle %s", engine.config.variant, engine.bundle.version)
        for engine in [engine for folder, engine in there.items() if folder not in roots]:
            task = asyncio.ensure_future(_leave(engine))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        self.measure()
        return True

    async def use(self, surfaces: Surfaces) -> list[str]:
        """Put the surfaces of the server's own file in force; what some bundle lacks of them, in a line each.

        Variants with rules of their own keep these over what holds now. Experiments that do not go with the new
        surfaces go on with the old ones.
        """
        if surfaces is self._surfaces:
            return []
        async with self._changing:
            warnings = []
            bound = {
                folder: await asyncio.to_thread(surfaces.bind, engine.bundle.catalogue, engine.bundle.sources)
                for folder, engine in self._roots().items()
            }
            for arm in (*self.arms, *self._tested):
                arm.engine.surfaces = bound[arm.variant.bundle]
                warnings += arm.engine.surfaces.warnings
            self._surfaces = surfaces
            if self._serves is not None:
                given = self._serves, self.arms[0].engine, self._roots(), surfaces, self.drafts
                try:
                    self._crossing = await asyncio.to_thread(cross, *given)
                except LongtailError as error:
                    CONFIG_REFUSED.labels("surfaces").inc()
                    logger.error("the experiments stay on the surfaces of before: %s", error)
            return warnings

    def _roots(self) -> dict[Path, Engine]:
        return _roots(self.arms, self._tested)

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
        arms = (*self.arms, *self._tested)
        ages = {(arm.name, what): age for arm in arms for what, age in arm.engine.ages().items()}
        for labels in self._measured - set(ages):
            AGE.labels(*labels).set(math.nan)
        for labels, age in ages.items():
            AGE.labels(*labels).set(age)
        self._measured = set(ages)
        for arm in arms:
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
            "experiments": {n: _about(placed) for n, placed in self._running.items()},
            "bundles": [str(folder) for folder in self._roots()],
            "deployment": "" if self._serves is None else self._serves.fingerprint,
            "refused": None if self.refused is None else vars(self.refused),
        }  # fmt: skip

    async def close(self) -> None:
        """Let go of every engine."""
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*[arm.engine.close() for arm in (*self.arms, *self._tested)])

    def stop_logs(self) -> None:
        """Write what waits in the logs of what was shown, and end them."""
        logs = {log for arm in self.arms for log in (arm.engine.impressions, arm.engine.exposures, self.drafts)}
        for log in logs:
            if log is not None:
                log.close()

    @property
    def _running(self) -> dict[str, Placed]:
        return {} if self._serves is None else self._serves.experiments


def _roots(*arms: Iterable[Arm]) -> dict[Path, Engine]:
    """An engine of each bundle folder."""
    return {arm.variant.bundle: arm.engine for some in arms for arm in some}


def _about(placed: Placed) -> dict[str, Any]:
    """What people want to know of a running experiment; `share` is of the layer."""
    share = sum(high - low for low, high in placed.slots) / SLOTS
    return {"layer": placed.layer, "kind": placed.kind, "share": share, "variants": list(placed.variants)}


async def _leave(engine: Engine) -> None:
    """Close an engine that no new request reaches, once its last one has ended."""
    end = time.monotonic() + DRAIN_S
    while engine.in_flight and time.monotonic() < end:
        await asyncio.sleep(0.05)
    await engine.close()
