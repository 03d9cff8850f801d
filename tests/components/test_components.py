"""Every component is thin, imports cheaply, and its folder says what it is."""

import ast
import inspect
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
STEPS = (
    "ingest",
    "build_features",
    "train_two_tower",
    "build_index",
    "build_candidates",
    "train_ranker",
    "evaluate",
    "off_policy",
    "register",
    "fetch_champion",
    "warm_two_tower",
    "warm_candidates",
    "warm_ranker",
    "deploy",
    "monitor",
)


def component(step: str):
    return getattr(import_module(f"components.{step}.component"), step)


def test_there_is_one_folder_a_step():
    assert sorted(p.parent.name for p in (ROOT / "components").glob("*/component.py")) == sorted(STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_the_body_only_calls_the_library(step):
    tree = ast.parse(inspect.cleandoc(inspect.getsource(component(step).python_func)))
    function = tree.body[0]
    body = [n for n in function.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    assert len(body) <= 10
    assert body[-1].end_lineno - body[0].lineno < 20
    imported = {n.module for n in ast.walk(function) if isinstance(n, ast.ImportFrom)}
    # the steps that change a cluster have that part beside them: longtail knows no Kubernetes
    clusters = {"deploy": "components.deploy.rollout", "train_two_tower": "components.train_two_tower.placed"}
    library = {"longtail", "longtail.training", "longtail.evaluation.gate"}
    beside = {clusters[step]} if step in clusters else library
    assert imported <= beside | {"pathlib"}, imported
    assert not [n for n in ast.walk(function) if isinstance(n, ast.For | ast.While | ast.If | ast.Try)]


def test_what_lies_beside_a_step_can_be_imported_while_it_runs():
    beside = "components.deploy.rollout, components.train_two_tower.placed, components.train_two_tower.train_job"
    done = subprocess.run(
        [sys.executable, "-c", f"import {beside}"], env=os.environ | {"_KFP_RUNTIME": "true"}, cwd=ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("step", STEPS)
def test_its_metadata_lists_its_inputs_and_outputs(step):
    spec = component(step).component_spec
    metadata = yaml.safe_load((ROOT / "components" / step / "metadata.yaml").read_text())
    assert metadata["name"] == step
    assert list(metadata["inputs"]) == list(spec.inputs or {})
    assert list(metadata["outputs"]) == list(spec.outputs or {})
    readme = (ROOT / "components" / step / "README.md").read_text()
    for name in [*(spec.inputs or {}), *(spec.outputs or {})]:
        assert f"`{name}`" in readme, name


def test_defining_all_components_imports_none_of_the_libraries_they_use():
    heavy = ("torch", "mlflow", "xgboost", "feast", "duckdb", "faiss", "pandas", "longtail.training")
    imports = "; ".join(f"import components.{step}.component" for step in STEPS)
    code = f"import sys; {imports}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
