from datetime import date, timedelta

import numpy as np
import pytest

from longtail.monitoring.checks import CHECKS
from longtail.monitoring.config import Before, Override, Watch
from longtail.monitoring.judging import Measured
from longtail.monitoring.lasting import DAYS, measure, summed

BEFORE = 28
BOUND = CHECKS["lasting_change"].bound
ALL = [(date(2024, 1, 1) + timedelta(days=n)).isoformat() for n in range(BEFORE + DAYS)]


def shares(shift: float, runs: int = 400) -> float:
    rng = np.random.default_rng(5)
    days = rng.normal(100, 1, (runs, len(ALL)))
    days[:, BEFORE:] -= shift
    sums = [summed(dict(zip(ALL, v, strict=True)), ALL[-1], 0, -1, 0, BOUND, Before()) for v in days]
    return float(np.mean(np.array(sums) > BOUND))


def test_a_quiet_figure_hardly_calls_and_a_lasting_fall_does() -> None:
    assert shares(0.0) < 0.01
    assert shares(1.5) > 0.75
    assert shares(-1.5) == 0.0  # a rise is no fall


def test_one_bad_day_does_not_call() -> None:
    values = {d: 100.0 + n % 2 for n, d in enumerate(ALL)} | {ALL[-1]: 0.0}
    assert 0 < summed(values, ALL[-1], 1, -1, 0, BOUND, Before()) < BOUND


@pytest.mark.parametrize(("name", "to"), [("ctr", 0.0075), ("purchase_value", 0.0115)])
def test_changes_that_no_day_would_show_are_told_of_the_figure(name: str, to: float) -> None:
    rng = np.random.default_rng(1)
    values = dict(zip(ALL, 0.01 * rng.normal(1, 0.05, len(ALL)), strict=True)) | dict.fromkeys(ALL[-5:], to)
    found = [Measured(name, "", to, error=0.0005)]
    one = measure(found, {(name, ""): values}, ALL[-1], Watch())[0]
    assert (one.name, one.part) == ("lasting_change", name)
    assert one.value > BOUND


def test_a_change_nobody_cares_about_is_not_told() -> None:
    values = {d: 100.0 + 0.1 * (n % 2) for n, d in enumerate(ALL)} | dict.fromkeys(ALL[-10:], 98.0)
    assert measure([Measured("ctr", "", 98.0)], {("ctr", ""): values}, ALL[-1], Watch())[0].value == 0.0


def test_it_says_nothing_without_enough_days_or_where_it_is_left_out() -> None:
    few = {("ctr", ""): dict.fromkeys(ALL[-30:], 1.0)}
    assert np.isnan(measure([Measured("ctr", "", 1.0, 0.1)], few, ALL[-1], Watch())[0].value)
    off = Watch(checks={"lasting_change": Override(enabled=False)})
    assert measure([Measured("ctr", "", 1.0, 0.1)], few, ALL[-1], off) == []
