from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import crds
from tests.cluster.__main__ import furnish
from tests.cluster.cluster import NODES, Cluster, ControlPlane
from tests.cluster.tools import NotBuilt


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane with simulated nodes; the cluster of `LONGTAIL_KUBECONFIG` where that is given."""
    folder = tmp_path_factory.mktemp("cluster")
    given = os.environ.get("LONGTAIL_KUBECONFIG")
    try:
        crds.kserve(folder)
        if given:
            yield Cluster(Path(given), folder)
            return
        made = ControlPlane(folder, tied=True)
        try:
            made.start()
            made.simulate(NODES)
            furnish(made)
            yield made
        finally:
            made.stop()
    except NotBuilt as reason:
        pytest.skip(str(reason))
