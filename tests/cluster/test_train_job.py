"""The two-tower on several nodes: the step's TrainJob on a real API server, by the rights that the docs ask for.

Kubeflow Trainer's controller is stood in for by a thread that does what it does: it starts the job's command once a
node, with the variables by which torchrun finds the others, and sets the status.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from kubernetes import client, config

from components.train_two_tower.train_job import runtime, train_job
from longtail.datasets.importing import simulate_shop
from longtail.datasets.simulator import SimulatorConfig
from longtail.retrieval.two_tower import TwoTower
from pipelines.placing import nodes_of
from pipelines.platform import Platform
from tests.cluster.cluster import Cluster

ROOT = Path(__file__).parents[2]
CONFIG = '{"windows": 1, "two_tower": {"dim": 16, "layers": 1, "epochs": 2, "validation_users": 10}}'
PLATFORM = """
image: longtail-pipelines:0.1.0
steps:
  train_two_tower:
    accelerator: {type: nvidia.com/gpu, limit: 1}
    tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
    node_selector: {pool: gpu}
    memory: {request: 1Gi, limit: 2Gi}
    shm: 1Gi
    retries: {count: 2}
    secrets: [{name: warehouse, mount: /var/secrets/warehouse, env: {key: WAREHOUSE_KEY}}]
    volumes: [{claim: training, mount: FOLDER}]
    train_job: {nodes: 2, processes: 1, folder: FOLDER}
"""
RUN = """
import json, sys
from pathlib import Path
from components.train_two_tower.train_job import train_on_nodes
shop, out, config, wanted = sys.argv[1:]
train_on_nodes(Path(shop), Path(out), config, json.loads(wanted), every_s=0.2)
"""
GROUP = ("trainer.kubeflow.org", "v1alpha1")
pytestmark = pytest.mark.cluster


@dataclass
class Trainer:
    """The controller's stand-in, and a step that is run by the pipelines' service account."""

    cluster: Cluster
    namespace: str
    folder: Path
    broken: bool = False
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        text = PLATFORM.replace("FOLDER", str(self.folder / "shared"))
        (self.folder / "platform.yaml").write_text(text)
        self.platform = Platform.load(self.folder / "platform.yaml")
        self.wanted = nodes_of(self.platform.of("train_two_tower"), self.platform)
        self.api = client.CustomObjectsApi(config.new_client_from_config(str(self.cluster.kubeconfig)))

    def objects(self) -> dict[str, list[dict]]:
        kinds = ("trainjobs", "trainingruntimes")
        return {k: self.api.list_namespaced_custom_object(*GROUP, self.namespace, k)["items"] for k in kinds}

    def reconcile(self) -> None:
        """Run each job once."""
        seen: set[str] = set()
        while not self.stopped.wait(0.1):
            for job in self.objects()["trainjobs"]:
                if job["metadata"]["uid"] in seen:
                    continue
                seen.add(job["metadata"]["uid"])
                why = self.run(job["spec"])
                about = {"lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "Jobs", "message": why or "done"}
                status = {"conditions": [{"type": "Failed" if why else "Complete", "status": "True", **about}]}
                self.api.patch_namespaced_custom_object_status(
                    *GROUP, self.namespace, "trainjobs", job["metadata"]["name"], {"status": status}
                )

    def run(self, spec: dict) -> str:
        """The command of a job on as many nodes as it wants; empty, or what went wrong."""
        (made,) = self.objects()["trainingruntimes"]
        assert made["metadata"]["name"] == spec["runtimeRef"]["name"]
        if self.broken:
            return "a node was lost too often"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        trainer = spec["trainer"]
        assert trainer["command"] == ["torchrun"]
        command = [sys.executable, "-m", "torch.distributed.run", *trainer["args"]]
        processes = []
        for node in range(trainer["numNodes"]):
            environment = os.environ | {
                "PET_NNODES": str(trainer["numNodes"]), "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                "PET_NODE_RANK": str(node), "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            }  # fmt: skip
            processes.append(subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True))
        said = [process.communicate(timeout=300)[1] for process in processes]
        return "" if not any(p.returncode for p in processes) else said[0][-500:]

    def step(self, shop: Path) -> subprocess.CompletedProcess[str]:
        words = [str(shop), str(self.folder / "out"), CONFIG, json.dumps(self.wanted)]
        environment = os.environ | {"KUBECONFIG": str(self.folder / "pipelines")}
        return subprocess.run(
            [sys.executable, "-c", RUN, *words], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600
        )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train-job") / "shop"
    config = SimulatorConfig(users=150, items=60, days=40, events=6_000, seed=1)
    simulate_shop(folder, config, key_file=folder.with_suffix(".key"))
    return folder


@pytest.fixture
def trainer(cluster: Cluster, tmp_path: Path) -> Iterator[Trainer]:
    namespace = f"train-{os.getpid()}-{time.time_ns() % 10**9}"
    (tmp_path / "shared").mkdir()
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("create", "serviceaccount", "longtail-pipelines", "-n", namespace)
    role = re.search(r"```yaml\n(apiVersion: rbac.*?)```", (ROOT / "docs" / "pipelines.md").read_text(), re.DOTALL)
    assert role
    cluster.apply([o | {"metadata": o["metadata"] | {"namespace": namespace}} for o in yaml.safe_load_all(role[1])])
    who = yaml.safe_load(cluster.kubeconfig.read_text())
    token = cluster.kubectl("create", "token", "longtail-pipelines", "-n", namespace).strip()
    who["users"][0]["user"] = {"token": token}
    who["contexts"][0]["context"]["namespace"] = namespace
    (tmp_path / "pipelines").write_text(yaml.safe_dump(who))
    made = Trainer(cluster, namespace, tmp_path)
    thread = threading.Thread(target=made.reconcile)
    thread.start()
    try:
        yield made
    finally:
        made.stopped.set()
        thread.join()
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def test_two_nodes_train_one_tower_and_nothing_of_the_job_is_left(trainer: Trainer, shop: Path):
    done = trainer.step(shop)
    assert done.returncode == 0, done.stderr
    tower = TwoTower.load(trainer.folder / "out")
    assert len(tower.item_vectors) == 60 and tower.config["figures"]["epochs"] == 2
    assert trainer.objects() == {"trainjobs": [], "trainingruntimes": []}
    assert not list((trainer.folder / "shared").iterdir())


def test_a_failed_job_is_told_and_leaves_its_checkpoint(trainer: Trainer, shop: Path):
    trainer.broken = True
    done = trainer.step(shop)
    assert done.returncode != 0 and "a node was lost too often" in done.stderr
    assert trainer.objects() == {"trainjobs": [], "trainingruntimes": []}
    (kept,) = (trainer.folder / "shared").iterdir()
    assert (kept / "shop" / "events.parquet").is_file()


def test_the_api_server_knows_every_field(trainer: Trainer):
    trainer.stopped.set()
    about = {"namespace": trainer.namespace}
    for made in (runtime("strict", trainer.wanted), train_job("strict", Path("/mnt/strict"), trainer.wanted)):
        trainer.cluster.apply([made | {"metadata": made["metadata"] | about}])
    (stored,) = trainer.objects()["trainingruntimes"]
    (node,) = stored["spec"]["template"]["spec"]["replicatedJobs"]
    spec = node["template"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["resources"]["limits"] == {"memory": "2Gi", "nvidia.com/gpu": 1}
    assert spec["nodeSelector"] == {"pool": "gpu"} and spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert {m["mountPath"] for m in container["volumeMounts"]} == {
        str(trainer.folder / "shared"), "/var/secrets/warehouse", "/dev/shm",
    }  # fmt: skip
    assert stored["spec"]["template"]["spec"]["failurePolicy"]["maxRestarts"] == 2
