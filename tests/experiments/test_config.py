"""An experiment's file: what it means, and how its mistakes are told."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from longtail.errors import InvalidInput
from longtail.experiments.config import Experiment
from longtail.experiments.running import can_run

GOOD = """name: test
variants:
  a: {share: 0.5}
  b: {share: 0.5, bundle: challenger}
metric: revenue
minimum_effect: 0.02
dates: {start: 2024-03-01, end: 2024-03-15}
"""


def test_the_annotated_example_is_valid():
    found = Experiment.load(Path(__file__).resolve().parents[2] / "docs" / "experiment.yaml")
    assert (found.control, found.treatments) == ("control", ("deeper",))
    assert [m.name for m in found.metrics] == ["revenue", "conversion", "returns", "ctr", "big_orders"]
    assert found.metric.winsorise == 0.999 and found.metrics[2].sign == -1
    assert found.dates.days % 7 == 0
    can_run(found, datetime.now(UTC))  # as the README does


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("minimum_effect", "minimal_effect", "line 6: minimal_effect: unknown key"),
        ("share: 0.5, bundle", "share: 0.4, bundle", "line 2: variants: the shares sum to 0.9, they must sum to 1"),
        ("metric: revenue", "metric: income", "line 5: metric: no built-in metric 'income': say its `event`, or use"),
        ("metric: revenue", "metric:", "line 5: metric: name a metric (revenue, conversion, "),
        ("metric: revenue", "metric: revenue\nguardrails:\n  -", "line 7: guardrails[0]: expected keys and values"),
        ("metric: revenue", "metric: revenue\nalso: clicks", "line 6: also: expected a list, such as [a, b]"),
        ("end: 2024-03-15", "end: 2024-03-01", "line 7: dates: the end 2024-03-01 must come after the start"),
        ("metric: revenue", "metric: revenue\nalso: [revenue]", "the metric revenue stands there twice"),
        ("  b:", "  holdout:", "holdout is the name of those whom no experiment touches"),
        ("  a: {share: 0.5}", "  a: {share: 0.5, bundle: x}", ""),
        ("0.5, bundle: challenger}", "0.25, bundle: x}\n  c: {share: 0.25}", "c changes nothing: name a bundle"),
        (
            "name: test",
            "kind: holdout\nname: test",
            "kind: holdout compares the holdout with all others: leave out `variants`",
        ),
        (
            GOOD[: GOOD.index("metric:")],
            "kind: holdout\nname: test\n",
            "kind: holdout needs the share that is held out",
        ),
        ("metric: revenue", "unit: session\ncovariate_days: 7\nmetric: revenue", "a session has no days before it"),
    ],
)
def test_a_mistake_names_its_line(old, new, told):
    text = GOOD.replace(old, new, 1)
    if not told:
        assert Experiment.parse(text).variants["a"].changes
        return
    with pytest.raises(InvalidInput, match="experiment.yaml line") as caught:
        Experiment.parse(text)
    assert told in str(caught.value)


def test_an_a_a_test_changes_nothing():
    assert Experiment.parse(GOOD.replace(", bundle: challenger", "")).treatments == ("b",)
