"""How long an experiment must run, from a log."""

import numpy as np
import pytest

from longtail.errors import InvalidInput
from longtail.experiments.config import Experiment
from longtail.experiments.moments import Moments
from longtail.experiments.planning import outlook, plan
from tests.experiments.shops import people, write_shop

TEXT = """name: test
variants:
  control: {share: 0.5}
  new: {share: 0.5, bundle: challenger}
metric: {name: revenue, winsorise: 0.99}
minimum_effect: 0.15
covariate_days: 14
dates: {start: 2024-03-01, end: 2024-03-15}
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_shop(tmp_path_factory.mktemp("log"), people(2_000, days=30, before=14, seed=2))


def test_the_needed_units_are_those_of_the_textbook():
    from statsmodels.stats.power import NormalIndPower

    values = np.random.default_rng(1).gamma(2, 3, 5_000)
    found = outlook(Experiment.parse(TEXT), Moments.of(values)[None], 5_000)
    effect = 0.15 * values.mean() / values.std(ddof=1)
    each = NormalIndPower().solve_power(effect, alpha=0.05, power=0.8)
    # The textbook's arms vary alike; here the treated one varies more, as its mean is higher.
    wider = (1 + 1.15**2) / 2
    assert found.needed == pytest.approx(2 * each * wider, rel=0.01)
    assert found.chance == pytest.approx(NormalIndPower().power(effect / np.sqrt(wider), 2_500, 0.05), abs=0.005)
    bought = Moments.of(np.random.default_rng(2).random(5_000) < 0.2)[None]
    shares = outlook(Experiment.parse(TEXT.replace("{name: revenue, winsorise: 0.99}", "conversion")), bought, 5_000)
    p = shares.value
    error = np.sqrt(2 * (p * (1 - p) + 1.15 * p * (1 - 1.15 * p)))
    assert shares.needed == pytest.approx(((1.96 + 0.8416) * error / (0.15 * p)) ** 2, rel=0.01)


def test_more_days_tell_smaller_effects_and_the_first_that_is_enough_is_taken(log):
    found = plan(Experiment.parse(TEXT), log)
    assert [o.days for o in found.outlooks] == [7, 14, 21, 28]
    effects = [o.effect for o in found.outlooks]
    assert effects == sorted(effects, reverse=True) and all(o.adjusted_sd < o.sd for o in found.outlooks)
    enough = next(o for o in found.outlooks if o.effect <= 0.15)
    assert found.days == enough.days and enough.chance >= 0.8 and enough.needed <= enough.units
    assert found.sentence.startswith(f"Run {enough.days} days: about ")


def test_smaller_shares_and_daily_looks_take_longer(log):
    plain = plan(Experiment.parse(TEXT), log).outlooks[1]
    fewer = plan(Experiment.parse(TEXT + "allocation: 0.25\n"), log).outlooks[1]
    assert fewer.effect == pytest.approx(2 * plain.effect, rel=0.12)
    assert plan(Experiment.parse(TEXT + "looks: any_day\n"), log).outlooks[1].effect > 1.2 * plain.effect


def test_a_short_log_is_carried_on_and_the_hopeless_is_said(log):
    longer = plan(Experiment.parse(TEXT.replace("effect: 0.15", "effect: 0.055")), log)
    assert longer.days and longer.days > 28 and not longer.outlooks[-1].counted
    assert "carried on from a shorter log" in longer.sentence
    hopeless = plan(Experiment.parse(TEXT.replace("effect: 0.15", "effect: 0.0001")), log)
    assert hopeless.days is None and "a year could not tell 0.0%" in hopeless.sentence
    with pytest.raises(InvalidInput, match="nothing of carts stands in the log"):
        plan(Experiment.parse(TEXT.replace("{name: revenue, winsorise: 0.99}", "carts")), log)


def test_surfaces_that_the_log_lacks_are_told_beside_those_it_has(log):
    with pytest.raises(InvalidInput, match="has no lists on email, only on cart, homepage: name one of these"):
        plan(Experiment.parse(TEXT + "surfaces: [email]\n"), log)
