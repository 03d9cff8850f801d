"""Every command of docs/platform.md, in its order, against an API server with simulated nodes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import threading
from pathlib import Path

import pytest
import typer

from longtail.cli import app
from tests.cluster import controller
from tests.cluster.cluster import Cluster, Refused
from tests.cluster.kserve import reconcile
from tests.cluster.tools import program

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
NAMESPACE = "longtail"
SERVICES = ("longtail-retriever", "longtail-recommender")
DEPLOYMENTS = (
    "longtail-retriever-predictor", "longtail-recommender-predictor", "longtail-recommender-transformer",
    "longtail-collector",
)  # fmt: skip
# What an experiment does to the deployment file is tested where experiments are.
CHANGE = "# changed\n"
# Simulated pods have no ports and no logs: of these the test only sees that what they name is there.
NEED_PODS = {
    "port-forward": lambda words, cluster: cluster.get("service", words[-2].removeprefix("service/"), NAMESPACE),
    "logs": lambda words, cluster: cluster.get("pod", namespace=NAMESPACE, selector=words[words.index("-l") + 1]),
}


def blocks() -> list[list[str]]:
    """The commands of each shell block of the tour."""
    text = (ROOT / "docs" / "platform.md").read_text()
    return [block.strip().splitlines() for block in re.findall(r"```sh\n(.*?)```", text, re.S)]


def volume(name: str, mode: str) -> dict:
    """A volume for whichever claim comes first: nothing provisions them here."""
    about = {"capacity": {"storage": "300Gi"}, "accessModes": [mode], "hostPath": {"path": f"/tmp/{name}"}}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": about}


def claim(name: str) -> dict:
    """A claim in the namespace of the tour."""
    spec = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that looks like a checkout in which somebody trained."""
    for name in ("helm", "manifests", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "pseudonym.key").write_text("0123456789abcdef\n")
    (tmp_path / "guard.yaml").write_text("keys: []\n")
    return tmp_path


class Tour:
    """Runs commands as a reader would, and does what KServe's controller and kubelets would do meanwhile."""

    def __init__(self, cluster: Cluster, place: Path) -> None:
        self.cluster, self.place = cluster, place
        programs = {str(program(name).parent) for name in ("kubectl", "helm")}
        path = os.pathsep.join([*programs, os.environ["PATH"]])
        self.environment = {**os.environ, **cluster.environment, "PATH": path}

    def command(self, line: str) -> str:
        """What the command prints."""
        words = shlex.split(line)
        if words[0] == "longtail":
            group = typer.main.get_command(app)
            group.commands[words[1]].commands[words[2]].make_context(words[2], words[3:])
            with (self.place / "deployment.yaml").open("a") as file:
                file.write(CHANGE)
            return ""
        if words[0] == "curl":
            assert words[2].startswith("localhost:8080/v1/")
            return ""
        for verb, there in NEED_PODS.items():
            if verb in words:
                assert there(words, self.cluster), line
                return ""
        self.before(words)
        done = subprocess.run(
            [*self.cluster.prefix, "bash", "-o", "pipefail", "-c", line],
            cwd=self.place, env=self.environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        self.after(words)
        return done.stdout

    def before(self, words: list[str]) -> None:
        """KServe says Ready when pods are; the test's pod ends well."""
        if words[:2] == ["helm", "install"]:
            self.cluster.apply([claim("bundles")])
        if "wait" in words:
            self.settled()
            for service in () if controller.runs(self.cluster) else SERVICES:
                ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
                where = ["-n", NAMESPACE, "inferenceservice", service, "--subresource=status", "--type=merge"]
                self.cluster.kubectl("patch", *where, "-p", json.dumps(ready))
        if words[:2] == ["helm", "test"]:
            threading.Thread(target=self.pass_the_test, daemon=True).start()

    def pass_the_test(self) -> None:
        """End the pod of `helm test` as its container would."""
        ended = {"status": {"phase": "Succeeded"}}
        words = ["-n", NAMESPACE, "pod", "longtail-test", "--subresource=status", "--type=merge"]
        words += ["-p", json.dumps(ended)]
        self.cluster.wait("the pod of helm test", lambda: self.cluster.kubectl("patch", *words))

    def after(self, words: list[str]) -> None:
        """KServe makes Deployments of what changed."""
        if words[:2] in (["helm", "install"], ["helm", "upgrade"], ["helm", "rollback"]) or words[1] == "apply":
            reconcile(self.cluster, NAMESPACE)

    def settled(self) -> None:
        """Wait until every Deployment has the pods that it wants."""
        for name in DEPLOYMENTS:
            words = ["-n", NAMESPACE, "rollout", "status", f"deployment/{name}", "--timeout=60s"]
            self.cluster.kubectl(*words)

    def deployed(self) -> str:
        """The deployment file as servers see it."""
        return self.cluster.get("configmap", "longtail-deployment", NAMESPACE)["data"]["deployment.yaml"]


def test_every_command_of_the_tour(cluster: Cluster, place: Path) -> None:
    modes = ["ReadWriteOnce", "ReadOnlyMany"] * 2
    storage = [] if controller.runs(cluster) else [controller.STORAGE]
    cluster.apply([*storage, *(volume(f"tour-{n}", mode) for n, mode in enumerate(modes))])
    tour = Tour(cluster, place)
    said = {}
    for block in blocks():
        if "apply --server-side -k" in block[0]:  # the section before it removed the namespace
            cluster.kubectl("create", "namespace", NAMESPACE)
            cluster.apply([claim("bundles")])
        for line in block:
            said[line] = tour.command(line)
            if line.startswith("helm install"):
                installed = tour.deployed()
            if '"share": 0.9' in line:
                assert '"challenger": {bundle: /mnt/claims/bundles/next, share: 0.1}' in tour.deployed()
            if "variants.challenger=null" in line:
                assert (
                    tour.deployed().strip() == 'variants:\n  "champion": {bundle: /mnt/claims/bundles/next, share: 1}'
                )
            if "rbac.deployers" in line:
                assert tour.deployed().endswith(CHANGE)
            if line.startswith("helm rollback"):
                assert tour.deployed() == installed
            if line.startswith("helm uninstall"):
                left = cluster.get("pvc", namespace=NAMESPACE)
                assert "longtail-data" in [one["metadata"]["name"] for one in left]
    assert said[next(line for line in said if "can-i patch" in line)].strip() == "yes"
    assert any(line.startswith("helm test") for line in said)
    with pytest.raises(Refused, match="not found"):
        cluster.get("inferenceservice", "longtail-retriever", NAMESPACE)
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
