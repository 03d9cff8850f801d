"""Custom resource definitions of what the chart builds on: out of pinned Go modules, KServe's out of a file."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.cluster.tools import NotBuilt

# By module: version, the sum that go.sum would hold, the folder of its definitions, and those that are wanted: each
# costs the API server its time.
MODULES = {
    "github.com/cert-manager/cert-manager": (
        "v1.21.2", "h1:UWgoYM+KLNtRlqmoWOKjKBOBUPVHeepQ6/ac3ERJW68=", "deploy/crds",
        ["cert-manager.io_certificates", "cert-manager.io_issuers"],
    ),
    "github.com/kedacore/keda/v2": (
        "v2.21.0", "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=", "config/crd/bases",
        ["keda.sh_scaledobjects", "keda.sh_triggerauthentications"],
    ),
    "github.com/kubeflow/trainer/v2": (
        "v2.0.0", "h1:mnQSR9iPKItxyUR8mq66XsmxqKNVHwr9YYOB7BTU9dU=", "manifests/base/crds",
        ["trainer.kubeflow.org_trainjobs", "trainer.kubeflow.org_trainingruntimes"],
    ),
    "github.com/prometheus-operator/prometheus-operator": (
        "v0.85.0", "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=", "example/prometheus-operator-crd",
        ["monitoring.coreos.com_servicemonitors", "monitoring.coreos.com_prometheusrules"],
    ),
}  # fmt: skip
KINDS = (
    "InferenceService", "ServingRuntime", "ClusterServingRuntime", "ClusterStorageContainer", "InferenceGraph",
    "TrainedModel",
)  # fmt: skip
# KServe is on no module proxy: its definitions lie beside the project, or where LONGTAIL_KSERVE_CRDS says.
KSERVE = Path(__file__).parents[3] / "shared" / "data" / "kserve-crds" / "crds.json"


def of_modules() -> list[Path]:
    """Files with those of cert-manager, KEDA, Kubeflow Trainer and the Prometheus operator.

    Raises:
        NotBuilt: there is no Go, no proxy, or a module is not what was pinned.
    """
    found = []
    for module, (version, pinned, folder, wanted) in MODULES.items():
        try:
            done = subprocess.run(
                ["go", "mod", "download", "-json", f"{module}@{version}"], capture_output=True, text=True, cwd="/",
            )  # fmt: skip
            told = json.loads(done.stdout)
        except (OSError, ValueError) as error:
            raise NotBuilt(f"{module} cannot be had: {error}") from None
        if told.get("Sum") != pinned:
            raise NotBuilt(f"{module} {version} is not what was pinned: {told.get('Error') or told.get('Sum')}")
        found += [Path(told["Dir"], folder, f"{name}.yaml") for name in wanted]
    return found


def kserve(folder: Path) -> Path:
    """A file, in `folder`, with those of KServe that the chart uses.

    Raises:
        NotBuilt: KServe's file is not there.
    """
    file = Path(os.environ.get("LONGTAIL_KSERVE_CRDS") or KSERVE)
    file = file / "crds.json" if file.is_dir() else file
    if not file.is_file():
        raise NotBuilt("KServe's definitions are not here: name a file or folder with them in LONGTAIL_KSERVE_CRDS")
    told = json.loads(file.read_text())
    told["items"] = [item for item in told["items"] if item["spec"]["names"]["kind"] in KINDS]
    chosen = folder / "kserve.json"
    chosen.write_text(json.dumps(told))
    return chosen
