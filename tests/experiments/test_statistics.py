"""The statistics against known answers."""

import numpy as np
import pytest
from scipy import stats

from longtail.experiments import sequential
from longtail.experiments.estimate import compare, holm, ratio_check
from longtail.experiments.interleaving import credit, judge, team_draft
from longtail.experiments.moments import Moments

RNG = np.random.default_rng(0)


def test_a_mean_over_units_is_welchs_t_test():
    a, b = RNG.gamma(1, 2, 300), RNG.gamma(1, 3, 90)
    effect = compare(Moments.of(a), Moments.of(b))
    expected = stats.ttest_ind(b, a, equal_var=False)
    assert (float(effect.z), float(effect.p_value())) == (
        pytest.approx(expected.statistic), pytest.approx(expected.pvalue))  # fmt: skip
    interval = expected.confidence_interval(0.95)
    assert float(effect.difference - effect.width(0.05) * effect.se) == pytest.approx(interval.low)
    assert float(effect.lift) == pytest.approx(b.mean() / a.mean() - 1)


def test_a_lift_points_where_the_difference_does_also_where_more_comes_back_than_is_sold():
    rng = np.random.default_rng(0)
    worse, better = rng.normal(-4, 1, 5000), rng.normal(-2, 1, 5000)
    effect = compare(Moments.of(worse), Moments.of(better))
    assert effect.lift == pytest.approx(0.5, abs=0.02) and 0 < effect.lift_se < 0.02


def test_cuped_takes_out_what_the_days_before_explain():
    before = RNG.gamma(2, 2, 4_000)
    now = before + RNG.normal(0, 1, 4_000)
    treated = RNG.random(4_000) < 0.5
    arms = [Moments.of(now[of], c=before[of]) for of in (~treated, treated)]
    adjusted, plain = compare(*arms), compare(*arms, cuped=False)
    assert float(adjusted.kept) == pytest.approx(1 - np.corrcoef(now, before)[0, 1] ** 2, rel=0.05)
    assert float(adjusted.se) == pytest.approx(float(plain.se) * np.sqrt(float(adjusted.kept)))
    useless = compare(*[Moments.of(now[of]) for of in (~treated, treated)])
    assert float(useless.kept) == 1 and float(useless.se) == float(plain.se)


def test_a_ratio_metric_knows_that_a_units_events_go_together():
    shown = 1 + RNG.poisson(20, 2_000)
    clicks = RNG.binomial(shown, RNG.beta(2, 8, 2_000))
    found = compare(Moments.of(clicks[:1000], shown[:1000]), Moments.of(clicks[1000:], shown[1000:]))
    rate = clicks.sum() / shown.sum()
    naive = np.sqrt(rate * (1 - rate) * 4 / shown.sum())
    drawn = RNG.integers(0, 1000, (2, 2_000, 1000)) + np.array([0, 1000])[:, None, None]
    spread = np.diff(clicks[drawn].sum(-1) / shown[drawn].sum(-1), axis=0).std()
    assert float(found.se) == pytest.approx(spread, rel=0.06) and spread > 1.3 * naive


def test_units_that_never_vary_give_no_false_certainty():
    same = compare(Moments.of(np.zeros(50)), Moments.of(np.zeros(50)))
    assert float(same.p_value()) == 1 and float(same.z) == 0


def test_an_uneven_split_is_found():
    assert ratio_check([5_000, 5_050], [0.5, 0.5]) > 0.5
    assert ratio_check([[5_000, 5_400], [900, 9_100]], [0.5, 0.5]).max() < 1e-4
    assert ratio_check([900, 9_100], [0.1, 0.9]) > 0.0005


def test_holm_corrects_what_is_known():
    np.testing.assert_allclose(holm([0.01, np.nan, 0.04, 0.03]), [0.03, np.nan, 0.06, 0.06])


def test_the_boundary_and_its_p_value_say_the_same():
    time = np.array([0.5, 3.0, 40.0])
    reach = sequential.width(time, 0.05)
    np.testing.assert_allclose(sequential.p_value(reach, time), 0.05)
    lowest = sequential.best_time(0.05)
    assert sequential.width(lowest, 0.05) < min(
        sequential.width(lowest * 0.9, 0.05), sequential.width(lowest * 1.1, 0.05)
    )
    assert np.isinf(sequential.width(0.0, 0.05)) and sequential.p_value(9.0, 0.0) == 1
    assert 1.5 < sequential.inflation(0.05, 0.8) < 2


def test_a_random_walk_crosses_the_boundary_no_more_often_than_it_may():
    walks = np.cumsum(RNG.normal(size=(2_000, 400)), axis=1)
    seen = np.arange(1, 401)
    reach = sequential.width(seen / 400 * sequential.best_time(0.05), 0.05)
    assert 0.005 < (np.abs(walks) > reach * np.sqrt(seen)).any(axis=1).mean() < 0.05
    assert (np.abs(walks) > 1.96 * np.sqrt(seen)).any(axis=1).mean() > 0.3


def test_team_draft_takes_each_teams_best_and_both_equally_often():
    a, b = np.tile([1, 2, 3, 4, -1], (2_000, 1)), np.tile([2, 9, 1, 8, 7], (2_000, 1))
    items, team = team_draft(a, b, 6, np.random.default_rng(1))
    assert all(len(set(row)) == 6 for row in items.tolist())
    assert set(items[:, 0].tolist()) == {1, 2} and abs((team[:, 0] == 0).mean() - 0.5) < 0.04
    assert (np.sort(team[:, :4].reshape(-1, 2, 2), axis=2) == [0, 1]).all()  # one of each in every round
    short, by = team_draft(np.array([[1, -1]]), np.array([[1, -1]]), 3, np.random.default_rng(1))
    assert short.tolist() == [[1, -1, -1]] and by[0, 1:].tolist() == [-1, -1]


def test_a_duel_is_decided_by_units():
    unit, team = np.repeat(np.arange(400), 3), np.tile([1, 1, 0], 400)
    clicks = credit(unit, np.where(unit < 300, team, 1 - team), 500)
    duel = judge(clicks)
    assert (duel.for_b, duel.for_a, duel.units) == (300, 100, 500) and clicks[0].tolist() == [1, 2]
    assert duel.preference == pytest.approx((700 - 500) / 1200) and duel.p < 1e-6 and duel.low > 0
    one = judge(credit(np.zeros(600, int), np.ones(600, int), 500) + clicks)
    assert one.se > 3 * duel.se  # one unit that clicks a lot does not decide
    assert judge(np.zeros((10, 2))).p == 1 and credit([0, 1], [-1, 0], 2).tolist() == [[0, 0], [1, 0]]
