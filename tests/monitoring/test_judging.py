from __future__ import annotations

from datetime import date, timedelta
from math import nan

import numpy as np
import pytest

from longtail.errors import InvalidInput
from longtail.monitoring.checks import CHECKS
from longtail.monitoring.config import Before, Watch
from longtail.monitoring.judging import Measured, judge, usual

TODAY = date(2024, 3, 1)


def days(values) -> dict[str, float]:
    """The values as those of the days before today, the last one yesterday's."""
    n = len(values)
    return {(TODAY - timedelta(n - i)).isoformat(): float(v) for i, v in enumerate(values)}


def verdict(name: str, value: float, past=(), error: float = 0.0, training: float = nan):
    return judge(CHECKS[name], Measured(name, "", value, error, training), TODAY.isoformat(), days(past), Before())


def test_a_value_fires_only_when_it_is_far_and_beyond_chance():
    steady = 0.10 + 0.002 * np.tile([-1, 0, 1, 0], 7)
    assert not verdict("ctr", 0.115, steady).fired  # 15%: not far
    assert verdict("ctr", 0.07, steady).fired
    assert verdict("ctr", 0.13, steady).fired
    assert not verdict("ctr", 0.07, steady, error=0.02).fired  # far, but a small day
    assert not verdict("conversion", 0.9, steady).fired  # better is no reason to call


def test_weekdays_are_held_against_their_own_kind():
    past = [1000.0 if (TODAY - timedelta(28 - i)).weekday() < 5 else 300.0 for i in range(28)]
    assert TODAY.weekday() == 4
    assert not verdict("events_volume", 980, past).fired
    assert verdict("events_volume", 300, past).fired
    sunday = (TODAY + timedelta(2)).isoformat()
    expected = usual(days(past), sunday, 28, 14)
    assert expected is not None and expected.centre < 600


def test_a_few_bad_days_before_change_nothing():
    past = np.full(28, 0.1) + 0.001 * np.tile([-1, 0, 1, 0], 7)
    past[-5:] = 0.9
    assert verdict("ctr", 0.05, past).fired
    assert verdict("ctr", 0.9, past).fired


def test_too_few_days_say_nothing_but_a_bound_holds_at_once():
    assert not verdict("ctr", 0.9, [0.1] * 13).fired
    assert verdict("ctr", 0.9, [0.1] * 14).fired
    assert verdict("bot_traffic", 0.06).fired and not verdict("bot_traffic", 0.04).fired


def test_a_bound_against_training_moves_with_it_and_needs_it():
    assert verdict("exposure_top1", 0.55, training=0.3).fired
    assert not verdict("exposure_top1", 0.55, training=0.4).fired
    assert not verdict("exposure_top1", 0.99).fired
    assert verdict("exposure_entropy", 0.6, training=0.8).fired


def test_drift_must_be_large_and_new():
    assert not verdict("feature_drift", 0.9, [0.1] * 6).fired  # too few days of this bundle
    assert not verdict("feature_drift", 0.3, [0.28, 0.29] * 10).fired
    assert verdict("feature_drift", 0.6, [0.28, 0.29] * 10).fired
    assert not verdict("feature_drift", 0.15, [0.01, 0.02] * 10).fired


def test_what_could_not_be_measured_says_why():
    found = judge(CHECKS["ctr"], Measured("ctr", "", nan, why_not="no lists"), "2024-03-01", {}, Before())
    assert (found.fired, found.reason) == (False, "no lists")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("checks:\n  ctrr: {z: 3}", "ctrr is no check"), ("checks:\n  ctr: {bound: 3}", "ctr has no bound"),
     ("checks:\n  ctr: {z: -3}", "line 2: checks.ctr.z"), ("before: {days: 10, least: 12}", "least"),
     ("rows: 200000", "line 1: rows")],
)  # fmt: skip
def test_a_mistake_in_the_settings_is_named(tmp_path, text, complaint):
    (tmp_path / "watch.yaml").write_text(text)
    with pytest.raises(InvalidInput, match=complaint):
        Watch.load(tmp_path / "watch.yaml")


def test_settings_change_a_check_or_leave_it_out(tmp_path):
    (tmp_path / "watch.yaml").write_text("checks:\n  ctr: {change: 0.5, severity: info}\n  revenue: {enabled: false}\n")
    watch = Watch.load(tmp_path / "watch.yaml")
    ctr = watch.check("ctr")
    assert ctr is not None and (ctr.change, ctr.severity, ctr.z) == (0.5, "info", CHECKS["ctr"].z)
    assert watch.check("revenue") is None and watch.check("model_age") == CHECKS["model_age"]
