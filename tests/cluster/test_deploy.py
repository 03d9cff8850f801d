"""The pipeline's step `deploy` on a real API server, with the chart's objects and the rights that the chart gives."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config

from components.deploy.release import BEFORE, DEPLOYED
from components.deploy.storage import Place, visible
from longtail.registry import Registry
from tests.cluster import controller, kserve
from tests.cluster.cluster import Cluster, Refused
from tests.components.recommender_stand_in import recommender
from tests.registry.test_registry import write_bundle

CHART = Path(__file__).parents[2] / "helm" / "longtail"
GROUP = ("serving.kserve.io", "v1beta1")
RUN = (
    "import json, sys; from components.deploy.rollout import deploy_version; deploy_version(**json.loads(sys.argv[1]))"
)
pytestmark = pytest.mark.cluster


@dataclass
class Shop:
    """The installed chart, a registry with three versions, and a stand-in for the servers.

    Another stands in for KServe's controller where that does not run.
    """

    cluster: Cluster
    namespace: str
    folder: Path
    api: client.ApiClient
    crashing: str = ""  # an address whose pods never get Ready
    broken: str = ""  # a version whose lists are not full
    taken: str = ""  # the deployment file that the servers follow
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.registry = Registry(self.folder / "mlflow")
        self.values = self.folder / "values.yaml"
        self.versions: dict[str, str] = {}
        for n in (1, 2, 3):
            bundle = write_bundle(self.folder / f"bundle-{n}", f"2026-{n}")
            made = self.registry.register(bundle, {"ndcg@10": 0.1 * n}, {}, "", str(n))
            self.versions[str(self.place(n).folder)] = made.bundle_version

    @property
    def storage(self) -> str:
        return f"file://{self.folder}/mlflow/artifacts=s3://models"

    def place(self, number: int) -> Place:
        return Place.of(visible(self.registry.storage_uri(number), self.storage))

    def helm(self, verb: str, *words: str) -> None:
        self.cluster.helm(verb, "shop", str(CHART), "-n", self.namespace, "-f", str(self.values), *words)

    def objects(self, kind: str = "inferenceservices") -> dict[str, Any]:
        found = client.CustomObjectsApi(self.api).list_namespaced_custom_object(*GROUP, self.namespace, kind)
        return {o["metadata"]["name"]: o for o in found["items"]}

    def config_map(self) -> Any:
        return client.CoreV1Api(self.api).read_namespaced_config_map("shop-deployment", self.namespace)

    def mounts(self) -> set[str]:
        """What retriever, ranker and recommender all see."""
        services = self.objects().values()
        parts = [p["storageUris"] for s in services for p in s["spec"].values() if "storageUris" in (p or {})]
        assert len(parts) == 3
        return set.intersection(*({entry["mountPath"] for entry in uris} for uris in parts))

    def reconcile(self) -> None:
        """Make the Deployments and set the status that KServe would, until stopped."""
        seen: dict[str, Any] = {}
        while not self.stopped.wait(0.1):
            services = self.objects()
            if (specs := {name: service["spec"] for name, service in services.items()}) != seen:
                kserve.reconcile(self.cluster, self.namespace)
                seen = specs
            for name, service in services.items():
                ready = not (self.crashing and self.crashing in json.dumps(service["spec"]))
                condition = {"type": "Ready", "status": "True" if ready else "False"}
                told = {} if ready else {"reason": "CrashLoopBackOff", "message": "back-off restarting"}
                # KServe's is the generation of a Deployment.
                status = {"observedGeneration": 1, "conditions": [condition | told]}
                if service.get("status") != status:
                    client.CustomObjectsApi(self.api).patch_namespaced_custom_object_status(
                        *GROUP, self.namespace, "inferenceservices", name, {"status": status}
                    )

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """No node takes a new pod."""
        words = ["-l", "kubernetes.io/os=linux"]
        self.cluster.kubectl("cordon", *words)
        try:
            yield
        finally:
            self.cluster.kubectl("uncordon", *words)

    def answer(self, session: str) -> dict[str, Any]:
        text = self.config_map().data["deployment.yaml"]
        if {v["bundle"] for v in yaml.safe_load(text)["variants"].values()} <= self.mounts():
            self.taken = text
        (champion,) = yaml.safe_load(self.taken)["variants"].values()
        version = self.versions[champion["bundle"]]
        level = "popular" if version == self.broken else "full"
        return {"items": [1], "level": level, "variant": "champion", "model_version": version, "cause": "retriever"}

    def start(self, number: int, url: str, timeout_s: int = 60) -> subprocess.Popen:
        """The step, by the rights of the deployer's service account."""
        given = {"registry": str(self.folder / "mlflow"), "version": str(number), "variant": "champion", "share": 0.0,
                 "namespace": self.namespace, "release": "shop", "storage": self.storage, "url": url,
                 "timeout_s": timeout_s}  # fmt: skip
        environment = os.environ | {"KUBECONFIG": str(self.folder / "deployer"), "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", RUN, json.dumps(given)], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def deploy(self, number: int, url: str, timeout_s: int = 60, code: int = 0) -> list[str]:
        process = self.start(number, url, timeout_s)
        said = process.communicate(timeout=600)[0]
        assert process.returncode == code, said
        return said.splitlines()


@pytest.fixture
def shop(cluster: Cluster, tmp_path: Path) -> Iterator[tuple[Shop, str]]:
    namespace = f"deploy-{os.getpid()}-{time.time_ns() % 10**9}"
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("create", "serviceaccount", "pipelines", "-n", namespace)
    kubeconfig = yaml.safe_load(cluster.kubeconfig.read_text())
    made = Shop(cluster, namespace, tmp_path, config.new_client_from_config(str(cluster.kubeconfig)))
    kubeconfig["users"][0]["user"] = {"token": cluster.kubectl("create", "token", "pipelines", "-n", namespace).strip()}
    (tmp_path / "deployer").write_text(yaml.safe_dump(kubeconfig))
    values = {
        "variants": {"champion": {"uri": made.place(1).uri}}, "collector": {"enabled": False},
        "network": {"policies": False}, "rbac": {"deployers": [{"namespace": namespace, "name": "pipelines"}]},
    }  # fmt: skip
    made.values.write_text(yaml.safe_dump(values))
    made.helm("install")
    made.taken = made.config_map().data["deployment.yaml"]
    thread = threading.Thread(target=made.reconcile)
    if not controller.runs(cluster):
        thread.start()
    try:
        with recommender(made.answer) as url:
            yield made, url
    finally:
        made.stopped.set()
        if thread.ident:
            thread.join()
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def test_a_version_takes_over_by_the_rights_of_the_chart_s_deployer_and_an_upgrade_keeps_it(shop):
    release, url = shop
    first, second, third = (str(release.place(n).folder) for n in (1, 2, 3))
    assert release.mounts() == {first}, "the chart lays bundles out as the step does"
    assert release.deploy(2, url)[-1] == "version 2 serves as champion (100% of the people)"
    assert release.mounts() == {first, second}
    written = release.config_map()
    assert yaml.safe_load(written.data["deployment.yaml"])["variants"]["champion"]["bundle"] == second
    assert written.metadata.annotations == {**(written.metadata.annotations or {}), DEPLOYED: "2"}
    for name, service in release.objects().items():
        (ours,) = [f["fieldsV1"] for f in service["metadata"]["managedFields"] if f["manager"] == "longtail-deploy"]
        changed = {part: list(fields) for part, fields in ours["f:spec"].items()}
        parts = {"f:predictor"} if name.endswith("retriever") else {"f:predictor", "f:transformer"}
        assert changed == {part: ["f:storageUris"] for part in parts}
    release.helm("upgrade", "--set", "ranker.extraArgs={--log_level=warning}")  # one Deployment of three changes
    assert release.mounts() == {first, second}
    assert release.config_map().data["deployment.yaml"] == written.data["deployment.yaml"]
    release.deploy(3, url)
    assert release.mounts() == {second, third}
    noted = [e.about["versions"] for e in release.registry.audit.entries() if e.action == "deployment"]
    assert noted == [{"champion": "2"}, {"champion": "3"}]
    with pytest.raises(Refused, match="forbidden"):
        release.cluster.kubectl(
            "--kubeconfig", str(release.folder / "deployer"), "get", "secrets", "-n", release.namespace
        )


def test_pods_that_never_get_ready_change_nothing(shop):
    release, url = shop
    before = release.mounts(), release.config_map().data
    with release.full():  # KServe mostly calls a service Ready whose new pods wait for room: its Deployment does not
        said = release.deploy(2, url, timeout_s=10, code=1)[-1]
    why = re.search("version 2 was not deployed: (shop-.* new pods available|shop-.* is not Ready .*);", said)
    assert why, said
    assert said.endswith("; what served before serves again")
    assert (release.mounts(), release.config_map().data) == before
    *_, last = release.registry.audit.entries()
    assert last.action == "failure" and why[1] in last.about["why"]


def test_a_service_that_is_not_ready_changes_nothing(shop):
    release, url = shop
    if controller.runs(release.cluster):
        pytest.skip("KServe's controller calls services Ready while they roll, and pods on simulated nodes never crash")
    before = release.mounts(), release.config_map().data
    release.crashing = release.place(2).uri
    said = release.deploy(2, url, timeout_s=2, code=1)[-1]
    assert "version 2 was not deployed: shop-" in said and "CrashLoopBackOff: back-off restarting" in said
    assert said.endswith("; what served before serves again")
    assert (release.mounts(), release.config_map().data) == before


def test_a_killed_run_is_finished_by_the_next_one(shop):
    release, url = shop
    second = str(release.place(2).folder)
    release.broken = release.versions[second]  # so that the first run waits for its proof
    first = release.start(2, url)
    deadline = time.monotonic() + 400
    while BEFORE not in (release.config_map().metadata.annotations or {}):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    release.broken = ""
    assert release.deploy(2, url)[-1] == "version 2 serves as champion (100% of the people)"
    annotations = release.config_map().metadata.annotations
    assert annotations[DEPLOYED] == "2" and BEFORE not in annotations
    assert yaml.safe_load(release.config_map().data["deployment.yaml"])["variants"]["champion"]["bundle"] == second
