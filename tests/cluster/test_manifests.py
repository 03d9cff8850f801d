"""The manifests on a real API server: known fields only, nothing hangs in the air, the same after a second time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.cluster import Cluster
from tests.cluster.test_chart import EXAMPLES, INSTANCE, Release, forget, prepare

OVERLAYS = sorted(p.parent for p in (Path(__file__).parents[2] / "manifests" / "overlays").glob("*/kustomization.yaml"))
NAMESPACE = "longtail"
pytestmark = pytest.mark.cluster


@pytest.fixture(params=OVERLAYS, ids=lambda p: p.name)
def applied(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[tuple[Release, list[dict]]]:
    example = next(e for e in EXAMPLES if e.stem == request.param.name)
    release = Release(cluster, example, NAMESPACE)
    prepare(cluster, NAMESPACE, release.values)
    try:
        text = cluster.kubectl("kustomize", str(request.param))
        objects = [o for o in yaml.safe_load_all(text) if o]
        cluster.apply(objects)
        release.settle()
        yield release, objects
    finally:
        forget(cluster, NAMESPACE)


def test_they_apply_strictly_hang_together_and_stay_the_same(applied: tuple[Release, list[dict]]):
    release, objects = applied
    cluster = release.cluster
    cluster.wait("pods behind every service and budget", lambda: not release.idle())
    kinds = ",".join(sorted({o["kind"] for o in objects}))
    before = cluster.get(kinds, namespace=NAMESPACE, selector=INSTANCE)
    assert {_id(o) for o in before if "ownerReferences" not in o["metadata"]} == {_id(o) for o in objects}
    cluster.apply(objects)
    after = cluster.get(kinds, namespace=NAMESPACE, selector=INSTANCE)
    assert {_id(o): _stripped(o) for o in after} == {_id(o): _stripped(o) for o in before}


def _id(found: dict) -> tuple[str, str]:
    return found["kind"], found["metadata"]["name"]


def _stripped(found: dict) -> dict:
    """Without what others write: status, and the bookkeeping of writes."""
    unsaid = {"resourceVersion", "managedFields"}
    return {**found, "status": None, "metadata": {k: v for k, v in found["metadata"].items() if k not in unsaid}}
