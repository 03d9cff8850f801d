"""Comments of values.yaml make the schema and the README; dashboards and alerts name metrics that exist."""

from __future__ import annotations

import re

import pytest
import yaml
from prometheus_client import Counter, Histogram

from helm.chart_docs import CHART, comment, read, written
from longtail import metrics
from longtail.monitoring.exposition import METRICS

METRIC = re.compile(r"\blongtail_[a-z_]+")


@pytest.mark.parametrize("name", ["values.schema.json", "README.md"])
def test_schema_and_readme_follow_from_the_comments(name: str) -> None:
    assert (CHART / name).read_text() == written()[CHART / name], "run `make chart-docs`"


def test_a_value_without_a_comment_is_named() -> None:
    text = "# Fine.\na: 1\nb:\n  c: 2\n"
    with pytest.raises(ValueError, match=r"b\.c has no comment"):
        read(yaml.compose(text), text.splitlines())


def test_keywords_stand_in_the_last_line_of_a_comment() -> None:
    lines = ["# How", "# many.", "# @schema {minimum: 1}", "pods: 3"]
    assert comment(lines, 3) == ("How many.", {"minimum": 1})


def test_an_integer_becomes_a_number_where_its_bound_is_one() -> None:
    text = "# Share.\n# @schema {minimum: 0.5}\nshare: 1\n"
    (share,) = read(yaml.compose(text), text.splitlines())
    assert share.schema == {"description": "Share.", "type": "number", "minimum": 0.5}


def exported() -> set[str]:
    """The names under which our metrics appear on /metrics."""
    found = set(METRICS)  # of the nightly check
    for metric in vars(metrics).values():
        name = getattr(metric, "_name", "")
        if isinstance(metric, Counter):
            found.add(f"{name}_total")
        elif isinstance(metric, Histogram):
            found |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
        elif name:
            found.add(name)
    return found


@pytest.mark.parametrize(
    "path",
    [*sorted((CHART / "dashboards").glob("*.yaml")), CHART / "templates" / "monitoring" / "prometheusrule.yaml"],
    ids=lambda path: path.stem,
)
def test_dashboards_and_alerts_name_metrics_that_exist(path) -> None:
    named = set(METRIC.findall(path.read_text()))
    # An alert's advice may name a family.
    families = {name.removesuffix("_bucket").removesuffix("_total") for name in exported()} | exported()
    assert named, f"{path} names none"
    assert named <= families, f"unknown: {sorted(named - families)}"
