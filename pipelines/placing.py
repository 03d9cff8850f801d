"""A pipeline as a platform file wants it: traced again, with image, resources and Kubernetes settings on every task."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl.pipeline_context import Pipeline

from components.deploy.component import deploy
from pipelines.platform import Deploy, Platform, Step


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


def place(task: dsl.PipelineTask, step: Step, platform: Platform) -> None:
    """Put what a step gets on its task."""
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
