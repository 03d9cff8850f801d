"""The chart on a real API server with real controllers and the real helm; only the nodes are simulated."""

from __future__ import annotations

import collections
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cluster import kserve
from tests.cluster.cluster import GPU, Cluster, Refused

CHART = Path(__file__).parents[2] / "helm" / "longtail"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
RELEASE = "longtail"
NOWHERE = Path("/nowhere")  # simulated nodes store nothing
# Whatever key of it the chart asks for.
SECRET = {"pseudonym-key": "5" * 64, "guard.yaml": "", "url": "redis://redis:6379/0", "api-key": "key"}
INSTANCE = f"app.kubernetes.io/instance={RELEASE}"
pytestmark = pytest.mark.cluster


@dataclass
class Release:
    """The chart as one of its examples says, installed in a namespace of its own."""

    cluster: Cluster
    example: Path
    namespace: str

    @property
    def values(self) -> dict:
        return yaml.safe_load(self.example.read_text())

    def helm(self, verb: str, *words: str) -> str:
        return self.cluster.helm(*verb.split(), RELEASE, *words, "-n", self.namespace)

    def pods(self, selector: str = INSTANCE) -> list[dict]:
        """Our pods, without those of finished jobs and tests."""
        found = self.cluster.get("pod", namespace=self.namespace, selector=selector)
        return [p for p in found if "deletionTimestamp" not in p["metadata"]]

    def idle(self) -> list[str]:
        """Services and budgets that lead to no pod; controllers count pods a moment after these are Ready."""
        slices = self.cluster.get("endpointslice", namespace=self.namespace)
        served = {s["metadata"]["labels"]["kubernetes.io/service-name"] for s in slices if s.get("endpoints")}
        services = {s["metadata"]["name"] for s in self.cluster.get("service", namespace=self.namespace)}
        budgets = self.cluster.get("pdb", namespace=self.namespace)
        return sorted(services - served) + [b["metadata"]["name"] for b in budgets if not b["status"]["currentHealthy"]]

    def settle(self) -> list[dict]:
        """Do what KServe would, and return when all that was asked for is Ready."""
        kserve.reconcile(self.cluster, self.namespace)

        def settled() -> list[dict]:
            kinds = self.cluster.get("deployment,statefulset", namespace=self.namespace)
            for owner in kinds:
                status, wanted = owner.get("status", {}), owner["spec"]["replicas"]
                told = status.get("observedGeneration") == owner["metadata"]["generation"]
                if not (told and status.get("updatedReplicas") == status.get("readyReplicas") == wanted):
                    return []
            return self.pods()

        return self.cluster.wait(f"{self.example.stem} settled", settled, 300)


def volume(namespace: str, claim: str, folder: Path) -> dict:
    """A folder of the node as room for one claim."""
    spec = {"capacity": {"storage": "1Ti"}, "hostPath": {"path": str(folder)}}
    spec["accessModes"] = ["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"]
    spec["claimRef"] = {"namespace": namespace, "name": claim}
    about = {"name": f"{namespace}-{claim}"}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": about, "spec": spec}


def prepare(cluster: Cluster, namespace: str, values: dict, bundles: Path = NOWHERE, data: Path = NOWHERE) -> None:
    """A namespace that holds pods to the restricted profile, with the claim and the Secrets that an example names."""
    level = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "latest"}
    about = {"name": namespace, "labels": level}
    made: list[dict] = [{"apiVersion": "v1", "kind": "Namespace", "metadata": about}]
    made += [volume(namespace, "bundles", bundles), volume(namespace, f"{RELEASE}-data", data)]
    claim = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}
    where = {"name": "bundles", "namespace": namespace}
    made.append({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": where, "spec": claim})
    secrets = {s["name"] for s in values.get("secrets", {}).values()}
    secrets |= {values.get("redis", {}).get("external", {}).get("secret"), values.get("test", {}).get("apiKeySecret")}
    secrets |= {values.get("jobs", {}).get("secret"), values.get("rbac", {}).get("storageSecret")}
    for name in sorted(s for s in secrets if s):
        where = {"name": name, "namespace": namespace}
        made.append({"apiVersion": "v1", "kind": "Secret", "metadata": where, "stringData": SECRET})
    cluster.apply(made)


def forget(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("delete", "namespace", namespace, "--timeout=300s")
    volumes = [f"{namespace}-bundles", f"{namespace}-{RELEASE}-data"]
    cluster.kubectl("delete", "pv", *volumes, "--ignore-not-found", "--timeout=30s")


@pytest.fixture(scope="module", params=EXAMPLES, ids=lambda p: p.stem)
def release(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Release]:
    made = Release(cluster, request.param, f"chart-{request.param.stem}")
    prepare(cluster, made.namespace, made.values)
    try:
        made.helm("install", str(CHART), "-f", str(made.example))
        made.settle()
        yield made
    finally:
        forget(cluster, made.namespace)


def test_every_pod_gets_ready_under_the_restricted_profile_and_none_is_refused(release: Release):
    parts = collections.Counter(p["metadata"]["labels"]["app.kubernetes.io/component"] for p in release.pods())
    for part in ("retriever", "ranker", "recommender"):
        assert parts[part] == release.values.get(part, {}).get("replicas", {}).get("min", 1)
    assert parts["collector"]
    release.cluster.wait("pods behind every service and budget", lambda: not release.idle())
    events = release.cluster.get("event", namespace=release.namespace)
    # A pod that came before its volume was bound was not scheduled at once; that all are ready says that it was then.
    assert not [e["message"] for e in events if e["reason"] in ("FailedCreate", "FailedMount")]
    container = {"name": "c", "image": "c", "securityContext": {"privileged": True}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad", "namespace": release.namespace}}
    with pytest.raises(Refused, match="violates PodSecurity"):
        release.cluster.apply([{**pod, "spec": {"containers": [container]}}])


def test_pods_that_ask_for_gpus_land_on_gpu_nodes_and_no_others_do(release: Release):
    gpu_parts = {part for part, value in release.values.items() if isinstance(value, dict) and value.get("gpu")}
    for pod in release.pods():
        part = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        asks = any(GPU in c.get("resources", {}).get("limits", {}) for c in pod["spec"]["containers"])
        assert asks == (part in gpu_parts)
        assert pod["spec"]["nodeName"].startswith("gpu-" if asks else "cpu-"), pod["metadata"]["name"]


def test_budgets_hold_while_every_node_is_drained_in_turn(release: Release):
    budgets = release.cluster.get("pdb", namespace=release.namespace)
    kept = {b["metadata"]["labels"]["app.kubernetes.io/component"]: b["status"]["desiredHealthy"] for b in budgets}
    assert set(kept) == {
        part for part in ("retriever", "ranker", "recommender", "collector")
        if _replicas(release.values.get(part, {})) > 1
    }  # fmt: skip
    fewest, done = dict(kept), threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            ready = collections.Counter(
                p["metadata"]["labels"]["app.kubernetes.io/component"] for p in release.pods() if _ready(p)
            )
            for part in fewest:
                fewest[part] = min(fewest[part], ready[part])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for node in sorted({p["spec"]["nodeName"] for p in release.pods()}):
            try:
                words = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s"]
                release.cluster.kubectl("drain", node, *words)
                assert not [p for p in release.pods() if p["spec"].get("nodeName") == node]
            finally:
                release.cluster.kubectl("uncordon", node)
            release.settle()
    finally:
        done.set()
        watcher.join()
    assert fewest == kept


def test_each_service_account_may_do_what_it_needs_and_nothing_more(release: Release):
    anybody = _may(release, "default")  # what every account may ask of any cluster about itself
    for account in release.cluster.get("serviceaccount", namespace=release.namespace, selector=INSTANCE):
        assert _may(release, account["metadata"]["name"]) == anybody
    for deployer in release.values.get("rbac", {}).get("deployers", []):
        who = f"system:serviceaccount:{deployer['namespace']}:{deployer['name']}"
        names = [f"{RELEASE}-retriever", f"{RELEASE}-recommender"]
        needs = {("patch", f"inferenceservices.serving.kserve.io/{n}") for n in names}
        needs |= {("patch", f"configmaps/{RELEASE}-deployment")}
        for verb, what in needs:
            assert _can(release, who, verb, what)
        for verb, what in (
            ("delete", sorted(needs)[0][1]),
            ("patch", "configmaps/other"),
            ("get", "secrets"),
            ("create", "pods"),
        ):
            assert not _can(release, who, verb, what)
        more = _may(release, deployer["name"], deployer["namespace"]) - anybody
        assert {line.split()[0] for line in more} == {
            "inferenceservices.serving.kserve.io", "configmaps", "deployments.apps",
        }  # fmt: skip
        for line in more:
            assert f"[{RELEASE}-" in line and set(line[line.rindex("[") + 1 : -1].split()) <= {"get", "patch"}, line


def test_an_upgrade_replaces_pods_and_a_rollback_puts_everything_back(release: Release):
    first = release.helm("get manifest")
    before = {p["metadata"]["uid"] for p in release.pods()}
    release.helm("upgrade", str(CHART), "-f", str(release.example), "--set", "pods.leaveSeconds=11")
    after = release.settle()
    serving = [
        p
        for p in after
        if p["metadata"]["labels"]["app.kubernetes.io/component"] in ("retriever", "ranker", "recommender")
    ]
    assert serving and not before & {p["metadata"]["uid"] for p in serving}
    release.helm("rollback", "1")
    release.settle()
    assert release.helm("get manifest") == first
    history = json.loads(release.helm("history", "-o", "json"))
    assert [h["status"] for h in history] == ["superseded", "superseded", "deployed"]
    for name in yaml.safe_load_all(first):
        live = release.cluster.get(name["kind"], name["metadata"]["name"], release.namespace)
        assert live["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"


def test_uninstalling_leaves_only_the_data(release: Release):
    release.helm("uninstall", "--wait")
    kinds = "all,configmap,secret,serviceaccount,role,rolebinding,networkpolicy,pdb,pvc,hpa"
    kinds += ",inferenceservice,servingruntime,inferencegraph,servicemonitor,prometheusrule"

    def left() -> list[str]:
        found = release.cluster.get(kinds, namespace=release.namespace, selector=INSTANCE)
        return [f"{o['kind']}/{o['metadata']['name']}" for o in found]

    release.cluster.wait("nothing left but the data", lambda: left() == [f"PersistentVolumeClaim/{RELEASE}-data"], 300)


def _replicas(values: dict) -> int:
    replicas = values.get("replicas", 1)
    return replicas["min"] if isinstance(replicas, dict) else replicas


def _ready(pod: dict) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def _may(release: Release, account: str, namespace: str | None = None) -> set[str]:
    """What `kubectl auth can-i --list` says in the release's namespace, a line a rule."""
    who = f"system:serviceaccount:{namespace or release.namespace}:{account}"
    told = release.cluster.kubectl("auth", "can-i", "--list", "-n", release.namespace, f"--as={who}")
    return {" ".join(line.split()) for line in told.splitlines()[1:]}


def _can(release: Release, who: str, verb: str, what: str) -> bool:
    try:
        return release.cluster.kubectl("auth", "can-i", verb, what, "-n", release.namespace, f"--as={who}") == "yes\n"
    except Refused:  # "no" has an exit code of its own
        return False
