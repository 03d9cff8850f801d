"""What a recommender does beside answering: follow the deployment file and the surfaces file."""

from __future__ import annotations

import asyncio
import logging

from longtail.engine.deployment import DeploymentWatch
from longtail.engine.engine import Engine
from longtail.engine.fleet import Fleet
from longtail.surfaces import Surfaces
from longtail.surfaces.watch import SurfacesWatch

logger = logging.getLogger("longtail.recommender")


async def follow_surfaces(fleet: Fleet, watch: SurfacesWatch, every_s: float = 1.0) -> None:
    """Put a changed surfaces file in force on every variant, until cancelled."""
    in_force: dict[Engine, Surfaces] = {}
    while True:
        await watch.changed(lambda surfaces: surfaces)
        for engine in [arm.engine for arm in fleet.arms if in_force.get(arm.engine) is not watch.current]:
            wanted = watch.current
            engine.surfaces = await asyncio.to_thread(wanted.bind, engine.bundle.catalogue, engine.bundle.sources)
            in_force[engine] = wanted
            for warning in engine.surfaces.warnings:
                logger.warning("surface %s", warning)
        serving = {arm.engine for arm in fleet.arms}
        in_force = {engine: surfaces for engine, surfaces in in_force.items() if engine in serving}
        await asyncio.sleep(every_s)


async def upkeep(fleet: Fleet, deployment: DeploymentWatch | None, surfaces: SurfacesWatch | None) -> None:
    """All of it, until cancelled."""
    tasks = [fleet.follow(deployment)]
    if surfaces is not None:
        tasks.append(follow_surfaces(fleet, surfaces))
    await asyncio.gather(*tasks)
