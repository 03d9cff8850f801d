"""Custom resource definitions of what the chart builds on: out of pinned Go modules, KServe's out of a file."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.cluster.tools import NotBuilt

# By module: version, the sum that go.sum would hold, and the folder of its definitions.
MODULES = {
    "github.com/cert-manager/cert-manager":
        ("v1.21.2", "h1:UWgoYM+KLNtRlqmoWOKjKBOBUPVHeepQ6/ac3ERJW68=", "deploy/crds"),
    "github.com/kedacore/keda/v2":
        ("v2.21.0", "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=", "config/crd/bases"),
    "github.com/kubeflow/trainer/v2":
        ("v2.0.0", "h1:mnQSR9iPKItxyUR8mq66XsmxqKNVHwr9YYOB7BTU9dU=", "manifests/base/crds"),
    "github.com/prometheus-operator/prometheus-operator":
        ("v0.85.0", "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=", "example/prometheus-operator-crd"),
}  # fmt: skip
# KServe is on no module proxy: its definitions lie beside the project, or where LONGTAIL_KSERVE_CRDS says.
KSERVE = Path(__file__).parents[3] / "shared" / "data" / "kserve-crds" / "crds.json"


def of_modules() -> list[Path]:
    """Files with those of cert-manager, KEDA, Kubeflow Trainer and the Prometheus operator.

    Raises:
        NotBuilt: there is no Go, no proxy, or a module is not what was pinned.
    """
    found = []
    for module, (version, pinned, folder) in MODULES.items():
        try:
            done = subprocess.run(
                ["go", "mod", "download", "-json", f"{module}@{version}"], capture_output=True, text=True, cwd="/",
            )  # fmt: skip
            told = json.loads(done.stdout)
        except (OSError, ValueError) as error:
            raise NotBuilt(f"{module} cannot be had: {error}") from None
        if told.get("Sum") != pinned:
            raise NotBuilt(f"{module} {version} is not what was pinned: {told.get('Error') or told.get('Sum')}")
        found += sorted(Path(told["Dir"], folder).glob("*_*.yaml"))
    return found


def kserve() -> Path:
    """The file with KServe's definitions.

    Raises:
        NotBuilt: there is no such file.
    """
    file = Path(os.environ.get("LONGTAIL_KSERVE_CRDS") or KSERVE)
    file = file / "crds.json" if file.is_dir() else file
    if not file.is_file():
        raise NotBuilt("KServe's definitions are not here: name a file or folder with them in LONGTAIL_KSERVE_CRDS")
    return file
