"""What KServe makes of InferenceServices in Standard mode, for clusters without its controller.

Follows KServe 0.21's reconcilers as far as this chart uses them; read there:
`pkg/controller/v1beta1/inferenceservice/components/{predictor,transformer}.go` (names, labels, the runtime's container
under the model's), `reconcilers/{deployment,service,hpa}` (selector, probes left alone, ports: the first one on 80) and
`pkg/webhook/admission/pod/storage_initializer_injector.go` (a `pvc://` is mounted whole at its mountPath, what is
elsewhere is downloaded by an init container). Ingress, KEDA's objects and statuses are not made.
"""

from __future__ import annotations

import copy
import hashlib
from typing import Any

from tests.cluster.cluster import Cluster

CONTAINER = "kserve-container"
H2C = "kubernetes.io/h2c"
INITIALIZER = "kserve/storage-initializer:v0.21.0"
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
            container.setdefault("args", []).extend(["--model_name", name])
            host = f"{name}-predictor.{service['metadata']['namespace']}"
            container["args"] += ["--predictor_host", host, "--http_port", "8080"]
        container.setdefault("env", []).append({"name": "INFERENCE_SERVICE_NAME", "value": name})
        _store(pod, container, component.get("storageUris") or [])
        made += _objects(service, part, component, pod, container)
    return made


def reconcile(cluster: Cluster, namespace: str) -> list[dict]:
    """Make, or bring up to date, what all InferenceServices of a namespace stand for; each belongs to its service."""
    runtimes = {r["metadata"]["name"]: r for r in cluster.get("servingruntime", namespace=namespace)}
    made = [o for s in cluster.get("inferenceservice", namespace=namespace) for o in made_of(s, runtimes)]
    if made:
        cluster.apply(made, "--field-manager=kserve", "--force-conflicts")
    return made


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
        source = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        volumes.append({"name": _name(uri["mountPath"]), **source})
        mounts.append({"name": _name(uri["mountPath"]), "mountPath": uri["mountPath"], "readOnly": True})
    if downloads:
        parent = "/mnt/models"
        words = [word for uri in downloads for word in (uri["uri"], uri["mountPath"])]
        volumes.append({"name": _name(parent), "emptyDir": {}})
        mounts.append({"name": _name(parent), "mountPath": parent, "readOnly": True})
        pod.setdefault("initContainers", []).append(
            {
                "name": "storage-initializer", "image": INITIALIZER, "args": words,
                "securityContext": container.get("securityContext", {}),
                "volumeMounts": [{"name": _name(parent), "mountPath": parent}],
            }
        )  # fmt: skip


def _name(path: str) -> str:
    return f"store-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def _objects(service: dict, part: str, component: dict, pod: dict, container: dict) -> list[dict]:
    meta, name = service["metadata"], f"{service['metadata']['name']}-{part}"
    chosen = {"app": f"isvc.{name}"}
    labels = {
        **meta.get("labels", {}), **component.get("labels", {}), **chosen,
        "serving.kserve.io/inferenceservice": meta["name"], "component": part,
    }  # fmt: skip
    annotations = {**meta.get("annotations", {}), **component.get("annotations", {})}
    annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
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
        made.append(of("HorizontalPodAutoscaler", "autoscaling/v2", spec))
    return made
