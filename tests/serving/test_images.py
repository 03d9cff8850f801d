"""What goes into the images: of the lock, no more than each server needs, and a list of it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVERS = ("recommender", "retriever", "ranker", "collector")
OURS = {"longtail", "components", "pipelines", "serving"}
LISTS = [ROOT / "serving" / name / "requirements.txt" for name in SERVERS] + [ROOT / "pipelines" / "requirements.txt"]


def pins(file: Path) -> set[str]:
    lines = (line.split(" ")[0].split(";")[0] for line in file.read_text().splitlines())
    return {line for line in lines if "==" in line and not line.startswith("#")}


@pytest.mark.parametrize("file", LISTS, ids=lambda f: f.parent.name)
def test_an_image_takes_the_versions_that_the_tests_ran_with(file: Path):
    assert pins(file) and pins(file) <= pins(ROOT / "requirements.lock")


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_carries_no_training_library(name: str):
    taken = {pin.split("==")[0] for pin in pins(ROOT / "serving" / name / "requirements.txt")}
    assert not taken & {"torch", "mlflow", "evidently", "kfp", "duckdb", "scikit-learn", "pytest"}
    assert not {n for n in taken if n.startswith("nvidia-")} - {"nvidia-pytriton"}


# Imports a server's entry while every package that its image lacks is hidden.
IMPORTED = """
import importlib, importlib.util, re, sys
from importlib import metadata
taken = set(sys.argv[2:])
def listed(name):
    return re.sub(r"[-_.]+", "-", name).lower() in taken
hidden = {m for m, owners in metadata.packages_distributions().items() if not any(map(listed, owners))}
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden - {"longtail", "serving"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split(".")[0] in hidden else found(name, package)
sys.meta_path.insert(0, Hidden())
importlib.import_module(sys.argv[1])
if sys.argv[1] == "longtail.features.online":
    from pathlib import Path
    sys.modules[sys.argv[1]].local_store(Path.cwd())
"""


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        (
            "recommender",
            [
                "serving.recommender.app",
                "longtail.features.online",
                "longtail.features.views",
                "longtail.features.live_redis",
            ],
        ),
        ("retriever", ["serving.retriever.app"]),
        ("ranker", ["serving.ranker.server", "longtail.ranking.forest", "xgboost"]),
        ("collector", ["serving.collector.server", "serving.collector.drain"]),
    ],
)
def test_a_server_starts_with_what_its_image_holds(name: str, modules: list[str]):
    lists = sorted((ROOT / "serving" / name).glob("requirements*.txt"))
    taken = {pin.split("==")[0] for file in lists for pin in pins(file)}
    taken |= {"xgboost"} if "xgboost-cpu" in taken else set()
    for module in modules:
        done = subprocess.run(
            [sys.executable, "-c", IMPORTED, module, *taken], capture_output=True, text=True, cwd=ROOT
        )
        assert not done.returncode, done.stderr.splitlines()[-1]


def test_steps_and_jobs_find_what_they_import_in_their_image():
    # Written out of the sources, because commands and steps import most of it only when they run.
    lists = (ROOT / "pipelines" / "requirements.txt", ROOT / "serving" / "ranker" / "requirements-cpu.txt")
    taken = {pin.split("==")[0] for file in lists for pin in pins(file)} | {"xgboost"}
    owners = metadata.packages_distributions()
    lacking = {}
    for file in (file for top in ("longtail", "components", "pipelines") for file in (ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names - OURS:
                if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners.get(name, ())} & taken:
                    lacking[name] = file.relative_to(ROOT).as_posix()
    # The ranker's model runs inside Triton, which brings this one.
    assert lacking == {"triton_python_backend_utils": "longtail/engine/ranker_model.py"}


@pytest.mark.parametrize("name", [*SERVERS, "pipelines"])
def test_a_containerfile_runs_as_somebody_without_rights_and_names_no_registry(name: str):
    folder = ROOT / name if name == "pipelines" else ROOT / "serving" / name
    lines = (folder / "Containerfile").read_text().splitlines()
    assert "USER 65532:65532" in lines
    stages = [line.split()[1:] for line in lines if line.startswith("FROM ")]
    named = ["${BASE}", *(stage[2] for stage in stages[:-1])]
    assert all(base in named[: at + 1] for at, (base, *_) in enumerate(stages))


@pytest.mark.parametrize(("image", "said"), [("ranker-gpu", "no variant for GPUs"), ("rankr", "no image rankr")])
def test_an_image_that_is_not_there_is_not_built(image: str, said: str, tmp_path: Path):
    # Stand-ins, because what is asked here is answered before either of them runs.
    for program in ("buildah", "debootstrap"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    words = [ROOT / "serving" / "images.sh", tmp_path / "out", image]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "BASE": "any"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_list_of_an_image_names_debian_and_python_packages(tmp_path: Path):
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u1\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    )
    metadata = tmp_path / "app/lib/python3.11/site-packages/Some_Thing-1.2.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.4\nName: Some_Thing\nVersion: 1.2\nLicense-Expression: MIT\n\nText")
    words = [sys.executable, ROOT / "serving" / "sbom.py", tmp_path, "longtail-x", "1.0"]
    made = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    assert made["bomFormat"] == "CycloneDX" and made["metadata"]["component"]["name"] == "longtail-x"
    assert [c["purl"] for c in made["components"]] == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64", "pkg:pypi/some-thing@1.2",
    ]  # fmt: skip
    assert made["components"][1]["licenses"] == [{"expression": "MIT"}]
