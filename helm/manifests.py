"""Writes `manifests/` from the chart: what `helm template` makes of the example values, for those without Helm.

    python -m helm.manifests --helm PATH           writes base and overlays
    python -m helm.manifests --helm PATH --check   exit code 1 when they differ from the chart

The base is the small example. An overlay holds the objects that its example has beside it, a JSON patch for each object
that differs, and leaves out what the example does not have. Objects are the chart's, less the labels that say that Helm
installed them, and the pod that `helm test` runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "longtail"
OUT = Path(__file__).parent.parent / "manifests"
RELEASE = NAMESPACE = "longtail"
KUBE_VERSION = "1.34.0"
PREREQUISITES = (
    "serving.kserve.io/v1beta1/InferenceService", "serving.kserve.io/v1alpha1/InferenceGraph",
    "monitoring.coreos.com/v1/ServiceMonitor", "keda.sh/v1alpha1/ScaledObject",
)  # fmt: skip
BASE, OVERLAYS = "small", ("gpu", "high-availability")
HELM_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by")
Object = dict[str, Any]
Key = tuple[str, str]


class _Dumper(yaml.SafeDumper):
    """Text of several lines as a block, so that a file in a ConfigMap reads like a file."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def render(helm: Path, example: str) -> dict[Key, Object]:
    """The objects of an example by kind and name, without what only Helm needs.

    Raises:
        SystemExit: helm refuses; its own words.
    """
    words = [
        helm, "template", RELEASE, CHART, "--namespace", NAMESPACE, "--kube-version", KUBE_VERSION, "--skip-tests",
        "--values", CHART / "examples" / f"{example}.yaml",
        *(word for name in PREREQUISITES for word in ("--api-versions", name)),
    ]  # fmt: skip
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip())
    objects = [found for found in yaml.safe_load_all(done.stdout) if found]
    return {(found["kind"], found["metadata"]["name"]): plain(found) for found in objects}


def plain(found: Object) -> Object:
    """An object without the labels and annotations that only Helm reads."""
    metadata = found["metadata"]
    for label in HELM_LABELS:
        metadata["labels"].pop(label, None)
    metadata.get("annotations", {}).pop("helm.sh/resource-policy", None)
    if metadata.get("annotations") == {}:
        del metadata["annotations"]
    return found


def patch(old: Any, new: Any, path: str = "") -> Iterator[Object]:
    """The JSON patch (RFC 6902) from one value to another; lists of unequal length are replaced whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            below = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
            if key not in new:
                yield {"op": "remove", "path": below}
            elif key not in old:
                yield {"op": "add", "path": below, "value": new[key]}
            else:
                yield from patch(old[key], new[key], below)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for n, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from patch(before, after, f"{path}/{n}")
    elif old != new:
        yield {"op": "replace", "path": path, "value": new}


def component_of(found: Object) -> str:
    """The file that an object belongs in: its component's."""
    return str(found["metadata"]["labels"]["app.kubernetes.io/component"])


def grouped(objects: dict[Key, Object]) -> dict[str, str]:
    """File names and contents, one file a component."""
    files: dict[str, list[Object]] = {}
    for found in objects.values():
        files.setdefault(f"{component_of(found)}.yaml", []).append(found)
    return {name: "---\n".join(dump(found) for found in files[name]) for name in sorted(files)}


def dump(value: Any) -> str:
    """YAML in the order of the chart."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def kustomization(**parts: Any) -> str:
    """A kustomization file."""
    return dump({"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", **parts})


def overlay(base: dict[Key, Object], objects: dict[Key, Object]) -> dict[str, str]:
    """The files of an overlay that makes `objects` out of `base`."""
    files = grouped({key: found for key, found in objects.items() if key not in base})
    resources, patches = ["../../base", *files], []
    for key, before in base.items():
        kind, name = key
        target = {"kind": kind, "name": name}
        if key not in objects:
            gone = {
                "apiVersion": before["apiVersion"],
                "kind": kind,
                "metadata": {"name": name, "namespace": NAMESPACE},
            }
            patches.append({"patch": dump({"$patch": "delete", **gone})})
            continue
        steps = list(patch(before, objects[key]))
        if steps:
            file = f"patches/{kind.lower()}-{name}.yaml"
            files[file] = dump(steps)
            patches.append({"path": file, "target": target})
    return {**files, "kustomization.yaml": kustomization(resources=resources, patches=patches)}


def written(helm: Path) -> dict[str, str]:
    """Every file of `manifests/` but its README, by path."""
    base = render(helm, BASE)
    files = {f"base/{name}": text for name, text in grouped(base).items()}
    names = [name.removeprefix("base/") for name in files]
    files["base/kustomization.yaml"] = kustomization(namespace=NAMESPACE, resources=names)
    files[f"overlays/{BASE}/kustomization.yaml"] = kustomization(resources=["../../base"])
    for example in OVERLAYS:
        for name, text in overlay(base, render(helm, example)).items():
            files[f"overlays/{example}/{name}"] = text
    return files


def main() -> int:
    """Write the files, or tell which differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--helm", type=Path, required=True, help="the helm command")
    parser.add_argument("--check", action="store_true", help="write nothing, tell what differs")
    given = parser.parse_args()
    files = written(given.helm)
    there = {str(path.relative_to(OUT)): path for path in OUT.rglob("*.yaml")}
    differ = [n for n in {**files, **there} if n not in there or n not in files or there[n].read_text() != files[n]]
    for name in differ:
        if given.check:
            print(f"manifests/{name} differs from the chart: run `make manifests`", file=sys.stderr)
        elif name in files:
            (OUT / name).parent.mkdir(parents=True, exist_ok=True)
            (OUT / name).write_text(files[name])
        else:
            there[name].unlink()
    return int(given.check and bool(differ))


if __name__ == "__main__":
    sys.exit(main())
