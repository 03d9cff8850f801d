"""What KServe makes of InferenceServices in Standard mode, for clusters without its controller.

Follows KServe 0.21's reconcilers as far as this chart uses them; test_controller.py holds it against the controller
where there is one. Read there: `pkg/apis/serving/v1beta1/transformer_custom.go` (what a transformer's container is
given), `pkg/controller/v1beta1/inferenceservice/components/{predictor,transformer}.go` (names, labels, the runtime's
container under the model's), `reconcilers/{deployment,service,hpa}` (selector, probes left alone, ports: the first one
on 80) and `pkg/webhook/admission/pod/storage_initializer_injector.go` (a `pvc://` is mounted whole at its mountPath,
what is elsewhere is downloaded by an init container). Ingress, KEDA's objects and statuses are not made.
"""

from __future__ import annotations

import copy
import os
import time
from typing import Any

import yaml

from tests.cluster import controller
from tests.cluster.cluster import Cluster, Refused

CONTAINER = "kserve-container"
H2C = "kubernetes.io/h2c"
HUGGING_FACE = (
    ("HF_HUB_ENABLE_HF_TRANSFER", "1"), ("HF_XET_HIGH_PERFORMANCE", "1"), ("HF_XET_NUM_CONCURRENT_RANGE_GETS", "8"),
)  # fmt: skip
# What a component says about scaling and storage; the rest of it is a pod.
NOT_A_POD = {
    "model", "labels", "annotations", "minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "autoScaling",
    "deploymentStrategy", "storageUris", "containerConcurrency", "timeout", "logger", "batcher",
}  # fmt: skip


def made_of(service: dict, runtimes: dict[str, dict]) -> list[dict]:
    """Deployments, Services and HorizontalPodAutoscalers of an InferenceService, by the ServingRuntimes' names."""
    name, made = service["metadata"]["name"], []
    for part in ("predictor", "transformer"):
        component = service["spec"].get(part)
        if component is None:
            continue
        pod = {key: copy.deepcopy(value) for key, value in component.items() if key not in NOT_A_POD}
        if part == "predictor":
            pod = _with_runtime(pod, component["model"], runtimes[component["model"]["runtime"]]["spec"])
        container = next(c for c in pod["containers"] if c["name"] == CONTAINER)
        if part == "transformer":
            _default(container, service["metadata"])
        container.setdefault("env", []).append({"name": "INFERENCE_SERVICE_NAME", "value": name})
        _store(pod, container, component.get("storageUris") or [])
        made += _objects(service, part, component, pod, container)
    return made


def reconcile(cluster: Cluster, namespace: str, timeout_s: float = 60.0) -> list[dict]:
    """Make, or bring up to date, what all InferenceServices of a namespace stand for; each belongs to its service.

    Where KServe's controller runs this only waits until it has done so.

    Raises:
        TimeoutError: the controller made something else; the message says what.
    """
    made = wanted(cluster, namespace)
    if controller.runs(cluster):
        deadline = time.monotonic() + timeout_s
        while found := differences(cluster, made):
            if time.monotonic() > deadline:
                raise TimeoutError("KServe's controller makes something else:\n" + "\n".join(found))
            time.sleep(0.2)
        _scale(cluster, made)
    elif made:
        cluster.apply(made, "--field-manager=kserve", "--force-conflicts")
    return made


def wanted(cluster: Cluster, namespace: str) -> list[dict]:
    """`made_of` all InferenceServices of a namespace."""
    runtimes = {r["metadata"]["name"]: r for r in cluster.get("servingruntime", namespace=namespace)}
    return [o for s in cluster.get("inferenceservice", namespace=namespace) for o in made_of(s, runtimes)]


def differences(cluster: Cluster, made: list[dict]) -> list[str]:
    """Where objects of the cluster are not what was `made_of` their services, a line each: path, here, there."""
    told = []
    for one, here in zip(made, _defaulted(cluster, made), strict=True):
        name, namespace = one["metadata"]["name"], one["metadata"]["namespace"]
        try:
            there = cluster.get(one["kind"], name, namespace)
        except Refused as error:
            told.append(str(error))
            continue
        if one["kind"] == "Deployment" and _scaled_by(one) != "none":
            there["spec"].pop("replicas"), here["spec"].pop("replicas")
        told += _compared(f"{one['kind']}/{name}", _said(here), _said(there))
    return told


def _scale(cluster: Cluster, made: list[dict]) -> None:
    """What KEDA does first: KServe leaves a Deployment of its at one pod."""
    for one in made:
        if one["kind"] == "Deployment" and _scaled_by(one) == "keda":
            words = [
                one["metadata"]["name"],
                f"--replicas={one['spec']['replicas']}",
                "-n",
                one["metadata"]["namespace"],
            ]
            cluster.kubectl("scale", "deployment", *words)


def _scaled_by(made: dict) -> str:
    return made["metadata"]["annotations"].get("serving.kserve.io/autoscalerClass", "hpa")


def _defaulted(cluster: Cluster, made: list[dict]) -> list[dict]:
    """As the API server would store them, under another name."""
    renamed = [copy.deepcopy(one) for one in made]
    for one in renamed:
        one["metadata"] = {**one["metadata"], "name": f"as-{one['metadata']['name']}"}
        one["metadata"].pop("ownerReferences")
    if not renamed:
        return []
    words = ["create", "--dry-run=server", "--validate=strict", "-o", "yaml", "-f", "-"]
    told = yaml.safe_load_all(cluster.kubectl(*words, stdin=yaml.safe_dump_all(renamed)))
    return [item for one in told for item in one.get("items", [one])]


def _said(found: dict) -> dict:
    """What somebody said of an object: nothing that was made up for it alone, no bookkeeping.

    Of Services and autoscalers the spec: while that stays, KServe leaves their annotations as they were at first.
    """
    spec, about = copy.deepcopy(found["spec"]), found["metadata"]
    for key in ("clusterIP", "clusterIPs"):
        spec.pop(key, None)
    for key in ("name", "namespace", "creationTimestamp"):
        spec.get("template", {}).get("metadata", {}).pop(key, None)
    if found["kind"] != "Deployment":
        return {"spec": spec}
    kept = {k: v for k, v in about.get("annotations", {}).items() if k != "deployment.kubernetes.io/revision"}
    return {"labels": about.get("labels", {}), "annotations": kept, "spec": spec}


def _compared(path: str, here: Any, there: Any) -> list[str]:
    if isinstance(here, dict) and isinstance(there, dict):
        keys = sorted({*here, *there})
        return [line for key in keys for line in _compared(f"{path}.{key}", here.get(key), there.get(key))]
    if isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        pairs = enumerate(zip(here, there, strict=True))
        return [line for i, (one, other) in pairs for line in _compared(f"{path}[{i}]", one, other)]
    return [] if here == there else [f"{path}: {here!r} derived, {there!r} found"]


def _default(container: dict, about: dict) -> None:
    """What KServe's webhook and controller give a transformer's container."""
    usual = controller.CONFIGURATION["inferenceService"]["resource"]
    resources = container.setdefault("resources", {})
    for kind in ("limit", "request"):
        for what in ("cpu", "memory"):
            resources.setdefault(f"{kind}s", {}).setdefault(what, usual[f"{what}{kind.title()}"])
    args, host = container.setdefault("args", []), f"{about['name']}-predictor.{about['namespace']}"
    for name, value in (("--model_name", about["name"]), ("--predictor_host", host), ("--http_port", "8080")):
        if not any(arg.split("=")[0] == name for arg in args):
            args += [name, value]


def _with_runtime(pod: dict, model: dict, runtime: dict) -> dict:
    """A predictor's pod: the runtime's, with what the predictor says of the pod and the model of the container."""
    merged = {k: copy.deepcopy(v) for k, v in runtime.items() if k in ("containers", "volumes", "imagePullSecrets")}
    for key, value in pod.items():
        merged[key] = [*merged.get(key, []), *value] if key == "volumes" else value
    container = next(c for c in merged["containers"] if c["name"] == CONTAINER)
    container["args"] = [*container.get("args", []), *model.get("args", [])]
    container["env"] = [*container.get("env", []), *model.get("env", [])]
    container["volumeMounts"] = [*container.get("volumeMounts", []), *model.get("volumeMounts", [])]
    if "resources" in model:
        container["resources"] = model["resources"]
    return merged


def _store(pod: dict, container: dict, uris: list[dict]) -> None:
    mounts = container.setdefault("volumeMounts", [])
    volumes = pod.setdefault("volumes", [])
    downloads = [u for u in uris if not u["uri"].startswith("pvc://")]
    for uri in uris:
        if uri in downloads:
            continue
        claim = uri["uri"].removeprefix("pvc://").split("/")[0]
        volumes.append({"name": _name(uri["mountPath"]), "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": _name(uri["mountPath"]), "mountPath": uri["mountPath"], "readOnly": True})
    if downloads:
        parent = os.path.commonpath([uri["mountPath"] for uri in downloads])
        words = [word for uri in downloads for word in (uri["uri"], uri["mountPath"])]
        volumes.append({"name": _name(parent), "emptyDir": {}})
        mounts.append({"name": _name(parent), "mountPath": parent, "readOnly": True})
        pod.setdefault("initContainers", []).append(
            {
                **controller.STORAGE["spec"]["container"], "args": words,
                "env": [{"name": name, "value": value} for name, value in HUGGING_FACE],
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [{"name": _name(parent), "mountPath": parent}],
            }
        )  # fmt: skip


def _name(path: str) -> str:
    return path.strip("/").replace("/", "-")


def _objects(service: dict, part: str, component: dict, pod: dict, container: dict) -> list[dict]:
    meta, name = service["metadata"], f"{service['metadata']['name']}-{part}"
    chosen = {"app": f"isvc.{name}"}
    labels = {
        **meta.get("labels", {}), **component.get("labels", {}), **chosen,
        "serving.kserve.io/inferenceservice": meta["name"], "component": part,
    }  # fmt: skip
    annotations = {**meta.get("annotations", {}), **component.get("annotations", {})}
    for key in ("kubectl.kubernetes.io/last-applied-configuration", "modelFormat"):
        annotations.pop(key, None)
    owner = {
        "apiVersion": service["apiVersion"], "kind": service["kind"], "name": meta["name"], "uid": meta.get("uid", ""),
        "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip

    def of(kind: str, version: str, spec: dict[str, Any]) -> dict:
        about = {"name": name, "namespace": meta["namespace"], "labels": labels, "annotations": annotations}
        return {"apiVersion": version, "kind": kind, "metadata": {**about, "ownerReferences": [owner]}, "spec": spec}

    least, most = component.get("minReplicas", 1), component.get("maxReplicas", 0)
    scaled = annotations.get("serving.kserve.io/autoscalerClass", "hpa") == "hpa"
    template = {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod}
    spec = {"selector": {"matchLabels": chosen}, "template": template}
    if "deploymentStrategy" in component:
        spec["strategy"] = component["deploymentStrategy"]
    if not scaled:
        spec["replicas"] = least
    ports = [
        {
            "name": port["name"], "port": port["containerPort"] if i else 80, "targetPort": port["containerPort"],
            "protocol": port.get("protocol", "TCP"),
            **({"appProtocol": H2C} if "grpc" in port["name"] or "h2c" in port["name"] else {}),
        }
        for i, port in enumerate(container.get("ports") or [{"name": name, "containerPort": 8080}])
    ]  # fmt: skip
    made = [of("Deployment", "apps/v1", spec), of("Service", "v1", {"selector": chosen, "ports": ports})]
    if scaled:
        target = {"type": "Utilization", "averageUtilization": component.get("scaleTarget", 80)}
        metric = {"type": "Resource", "resource": {"name": component.get("scaleMetric", "cpu"), "target": target}}
        scale = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        spec = {"scaleTargetRef": scale, "minReplicas": least, "maxReplicas": max(least, most), "metrics": [metric]}
        spec["behavior"] = {}  # so the API server says what is usual
        made.append(of("HorizontalPodAutoscaler", "autoscaling/v2", spec))
    return made
