"""What the committed manifests give the servers is what the servers take."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from longtail.cli import app
from longtail.engine.deployment import Deployment
from longtail.retraining.policy import Policy
from pipelines.platform import Platform
from serving.collector.config import CollectorConfig

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"


def objects() -> Iterator[dict[str, Any]]:
    for path in sorted(MANIFESTS.rglob("*.yaml")):
        if "patches" not in path.parts and path.name != "kustomization.yaml":
            yield from yaml.safe_load_all(path.read_text())


def within(value: Any) -> Iterator[dict[str, Any]]:
    """Every container of an object, wherever it stands."""
    if isinstance(value, dict):
        if "image" in value and "args" in value:
            yield value
        for inner in value.values():
            yield from within(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from within(inner)


CONTAINERS = [container for found in objects() for container in within(found)]


def file_of(name: str, key: str, folder: Path) -> Path:
    """A file that a ConfigMap of the base holds."""
    (found,) = [o for o in objects() if o["kind"] == "ConfigMap" and o["metadata"]["name"] == name]
    path = folder / key
    path.write_text(found["data"][key])
    return path


def test_servers_read_the_deployment_file(tmp_path: Path) -> None:
    deployment = Deployment.load(file_of("longtail-deployment", "deployment.yaml", tmp_path))
    assert {name: str(v.bundle) for name, v in deployment.variants.items()} == {
        "champion": "/mnt/claims/bundles/champion"
    }


def test_the_collector_reads_its_configuration(tmp_path: Path) -> None:
    config = CollectorConfig.load(file_of("longtail-collector", "collector.yaml", tmp_path))
    assert config.sink == "spool"


@pytest.mark.parametrize(
    "module", sorted({c["command"][2] for c in CONTAINERS if c["command"][:2] == ["python", "-m"]})
)
def test_servers_know_their_arguments(module: str) -> None:
    given = {
        re.split("[= ]", word)[0]
        for container in CONTAINERS if container["command"][2:] == [module]
        for word in container["args"]
    }  # fmt: skip
    shown = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True).stdout
    assert given and given <= set(re.findall(r"--[a-z_]+", shown))


@pytest.mark.parametrize("job", [c for c in CONTAINERS if c["command"] == ["longtail"]], ids=lambda job: job["name"])
def test_jobs_know_their_arguments(job: dict[str, Any]) -> None:
    command, *words = job["args"]
    taken = typer.main.get_command(app).commands[command]
    taken.make_context(command, list(words), allow_extra_args=False)


def test_jobs_read_the_policy_and_where_pipelines_run(tmp_path: Path) -> None:
    policy = Policy.load(file_of("longtail-jobs", "retrain.yaml", tmp_path))
    assert policy.run.where == "kubeflow"
    Platform.load(file_of("longtail-jobs", "platform.yaml", tmp_path))


def test_every_image_of_ours_can_be_built() -> None:
    names = {found[1] for container in CONTAINERS if (found := re.search(r"longtail-([a-z]+):", container["image"]))}
    files = {"pipelines": ROOT / "pipelines" / "Containerfile"}
    assert names
    for name in names:
        assert files.get(name, ROOT / "serving" / name / "Containerfile").is_file()
