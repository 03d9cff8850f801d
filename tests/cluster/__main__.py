"""`python -m tests.cluster up | down`: a Kubernetes with simulated GPU nodes on loopback."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from tests.cluster import controller, crds
from tests.cluster.cluster import NODES, ControlPlane
from tests.cluster.tools import NotBuilt

STATE = Path(__file__).parents[2] / ".cluster" / "state"


def up(state: Path) -> None:
    """Start it, with its nodes and the definitions that the chart needs."""
    began = time.monotonic()
    cluster = ControlPlane(state)
    if cluster.processes.running("apiserver"):
        print(f"it runs already\nexport KUBECONFIG={cluster.kubeconfig}")
        return
    try:
        cluster.start()
        cluster.simulate(NODES)
        furnish(cluster)
    except BaseException:
        down(state)
        raise
    print(f"ready in {time.monotonic() - began:.0f} s\nexport KUBECONFIG={cluster.kubeconfig}")


def furnish(cluster: ControlPlane) -> None:
    """The definitions that the chart asks for of a cluster, and KServe's controller where its binary is named.

    Its definitions cannot always be had, then it says so.
    """
    program, files = controller.binary(), crds.of_modules()
    try:
        files.append(crds.kserve(cluster.folder))
    except NotBuilt as reason:
        if program:
            raise
        print(f"cluster: {reason}", file=sys.stderr)
    cluster.kubectl("apply", "--server-side", *(f"--filename={file}" for file in files))
    established = ["wait", "--for=condition=established", "crd", "--all", "--timeout=10s"]
    cluster.wait("the definitions", lambda: cluster.kubectl(*established), 600)  # one without a status yet is an error
    if program:
        controller.start(cluster, program)


def down(state: Path) -> None:
    """End every process of it, and remove its folder."""
    if state.is_dir():
        ControlPlane(state).stop()
        shutil.rmtree(state)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("verb", choices=["up", "down"])
    parser.add_argument("--state", type=Path, default=STATE, help="folder; another one is another cluster")
    given = parser.parse_args()
    try:
        {"up": up, "down": down}[given.verb](given.state.resolve())
    except (NotBuilt, FileNotFoundError) as error:
        sys.exit(f"cluster: {error}")
