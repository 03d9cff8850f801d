from __future__ import annotations

import numpy as np
import pytest

from longtail.monitoring.popularity import measure, spread, thinned


def test_the_four_figures_of_counts_that_can_be_worked_out_by_hand():
    even, one = spread(np.full(200, 3)), spread(np.eye(1, 200, 7)[0] * 50)
    assert (even.gini, even.coverage, even.entropy) == (pytest.approx(0), 1.0, pytest.approx(1))
    assert even.top1 == pytest.approx(0.01)
    assert (one.coverage, one.entropy, one.top1) == (1 / 200, pytest.approx(0), 1.0)
    assert one.gini == pytest.approx(199 / 200)


def test_a_busy_day_is_no_more_diverse_than_a_quiet_one():
    share = 1 / np.arange(1, 501)
    rng = np.random.default_rng(0)
    quiet, busy = (rng.multinomial(n, share / share.sum()) for n in (2_000, 50_000))
    assert spread(busy).coverage > spread(quiet).coverage + 0.2
    found = {m.name: m for m in measure(busy, quiet, 1_500)}
    for name in found:
        assert found[name].value == pytest.approx(found[name].training, abs=0.04), name


def test_few_places_say_nothing():
    found = measure(np.full(100, 5), None, 501)
    assert all(m.value != m.value and "501 are compared" in m.why_not for m in found)


def test_thinning_keeps_the_number_and_never_adds():
    counts = np.random.default_rng(1).integers(0, 9, 300)
    out = thinned(counts, 100)
    assert out.sum() == 100 and (out <= counts).all()
