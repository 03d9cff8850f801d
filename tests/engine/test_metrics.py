"""docs/metrics.md and the metrics themselves say the same."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from longtail import metrics

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(longtail_\w+)` \| (\w+) \|([^|]*)\| (\w+) \| (.+) \|$", re.M)


def defined() -> dict[str, tuple[str, tuple[str, ...]]]:
    found = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    return {m._name + ("_total" if m._type == "counter" else ""): (m._type, tuple(m._labelnames)) for m in found}


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    rows = ROW.findall(PAGE.read_text())
    return {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _, _ in rows}


def test_every_metric_is_documented_with_its_type_and_labels():
    assert documented() == defined()


def test_every_query_names_metrics_that_exist():
    queries = PAGE.read_text().split("## Recommender")[0]
    named = {re.sub(r"_bucket$", "", name) for name in re.findall(r"longtail_\w+", queries)}
    assert named and named <= set(defined())
