"""A pipeline as a platform file wants it: traced again, with image, resources and Kubernetes settings on every task."""

from __future__ import annotations

import functools
import inspect
import json
from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl.pipeline_context import Pipeline

from components.deploy.component import deploy
from components.train_two_tower.placed import VARIABLE
from pipelines.platform import Deploy, Platform, Step, Toleration


def placed(pipeline: Any, platform: Platform) -> Any:
    """The same pipeline with what `platform` says on every task; `pipeline` itself stays as it is."""
    traced = pipeline.pipeline_func

    @functools.wraps(traced)
    def on_platform(*args: Any, **kwargs: Any) -> Any:
        outputs = traced(*args, **kwargs)
        if platform.deploy is not None and "register" in Pipeline.get_default_pipeline().tasks:
            registry = inspect.signature(traced).bind(*args, **kwargs).arguments["registry"]
            _deploy(registry, platform.deploy)
        tasks = Pipeline.get_default_pipeline().tasks
        for name, task in tasks.items():
            place(task, platform.of(name), platform)
        return outputs

    return dsl.pipeline(name=pipeline.name, description=pipeline.description)(on_platform)


def _deploy(registry: Any, wanted: Deploy) -> None:
    """A last step that puts the champion in front of people, whoever that is after this run."""
    task = deploy(registry=registry, version="champion", variant="champion", share=0.0, **wanted.model_dump())
    task.after(Pipeline.get_default_pipeline().tasks["register"])
    task.set_caching_options(False)


# What the nodes of a TrainJob get; the step's own pod, which waits for them, gets the default's.
OF_NODES = ("cpu", "memory", "accelerator", "node_selector", "tolerations", "shm")


def nodes_of(step: Step, platform: Platform) -> dict[str, Any]:
    """The TrainJob of a step, as `components.train_two_tower.train_job` reads it."""
    job = step.train_job
    assert job is not None
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for n, volume in enumerate(step.volumes):
        volumes.append({"name": f"claim-{n}", "persistentVolumeClaim": {"claimName": volume.claim}})
        mounts.append({"name": f"claim-{n}", "mountPath": volume.mount, "subPath": volume.sub_path})
    for n, secret in enumerate(s for s in step.secrets if s.mount is not None):
        volumes.append({"name": f"secret-{n}", "secret": {"secretName": secret.name, "optional": secret.optional}})
        mounts.append({"name": f"secret-{n}", "mountPath": secret.mount, "readOnly": True})
    if step.shm is not None:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": step.shm}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    env: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in step.env.items()]
    for secret in step.secrets:
        for key, name in secret.env.items():
            source = {"name": secret.name, "key": key, "optional": secret.optional}
            env.append({"name": name, "valueFrom": {"secretKeyRef": source}})
    resources: dict[str, dict[str, Any]] = {"requests": {}, "limits": {}}
    for what, share in (("cpu", step.cpu), ("memory", step.memory)):
        resources["requests"] |= {what: share.request} if share.request else {}
        resources["limits"] |= {what: share.limit} if share.limit else {}
    if step.accelerator is not None:
        resources["limits"][step.accelerator.type] = step.accelerator.limit
    container: dict[str, Any] = {
        "name": "node", "image": step.image, "env": env, "volumeMounts": mounts, "resources": resources,
    }  # fmt: skip
    spec: dict[str, Any] = {"containers": [container], "volumes": volumes, "nodeSelector": step.node_selector}
    spec["tolerations"] = [_taint(taint) for taint in step.tolerations]
    if platform.image_pull_policy is not None:
        container["imagePullPolicy"] = platform.image_pull_policy
    if platform.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in platform.image_pull_secrets]
    restarts = step.retries.count if step.retries else 0
    return {"folder": job.folder, "nodes": job.nodes, "processes": job.processes, "restarts": restarts, "spec": spec}


def _taint(taint: Toleration) -> dict[str, Any]:
    given = {"key": taint.key, "operator": taint.operator, "value": taint.value, "effect": taint.effect}
    return {k: v for k, v in {**given, "tolerationSeconds": taint.seconds}.items() if v not in ("", None)}


def place(task: dsl.PipelineTask, step: Step, platform: Platform) -> None:
    """Put what a step gets on its task."""
    if step.train_job is not None:
        task.set_env_variable(VARIABLE, json.dumps(nodes_of(step, platform)))
        step = step.model_copy(update={key: getattr(platform.defaults, key) for key in OF_NODES})
    task.set_container_image(step.image)
    given = {
        task.set_cpu_request: step.cpu.request,
        task.set_cpu_limit: step.cpu.limit,
        task.set_memory_request: step.memory.request,
        task.set_memory_limit: step.memory.limit,
    }
    for setter, value in given.items():
        if value is not None:
            setter(value)
    if step.accelerator is not None:
        task.set_accelerator_type(step.accelerator.type).set_accelerator_limit(step.accelerator.limit)
    for name, value in step.env.items():
        task.set_env_variable(name, value)
    if step.retries is not None:
        wait, longest = f"{step.retries.wait_s}s", f"{step.retries.longest_s}s"
        task.set_retry(step.retries.count, wait, step.retries.factor, longest)
    if step.timeout_s is not None:
        kubernetes.set_timeout(task, step.timeout_s)
    for key, value in step.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for taint in step.tolerations:
        kubernetes.add_toleration(
            task, taint.key or None, taint.operator, taint.value or None, taint.effect, taint.seconds
        )
    if step.shm is not None:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", "Memory", step.shm)
    for volume in step.volumes:
        kubernetes.mount_pvc(task, volume.claim, volume.mount, volume.sub_path)
    for secret in step.secrets:
        if secret.env:
            kubernetes.use_secret_as_env(task, secret.name, secret.env, secret.optional)
        if secret.mount is not None:
            kubernetes.use_secret_as_volume(task, secret.name, secret.mount, secret.optional)
    if platform.image_pull_policy is not None:
        kubernetes.set_image_pull_policy(task, platform.image_pull_policy)
    if platform.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(platform.image_pull_secrets))
