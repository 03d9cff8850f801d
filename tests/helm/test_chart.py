"""The chart under the tools that its users have: helm, helm-unittest, kustomize, promtool. `make chart-test`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from helm.chart_docs import CHART
from helm.manifests import BASE, KUBE_VERSION, NAMESPACE, OUT, OVERLAYS, RELEASE, plain, render, written
from tests.cluster.tools import NotBuilt, program

pytestmark = pytest.mark.chart
EXAMPLES = (BASE, *OVERLAYS)


def tool(name: str) -> Path:
    try:
        return program(name)
    except NotBuilt as error:
        pytest.skip(str(error))


def run(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("example", EXAMPLES)
def test_lint(example: str) -> None:
    done = run(
        tool("helm"), "lint", CHART, "--strict", "--kube-version", KUBE_VERSION,
        "--values", CHART / "examples" / f"{example}.yaml",
    )  # fmt: skip
    # lint knows no cluster, so the chart says that KServe is missing; nothing else may be wrong.
    errors = [line for line in done.stdout.splitlines() if line.startswith(("[ERROR]", "[WARNING]"))]
    assert [line for line in errors if "KServe is not installed" not in line] == [], done.stdout


def test_units() -> None:
    done = run(tool("helm-unittest"), CHART)
    assert done.returncode == 0, done.stdout


def test_a_missing_prerequisite_is_named() -> None:
    words = ["template", RELEASE, CHART, "--kube-version", KUBE_VERSION, "--set", "variants.champion.uri=pvc://b/c"]
    done = run(tool("helm"), *words)
    assert done.returncode == 1
    assert "KServe is not installed" in done.stderr


def test_an_old_cluster_is_refused() -> None:
    words = ["template", RELEASE, CHART, "--kube-version", "1.29.0", "--set", "variants.champion.uri=pvc://b/c"]
    assert "requires kubeVersion: >=1.30" in run(tool("helm"), *words).stderr


def test_manifests_are_written_from_the_chart() -> None:
    files = written(tool("helm"))
    there = {str(path.relative_to(OUT)): path.read_text() for path in OUT.rglob("*.yaml")}
    differ = sorted(name for name in {**files, **there} if files.get(name) != there.get(name))
    assert differ == [], "run `make manifests`"


@pytest.mark.parametrize("example", EXAMPLES)
def test_kustomize_and_helm_make_the_same_objects(example: str) -> None:
    chart = render(tool("helm"), example)
    done = run(tool("kubectl"), "kustomize", OUT / "overlays" / example)
    assert done.returncode == 0, done.stderr
    found = [plain(one) for one in yaml.safe_load_all(done.stdout)]
    assert {(one["kind"], one["metadata"]["name"]): one for one in found} == chart
    assert {one["metadata"]["namespace"] for one in found} == {NAMESPACE}


def rules(folder: Path) -> Path:
    """The rules of the high-availability example, as Prometheus reads them."""
    (found,) = [one for (kind, _), one in render(tool("helm"), "high-availability").items() if kind == "PrometheusRule"]
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(found["spec"]))
    return path


def test_every_alert_fires_when_it_should(tmp_path: Path) -> None:
    found = yaml.safe_load(rules(tmp_path).read_text())
    cases = Path(__file__).with_name("alerts.yaml")
    shutil.copy(cases, tmp_path)
    done = run(tool("promtool"), "test", "rules", "alerts.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    fired = {
        rule["alertname"]
        for case in yaml.safe_load(cases.read_text())["tests"] for rule in case["alert_rule_test"] if rule["exp_alerts"]
    }  # fmt: skip
    assert fired == {rule["alert"] for group in found["groups"] for rule in group["rules"]}


def test_rules_are_sound(tmp_path: Path) -> None:
    done = run(tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", rules(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
