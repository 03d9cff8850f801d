"""Builds the programs of a cluster out of pinned Go modules: `python -m tests.cluster.tools [PROGRAM ...]`."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

MODULES = Path(__file__).with_name("tools")
# What each module under tools/ builds: the program's name and its package. Each has a module of its own, so that
# the versions that one needs do not pull at another's.
PROGRAMS = {
    "kubernetes": {
        name: f"k8s.io/kubernetes/cmd/{name}"
        for name in (
            "kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy",
        )
    },
    "etcd": {"etcd": "go.etcd.io/etcd/server/v3"},
    "kwok": {"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
    "helm": {"helm": "helm.sh/helm/v3/cmd/helm"},
    "helm-unittest": {"helm-unittest": "github.com/helm-unittest/helm-unittest/cmd/helm-unittest"},
    "promtool": {"promtool": "github.com/prometheus/prometheus/cmd/promtool"},
    "coredns": {"coredns": "."},
    "kube-router": {"kube-router": "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"},
}  # fmt: skip
# What `setup-envtest` and others keep in one folder.
ASSETS = ("etcd", "kube-apiserver", "kubectl")


class NotBuilt(Exception):
    """A program cannot be had here; the message says why."""


def folder() -> Path:
    """Where the programs lie: `LONGTAIL_CLUSTER_BIN`, else `.cluster/bin` in the project."""
    return Path(os.environ.get("LONGTAIL_CLUSTER_BIN") or Path(__file__).parents[2] / ".cluster" / "bin").resolve()


def program(name: str, nice: int = 10) -> Path:
    """The path of a program, built now if it is not there or its module has changed since.

    Of what `KUBEBUILDER_ASSETS` holds nothing is built.

    Raises:
        NotBuilt: there is no Go, it is too old, or the module proxy does not answer.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and name in ASSETS and (given := Path(assets) / name).is_file():
        return given
    module = next(module for module, programs in PROGRAMS.items() if name in programs)
    built, stamp = folder() / name, folder() / f".{name}.pinned"
    pinned = _pinned(module)
    if built.is_file() and stamp.is_file() and stamp.read_text() == pinned:
        return built
    _build(module, PROGRAMS[module][name], built, nice)
    stamp.write_text(pinned)
    return built


def _pinned(module: str) -> str:
    files = sorted((MODULES / module).iterdir())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _build(module: str, package: str, built: Path, nice: int) -> None:
    if shutil.which("go") is None:
        raise NotBuilt(f"{built.name} cannot be built: there is no Go (named in tests/cluster/README.md)")
    print(f"building {built.name}, minutes the first time", file=sys.stderr, flush=True)
    built.parent.mkdir(parents=True, exist_ok=True)
    beside = built.with_name(f".{built.name}.{os.getpid()}")
    flags = ["-trimpath", "-ldflags", f"-s -w {_version(module)}".strip(), "-o", str(beside)]
    done = subprocess.run(
        ["go", "build", *flags, package], cwd=MODULES / module, capture_output=True, text=True,
        env={**os.environ, "CGO_ENABLED": "0"}, preexec_fn=lambda: os.nice(nice),
    )  # fmt: skip
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or [f"code {done.returncode}"]
        raise NotBuilt(f"{built.name} cannot be built: {last[0]}")
    beside.replace(built)


def _version(module: str) -> str:
    """Kubernetes learns its version from the linker; without it the API server takes itself for v0."""
    if module != "kubernetes":
        return ""
    found = re.search(r"k8s\.io/kubernetes v((\d+)\.(\d+)\.\d+)", (MODULES / module / "go.mod").read_text())
    assert found is not None
    at = "-X k8s.io/component-base/version"
    return f"{at}.gitVersion=v{found[1]} {at}.gitMajor={found[2]} {at}.gitMinor={found[3]}"


def main(names: list[str]) -> None:
    """Build the programs named, or all."""
    try:
        for name in names or [name for programs in PROGRAMS.values() for name in programs]:
            print(program(name))
    except NotBuilt as error:
        sys.exit(f"cluster: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
