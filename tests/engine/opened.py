"""Opens bundles for a fleet without servers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from longtail.engine.experiment_log import ExposureLog
from longtail.errors import InvalidBundle
from tests.engine.in_process import PATIENT, dead, engine_of


class Opened:
    """Opens bundles with hops in this process, remembers what was closed, and can stall or kill the hops."""

    def __init__(self, parts) -> None:
        self.parts, self.closed, self.opened = parts, list[str](), list[str]()
        self.exposures: ExposureLog | None = None
        self.rankers_die = False
        self.hold: asyncio.Event | None = None
        self.dead: set[str] = set()

    def __call__(self, folder: Path, variant: str):
        if folder.name == "corrupt":
            raise InvalidBundle(f"{folder}/fallback.json was altered")
        bundle, people, retrieve, score = self.parts
        bundle = replace(bundle, folder=folder, manifest=replace(bundle.manifest, version=folder.name))

        async def held(requests, ask):
            if self.hold is not None:
                await self.hold.wait()
            return await (dead() if folder.name in self.dead else retrieve(requests, ask))

        async def close() -> None:
            self.closed.append(folder.name)

        held.close = close

        async def scored(features):
            return await (dead() if self.rankers_die else score(features))

        self.opened.append(folder.name)
        engine = engine_of((bundle, people, held, scored), variant=variant, **PATIENT)
        engine.exposures = self.exposures
        return engine
