"""Names that YAML would read as something else (`123`, `true`) are the same text in the chart's objects."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm.chart_docs import CHART
from helm.manifests import KUBE_VERSION, PREREQUISITES
from tests.helm.test_chart import run, tool

pytestmark = pytest.mark.chart
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
PLAIN = "zqzq"  # occurs nowhere in the chart
HASHES = ("longtail.dev/configuration", "longtail.dev/runtime")
INSIDE = {
    "redis": {"enabled": True, "external": {"secret": ""}},
    "data": {"existingClaim": ""},
    "scaling": {"by": "hpa"},
}
OUTSIDE = {"redis": {"enabled": False}, "scaling": {"by": "keda"}, "retriever": {"gpu": {"count": 1}},
           "ranker": {"gpu": {"count": 1}}, "monitoring": {"enabled": True}, "graph": {"enabled": True}}  # fmt: skip
ALWAYS = {
    "network": {"policies": True},
    "jobs": {n: {"schedule": "@daily"} for n in ("precompute", "monitor", "retrain")},
}


class Go(yaml.SafeLoader):
    """Takes `1e3` for a number, as Kubernetes does."""


Go.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[0-9]+e[0-9]+$"), list("0123456789"))


def filled(schema: dict[str, Any], word: str) -> Any:
    """A value with `word` in each place of text that the schema leaves free; None where it leaves no such place."""
    kind = schema.get("type")
    if kind == "string":
        return None if {"enum", "pattern", "allOf"} & schema.keys() else word
    if kind == "array":
        inner = filled(schema["items"], word)
        return [inner if inner is not None else {word: word}]
    if kind != "object":
        return None
    found = {name: filled(inner, word) for name, inner in schema.get("properties", {}).items()}
    more = schema.get("additionalProperties")
    if more is True or isinstance(more, dict) and more.get("type") == "string":
        found[word] = word
    return {name: value for name, value in found.items() if value is not None}


def merged(*values: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for value in values:
        for name, inner in value.items():
            out[name] = merged(out.get(name, {}), inner) if isinstance(inner, dict) else inner
    return out


def objects(folder: Path, word: str, release: str, given: dict[str, Any]) -> Any:
    """What the chart makes where every free text is `word`; files in ConfigMaps are read, too."""
    variants = {name: {"uri": f"pvc://{word}/{word}", "share": 0.5} for name in ("champion", word)}
    path = folder / "values.yaml"
    path.write_text(json.dumps(merged(filled(SCHEMA, word), {"variants": variants}, ALWAYS, given)))
    done = run(
        tool("helm"), "template", release, CHART, "--namespace", word, "--kube-version", KUBE_VERSION, "--values", path,
        *(given for name in PREREQUISITES for given in ("--api-versions", name)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [one for one in yaml.load_all(done.stdout, Go) if one]
    for one in found:
        if one["kind"] == "ConfigMap":
            one["data"] = {name: yaml.load(text, Go) for name, text in one["data"].items()}
    return found


def renamed(value: Any, word: str) -> Any:
    if isinstance(value, dict):
        return {renamed(name, word): renamed(inner, word) for name, inner in value.items()}
    if isinstance(value, list):
        return [renamed(inner, word) for inner in value]
    return value.replace(PLAIN, word) if isinstance(value, str) else value


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """What is no list and no mapping, by its path; without the hashes over files, which follow their text."""
    if isinstance(value, dict):
        inside = [(f"{path}.{name!r}", inner) for name, inner in value.items() if name not in HASHES]
    elif isinstance(value, list):
        inside = [(f"{path}[{n}]", inner) for n, inner in enumerate(value)]
    else:
        return {path: value}
    return {name: leaf for where, inner in inside for name, leaf in leaves(inner, where).items()}


@pytest.mark.parametrize("given", [INSIDE, OUTSIDE], ids=["inside", "outside"])
@pytest.mark.parametrize("word", ["123", "1e3", "true", "null"])
def test_a_name_that_reads_like_something_else_stays_a_name(word: str, given: dict[str, Any], tmp_path: Path) -> None:
    names = (word, PLAIN) if word.isalpha() else ("shop", "shop")
    expected = leaves(renamed(objects(tmp_path, PLAIN, names[1], given), word))
    found = leaves(objects(tmp_path, word, names[0], given))
    assert {path: leaf for path, leaf in found.items() if leaf != expected.get(path)} == {}
    assert found.keys() == expected.keys()
