"""The two-tower as a Kubeflow TrainJob: pods on several nodes, joined by torchrun, over a folder that all of them see.

The step's own pod copies the shop into that folder, makes the job, waits for it and fetches the tower. The runtime that
the job refers to is the job's own, so that nothing needs to be there but Kubeflow Trainer.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubernetes import dynamic
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import NotFoundError

from components import cluster
from longtail.cli.terminal import ending_on_signals
from longtail.errors import LongtailError
from longtail.steps.folders import fingerprint, fresh

API = "trainer.kubeflow.org/v1alpha1"
PROCESS = "components.train_two_tower.process"


class NotTrained(LongtailError):
    """The job failed."""

    exit_code = 1


def train_on_nodes(
    shop: Path, out: Path, config: str, wanted: dict[str, Any], say: Callable[[str], None] = print, every_s: float = 5.0
) -> dict[str, Any]:
    """Train on the shop into `out`, and return the figures.

    `wanted`, from `pipelines.placing`: `folder`, `nodes`, `processes` of each, `restarts`, and the pod's `spec`. A job
    of the same shop, configuration and settings that is there already is waited for; what it left in the folder is
    gone on with.

    Raises:
        NotTrained: the job failed, or somebody removed it.
        InvalidInput, Unavailable: the cluster has no Kubeflow Trainer, or refuses the job.
    """
    name = f"two-tower-{_identity(shop, config, wanted)}"
    shared = Path(wanted["folder"]) / name
    if not (shared / "shop").is_dir():  # the last to be put there: with it, all is there
        shared.mkdir(parents=True, exist_ok=True)
        (shared / "config.json").write_text(config)
        with fresh(shared / "shop") as folder:
            shutil.copytree(shop, folder, dirs_exist_ok=True)
    job = Job(name, cluster.own_namespace(), cluster.connect())
    with ending_on_signals(), job.running(shared, wanted):
        say(f"TrainJob {name} in {job.namespace}: {wanted['nodes']} nodes of {wanted['processes']} processes")
        while not (state := job.state()):
            time.sleep(every_s)
    if state != "Complete":
        raise NotTrained(
            f"TrainJob {name} failed ({state}): its pods' logs say why; what it learned stays in {shared}, and another "
            "try goes on from there"
        )
    with fresh(out) as folder:
        shutil.copytree(shared / "out", folder, dirs_exist_ok=True)
    shutil.rmtree(shared)
    return json.loads((out / "config.json").read_text())["figures"]


class Job:
    """A TrainJob and its TrainingRuntime, both called `name`."""

    def __init__(self, name: str, namespace: str, api: dynamic.DynamicClient) -> None:
        self.name, self.namespace, self._api = name, namespace, api

    @contextmanager
    def running(self, shared: Path, wanted: dict[str, Any]) -> Iterator[None]:
        """Make both, and remove them in the end, however it came."""
        try:
            for made in (runtime(self.name, wanted), train_job(self.name, shared, wanted)):
                self._create(made)
            yield
        finally:
            for kind in ("TrainJob", "TrainingRuntime"):
                self._delete(kind)

    def state(self) -> str:
        """Empty while it runs, `Complete`, or why it failed."""
        try:
            found = self._kind("TrainJob").get(name=self.name, namespace=self.namespace).to_dict()
        except NotFoundError:
            return "somebody removed it"
        except ApiException as error:
            if (error.status or 500) >= 500:
                return ""  # an API server that restarts is asked again
            raise cluster.told(error) from None
        conditions = {
            c["type"]: c for c in (found.get("status") or {}).get("conditions") or [] if c["status"] == "True"
        }
        if failed := conditions.get("Failed"):
            return failed.get("message") or failed.get("reason") or "no reason given"
        return "Complete" if "Complete" in conditions else ""

    def _create(self, made: dict[str, Any]) -> None:
        kind = self._kind(made["kind"])
        while True:
            try:
                kind.create(body=made, namespace=self.namespace)
                return
            except ApiException as error:
                if error.status != 409:
                    raise cluster.told(error) from None
            try:
                found = kind.get(name=self.name, namespace=self.namespace).to_dict()
            except NotFoundError:
                continue  # it went meanwhile, so there is room now
            if "deletionTimestamp" not in found["metadata"]:
                return  # an earlier try of this step made it
            time.sleep(1)

    def _delete(self, kind: str) -> None:
        try:
            self._kind(kind).delete(name=self.name, namespace=self.namespace, propagation_policy="Foreground")
        except NotFoundError:
            return  # somebody was sooner
        except ApiException as error:
            sys.stderr.write(f"{kind} {self.name} could not be removed: {cluster.told(error)}\n")

    def _kind(self, kind: str) -> Any:
        return cluster.resource(self._api, API, kind, "Kubeflow Trainer")


def runtime(name: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """What a node of the job runs, but for the command; a lost node lets all start again, from the last checkpoint."""
    node = {
        "name": "node",
        "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            "spec": {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", **wanted["spec"]}}},
        },
    }
    jobs = {"failurePolicy": {"maxRestarts": wanted["restarts"]}, "replicatedJobs": [node]}
    policy = {"numNodes": wanted["nodes"], "torch": {"numProcPerNode": wanted["processes"]}}
    return {"apiVersion": API, "kind": "TrainingRuntime", "metadata": {"name": name},
            "spec": {"mlPolicy": policy, "template": {"spec": jobs}}}  # fmt: skip


def train_job(name: str, shared: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The job: torchrun finds the other nodes by the variables that Kubeflow Trainer sets."""
    places = [str(shared / part) for part in ("shop", "out", "config.json")]
    trainer = {
        "numNodes": wanted["nodes"], "numProcPerNode": wanted["processes"],
        "command": ["torchrun"], "args": ["-m", PROCESS, *places],
    }  # fmt: skip
    about = {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": name}
    return {"apiVersion": API, "kind": "TrainJob", "metadata": {"name": name},
            "spec": {"runtimeRef": about, "trainer": trainer}}  # fmt: skip


def _identity(shop: Path, config: str, wanted: dict[str, Any]) -> str:
    """The same for every try of a step, and for no other step."""
    return hashlib.sha256(json.dumps([fingerprint(shop), config, wanted], sort_keys=True).encode()).hexdigest()[:12]
