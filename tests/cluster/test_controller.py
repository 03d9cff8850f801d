"""The chart and the manifests under KServe's own controller and webhooks, and `kserve.py` held against them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster import controller, kserve
from tests.cluster.cluster import Cluster, Refused
from tests.cluster.test_chart import CHART, EXAMPLES, RELEASE, Release, forget, prepare
from tests.cluster.test_manifests import OVERLAYS

pytestmark = pytest.mark.cluster
NODES = ["-l", "kubernetes.io/os=linux"]
PARTS = ("retriever-predictor", "recommender-predictor", "recommender-transformer")
JUDGED = ("InferenceService", "ServingRuntime", "InferenceGraph")
SCALED = {"scaling": {"by": "hpa"}, "data": {"accessMode": "ReadWriteMany"}}  # of the small example, which has none


@pytest.fixture(scope="module", autouse=True)
def watched(cluster: Cluster) -> None:
    if not controller.runs(cluster):
        pytest.skip(controller.ABSENT)


@pytest.fixture(scope="module", params=[*EXAMPLES, SCALED], ids=lambda p: getattr(p, "stem", "hpa"))
def release(
    cluster: Cluster, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    example = request.param
    if isinstance(example, dict):
        text = yaml.safe_dump({**yaml.safe_load((CHART / "examples" / "small.yaml").read_text()), **example})
        example = tmp_path_factory.mktemp("values") / "hpa.yaml"
        example.write_text(text)
    made = Release(cluster, example, f"kserve-{example.stem}")
    prepare(cluster, made.namespace, made.values)
    try:
        made.helm("install", str(CHART), "-f", str(example))
        yield made
    finally:
        forget(cluster, made.namespace)


def test_the_controller_makes_what_is_derived_without_it(release: Release):
    made = kserve.reconcile(release.cluster, release.namespace)  # the last difference is in the error
    scaled = release.values["scaling"]["by"]
    kinds = ["Deployment", "Service", *(["HorizontalPodAutoscaler"] if scaled == "hpa" else [])]
    names = sorted(f"{RELEASE}-{part}" for part in PARTS)
    for kind in kinds:
        assert sorted(o["metadata"]["name"] for o in made if o["kind"] == kind) == names
    assert len(made) == len(kinds) * len(names)
    found = release.cluster.get("scaledobject,hpa", namespace=release.namespace)
    assert len(found) == {"none": 0, "hpa": 3, "keda": 3}[scaled]
    for one in found if scaled == "keda" else []:
        part, spec = one["metadata"]["labels"]["app.kubernetes.io/component"], one["spec"]
        replicas = release.values[part]["replicas"]
        assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (replicas["min"], replicas["max"])
        asked = {
            "serverAddress": release.values["scaling"]["prometheus"], "threshold": "8",
            "query": f'sum(longtail_in_flight{{namespace="{release.namespace}",service="{RELEASE}"}})',
        }  # fmt: skip
        expected = ("prometheus", asked) if part == "recommender" else ("cpu", {"value": "70"})
        assert [(t["type"], t["metadata"]) for t in spec["triggers"]] == [expected]


def test_the_pod_webhook_leaves_pods_as_their_deployments_say(release: Release):
    release.settle()
    deployments = release.cluster.get("deployment", namespace=release.namespace)
    said = {_part(d): d["spec"]["template"]["spec"] for d in deployments}
    for pod in release.pods("serving.kserve.io/inferenceservice"):
        for kind in ("containers", "initContainers"):
            names = [c["name"] for c in pod["spec"].get(kind, [])]
            assert names == [c["name"] for c in said[_part(pod)].get(kind, [])]


def test_services_are_ready_as_their_predictors_are(release: Release):
    release.settle()
    wait = release.cluster.wait
    wait("both Ready", lambda: _ready(release) == {"retriever": "True", "recommender": "True"}, 60)
    with _no_room(release.cluster):
        _delete(release, "component=predictor")
        wait("none Ready", lambda: _ready(release) == {"retriever": "False", "recommender": "False"}, 60)
    wait("both Ready again", lambda: _ready(release) == {"retriever": "True", "recommender": "True"}, 60)
    # Why the deploy step and docs/platform.md ask the Deployments, too.
    with _no_room(release.cluster):
        _delete(release, "component=transformer")
        wait("the transformer down", lambda: _condition(release, "recommender", "TransformerReady") == "False", 60)
        assert _ready(release) == {"retriever": "True", "recommender": "True"}
    release.settle()


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda p: p.name)
def test_webhooks_accept_the_manifests(cluster: Cluster, overlay: Path):
    objects = [o for o in yaml.safe_load_all(cluster.kubectl("kustomize", str(overlay))) if o]
    judged = [{**o, "metadata": {**o["metadata"], "namespace": "default"}} for o in objects if o["kind"] in JUDGED]
    assert {o["kind"] for o in judged} >= {"InferenceService", "ServingRuntime"}
    cluster.apply(judged, "--dry-run=server")


def test_webhooks_accept_a_graph(cluster: Cluster):
    only = ["--validate", "--set", "graph.enabled=true", "--show-only", "templates/recommender/inferencegraph.yaml"]
    text = cluster.helm("template", RELEASE, str(CHART), "-f", str(CHART / "examples" / "small.yaml"), *only)
    cluster.apply(yaml.safe_load_all(text), "--namespace=default", "--dry-run=server")


def test_webhooks_refuse_what_is_wrong(cluster: Cluster):
    external = {
        "metric": {"backend": "prometheus", "serverAddress": "http://prometheus", "query": "up"},
        "target": {"type": "AverageValue", "value": "8"},
    }  # fmt: skip
    service = {
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {
            "name": "wrong", "namespace": "default",
            "annotations": {
                "serving.kserve.io/deploymentMode": "Standard", "serving.kserve.io/autoscalerClass": "keda",
            },
        },
        "spec": {"predictor": {
            "containers": [{"name": "kserve-container", "image": "none"}],
            "autoScaling": {"metrics": [{"type": "External", "external": external}]},
        }},
    }  # fmt: skip
    with pytest.raises(Refused, match="denied the request: the AverageValue type should be set"):
        cluster.apply([service], "--dry-run=server")
    external["target"]["averageValue"] = "8"
    cluster.apply([service], "--dry-run=server")


def _part(found: dict) -> str:
    return found["metadata"]["labels"]["app.kubernetes.io/component"]


def _condition(release: Release, service: str, kind: str) -> str | None:
    found = release.cluster.get("inferenceservice", f"{RELEASE}-{service}", release.namespace)
    return next((c["status"] for c in found.get("status", {}).get("conditions", []) if c["type"] == kind), None)


def _ready(release: Release) -> dict[str, str | None]:
    return {service: _condition(release, service, "Ready") for service in ("retriever", "recommender")}


def _delete(release: Release, selector: str) -> None:
    release.cluster.kubectl("delete", "pod", "-n", release.namespace, "-l", selector, "--wait=false")


@contextlib.contextmanager
def _no_room(cluster: Cluster) -> Iterator[None]:
    cluster.kubectl("cordon", *NODES)
    try:
        yield
    finally:
        cluster.kubectl("uncordon", *NODES)
