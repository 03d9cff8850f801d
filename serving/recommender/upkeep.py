"""What a recommender does beside answering: follow the deployment file and the surfaces file."""

from __future__ import annotations

import asyncio
import logging

from longtail.engine.deployment import DeploymentWatch
from longtail.engine.fleet import Fleet
from longtail.errors import LongtailError
from longtail.governance.audit import AuditLog
from longtail.governance.rules import record_rules
from longtail.metrics import AUDIT_FAILED
from longtail.surfaces import Surfaces
from longtail.surfaces.watch import SurfacesWatch

logger = logging.getLogger("longtail.recommender")


async def follow_surfaces(
    fleet: Fleet, watch: SurfacesWatch, every_s: float = 1.0, audit: AuditLog | None = None
) -> None:
    """Put a changed surfaces file in force on every variant, and record it, until cancelled."""
    recorded: Surfaces | None = None
    while True:
        await watch.changed(lambda surfaces: surfaces)
        if audit is not None and watch.current is not recorded:
            await asyncio.to_thread(_record, audit, watch, recorded)
            recorded = watch.current
        for warning in await fleet.use(watch.current):
            logger.warning("surface %s", warning)
        await asyncio.sleep(every_s)


def _record(audit: AuditLog, watch: SurfacesWatch, before: Surfaces | None) -> None:
    """Into the audit log: which surfaces are in force, and what changed in them."""
    content = watch.current.model_dump(mode="json")
    try:
        record_rules(audit, watch.path.resolve(), content, before.model_dump(mode="json") if before else None)
    except (OSError, LongtailError) as error:  # the edge of the server: a record that cannot be kept stops no list
        AUDIT_FAILED.inc()
        logger.error("the change of %s is in force and was not recorded: %s", watch.path, error)


async def upkeep(
    fleet: Fleet, deployment: DeploymentWatch | None, surfaces: SurfacesWatch | None, audit: AuditLog | None = None
) -> None:
    """All of it, until cancelled."""
    tasks = [fleet.follow(deployment)]
    if surfaces is not None:
        tasks.append(follow_surfaces(fleet, surfaces, audit=audit))
    await asyncio.gather(*tasks)
