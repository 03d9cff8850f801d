"""KServe's own controller beside a control plane, where `KSERVE_CONTROLLER` names its binary (its `cmd/manager`)."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

from tests.cluster.cluster import Cluster, ControlPlane, Refused, free_ports

BINARY = "KSERVE_CONTROLLER"
ABSENT = f"KServe's controller does not run: name its binary (built of its cmd/manager) in {BINARY}"
NAMESPACE = "kserve"
GROUP = "serving.kserve.io"
# What its installation registers: kind, plural, version, and the kinds of webhook.
WEBHOOKS = (
    ("inferenceservice", "inferenceservices", "v1beta1", ("mutate", "validate")),
    ("servingruntime", "servingruntimes", "v1alpha1", ("validate",)),
    ("clusterservingruntime", "clusterservingruntimes", "v1alpha1", ("validate",)),
    ("inferencegraph", "inferencegraphs", "v1alpha1", ("validate",)),
    ("trainedmodel", "trainedmodels", "v1alpha1", ("validate",)),
)
ROOM = {"memoryRequest": "100Mi", "memoryLimit": "1Gi", "cpuRequest": "100m", "cpuLimit": "1"}
# As its installation has it, but Standard mode and no ingress: there is none here.
CONFIGURATION = {
    "deploy": {"defaultDeploymentMode": "Standard"},
    "ingress": {"ingressGateway": "none/none", "disableIngressCreation": True, "disableIstioVirtualHost": True},
    "inferenceService": {
        "resource": {"cpuLimit": "1", "memoryLimit": "2Gi", "cpuRequest": "1", "memoryRequest": "2Gi"},
    },
    "storageInitializer": {"image": "kserve/storage-initializer:v0.21.0", **ROOM},
    "credentials": {"storageSpecSecretName": "storage-config"},
    "logger": {"image": "kserve/agent:v0.21.0", "defaultUrl": "http://default-broker", **ROOM},
    "batcher": {"image": "kserve/agent:v0.21.0", "maxBatchSize": "32", "maxLatency": "5000", **ROOM},
    "agent": {"image": "kserve/agent:v0.21.0", **ROOM},
    "router": {"image": "kserve/router:v0.21.0", **ROOM},
    "metricsAggregator": {"enableMetricAggregation": "false", "enablePrometheusScraping": "false"},
    "security": {"autoMountServiceAccountToken": True},
    "autoscaler": {"scaleUpStabilizationWindowSeconds": "0", "scaleDownStabilizationWindowSeconds": "300"},
}  # fmt: skip

# What downloads bundles; its settings for the restricted profile are those of docs/platform.md.
STORAGE = {
    "apiVersion": f"{GROUP}/v1alpha1", "kind": "ClusterStorageContainer", "metadata": {"name": "default"},
    "spec": {
        "container": {
            "name": "storage-initializer", "image": "kserve/storage-initializer:v0.21.0",
            "resources": {"requests": {"memory": "100Mi", "cpu": "100m"}, "limits": {"memory": "1Gi", "cpu": "1"}},
            "securityContext": {
                "allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        },
        "supportedUriFormats": [{"prefix": "s3://"}, {"prefix": "gs://"}, {"regex": "https?://(.+)/(.+)"}],
        "supportsMultiModelDownload": True, "workloadType": "initContainer",
    },
}  # fmt: skip


def binary() -> Path | None:
    """What `KSERVE_CONTROLLER` names; None where it is not set.

    Raises:
        FileNotFoundError: no program is there.
    """
    if not (named := os.environ.get(BINARY)):
        return None
    if not (found := Path(named).resolve()).is_file():
        raise FileNotFoundError(f"{BINARY} names {named}, and no program is there")
    return found


def runs(cluster: Cluster) -> bool:
    """Whether KServe looks after this cluster: its webhooks are registered."""
    try:
        return bool(cluster.get("mutatingwebhookconfiguration", f"inferenceservice.{GROUP}"))
    except Refused as error:
        if "not found" in str(error):
            return False
        raise


def start(cluster: ControlPlane, program: Path) -> None:
    """Start it, by the administrator's rights, and register its webhooks once it answers.

    It listens for webhooks on every address, which no flag of it changes; the rest is on loopback.

    Raises:
        RuntimeError: it ended; the message carries the end of its log.
    """
    webhooks, health = free_ports(2)
    about = {"name": "inferenceservice-config", "namespace": NAMESPACE}
    data = {key: json.dumps(value) for key, value in CONFIGURATION.items()}
    cluster.apply([
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": data},
        STORAGE,
    ])  # fmt: skip
    # It looks for its certificate in this folder of the temporary one.
    temporary = cluster.folder / "kserve"
    served = temporary / "k8s-webhook-server" / "serving-certs"
    served.mkdir(parents=True)
    cluster.authority.issue("kserve", "kserve", addresses=["127.0.0.1"])
    for kind in ("crt", "key"):
        (served / f"tls.{kind}").symlink_to(cluster.authority.folder / f"kserve.{kind}")
    cluster.processes.start(
        "kserve", [
            program, "--metrics-addr=0", f"--health-probe-addr=127.0.0.1:{health}", f"--webhook-port={webhooks}",
            "--zap-log-level=error",
        ],
        {"KUBECONFIG": str(cluster.kubeconfig), "POD_NAMESPACE": NAMESPACE, "TMPDIR": str(temporary)},
    )  # fmt: skip
    cluster.apply(_registered(f"https://127.0.0.1:{webhooks}", (cluster.authority.folder / "ca.crt").read_bytes()))
    probe = [{
        "apiVersion": f"{GROUP}/v1beta1", "kind": "InferenceService", "metadata": {"name": "probe"},
        "spec": {"predictor": {"containers": [{"name": "kserve-container", "image": "none"}]}},
    }]  # fmt: skip
    cluster.await_part("kserve", lambda: cluster.apply(probe, "--dry-run=server"))


def _registered(address: str, authority: bytes) -> list[dict]:
    """Its webhooks, called at this address."""
    bundle = base64.b64encode(authority).decode()

    def hook(name: str, path: str, rule: dict, **more: object) -> dict:
        return {
            "name": f"{name}.kserve-webhook-server.{GROUP}", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Fail", "clientConfig": {"url": address + path, "caBundle": bundle},
            "rules": [{"operations": ["CREATE", "UPDATE"], **rule}], **more,
        }  # fmt: skip

    hooks: dict[tuple[str, str], list[dict]] = {}
    for kind, plural, version, verbs in WEBHOOKS:
        rule = {"apiGroups": [GROUP], "apiVersions": [version], "resources": [plural]}
        for verb in verbs:
            path = f"/{verb}-{GROUP.replace('.', '-')}-{version}-{kind}"
            hooks[kind, verb] = [hook(f"{verb}-{kind}", path, rule)]
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}
    labelled = {"matchExpressions": [{"key": f"{GROUP}/inferenceservice", "operator": "Exists"}]}
    mutator = hook("pods", "/mutate-pods", pods, objectSelector=labelled, reinvocationPolicy="IfNeeded")
    hooks["inferenceservice", "mutate"].append(mutator)
    names = {"mutate": "MutatingWebhookConfiguration", "validate": "ValidatingWebhookConfiguration"}
    return [
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": names[verb],
            "metadata": {"name": f"{kind}.{GROUP}"}, "webhooks": made,
        }
        for (kind, verb), made in hooks.items()
    ]  # fmt: skip
