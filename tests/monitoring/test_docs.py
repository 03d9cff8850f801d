"""docs/monitoring.md and the checks, metrics and settings themselves say the same."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from longtail.monitoring.checks import CHECKS, table
from longtail.monitoring.config import Override, Watch
from longtail.monitoring.exposition import METRICS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "monitoring.md").read_text()


def test_every_check_stands_there_as_it_is_judged():
    assert table() in PAGE, "put longtail.monitoring.checks.table() into docs/monitoring.md again"


def test_every_check_says_why_and_what_to_do():
    for check in CHECKS.values():
        assert check.bound == check.bound or check.change == check.change, check.name
        assert len(check.why) > 30 and len(check.do) > 5 and check.meaning.endswith("."), check.name


def test_every_metric_is_documented_with_its_labels():
    rows = re.findall(r"^\| `(longtail_monitor_\w+)` \|([^|]*)\|", PAGE, re.M)
    assert {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == {
        name: labels for name, (labels, _) in METRICS.items()
    }


def test_the_settings_it_shows_are_the_defaults_and_all_of_them(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (tmp_path / "watch.yaml").write_text(text)
    shown, default = Watch.load(tmp_path / "watch.yaml"), Watch()
    assert shown.model_copy(update={"checks": {}}) == default
    assert set(yaml.safe_load(text)) == set(Watch.model_fields)
    assert {key for check in yaml.safe_load(text)["checks"].values() for key in check} == set(Override.model_fields)
