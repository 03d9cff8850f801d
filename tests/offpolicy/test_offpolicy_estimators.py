"""Off-policy estimators on a small world whose truth can be written down."""

from __future__ import annotations

import numpy as np
import pytest

from longtail.errors import InvalidInput
from longtail.offpolicy import slates
from longtail.offpolicy.diagnostics import overlap
from longtail.offpolicy.estimators import (
    difference,
    direct,
    doubly_robust,
    ips,
    self_normalised,
    switch,
    switch_threshold,
)
from longtail.offpolicy.interval import estimate, jackknife, normal_estimate
from longtail.offpolicy.reward_model import cross_fit, linear, trees

LIKED = np.array([0.05, 0.1, 0.3, 0.6])  # the chance of a click of each of four items
LOGGING = np.array([0.4, 0.3, 0.2, 0.1])
TARGET = np.array([0.1, 0.1, 0.2, 0.6])
TRUTH = float(TARGET @ LIKED)


def logged(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items int [n, 1], clicks and weights float [n, 1] of lists of one place."""
    rng = np.random.default_rng(seed)
    item = rng.choice(4, (n, 1), p=LOGGING)
    return item, (rng.random((n, 1)) < LIKED[item]).astype(float), slates.ratio(TARGET[item], LOGGING[item])


def everything(item: np.ndarray, reward: np.ndarray, weight: np.ndarray, q: np.ndarray) -> dict[str, float]:
    shown, mean = np.ones(item.shape, bool), np.full(item.shape, TARGET @ q)
    return {
        "ips": ips(reward, weight).value,
        "self-normalised": self_normalised(reward, weight, shown).value,
        "direct": direct(mean).value,
        "doubly robust": doubly_robust(reward, weight, q[item], mean).value,
        "switch": switch(reward, weight, q[item], mean).value,
    }


def test_every_estimator_finds_the_value_of_the_target():
    found = everything(*logged(200_000, 1), LIKED)
    assert found == pytest.approx(dict.fromkeys(found, TRUTH), abs=0.01)


def test_a_wrong_model_misleads_the_direct_method_alone():
    found = everything(*logged(200_000, 2), np.full(4, 0.9))
    assert found.pop("direct") == pytest.approx(0.9)
    assert found == pytest.approx(dict.fromkeys(found, TRUTH), abs=0.02)


def test_a_right_model_lowers_the_noise_of_doubly_robust():
    item, _, weight = logged(5000, 3)
    reward = LIKED[item]  # no noise of its own
    noisy = ips(reward, weight).influence.std()
    assert doubly_robust(reward, weight, LIKED[item], np.full(item.shape, TRUTH)).influence.std() < 1e-9 < noisy


def test_a_clip_only_lowers_the_value_of_clicks():
    _, reward, weight = logged(5000, 4)
    values = [ips(reward, weight, clip).value for clip in (0.5, 1, 3, np.inf)]
    assert values == sorted(values) and values[0] < values[-1]


def test_switch_leaves_out_what_lies_above_its_threshold():
    item, reward, weight = logged(5000, 5)
    q, mean = LIKED[item], np.full(item.shape, TRUTH)
    assert switch(reward, weight, q, mean, 0.0).value == pytest.approx(direct(mean).value)
    assert switch(reward, weight, q, mean, np.inf).value == doubly_robust(reward, weight, q, mean).value
    assert switch_threshold(reward, weight, q, mean) in weight


def test_switch_gives_up_a_weight_that_drowns_everything():
    rng = np.random.default_rng(6)
    weight = np.append(rng.uniform(0.5, 1.5, 5000), 1e4)
    reward, q = (rng.random(5001) < 0.3).astype(float), np.full(5001, 0.3)
    reward[-1] = 1.0
    # One row of weight 10,000 would move the value by 1.4; the bound on the bias of leaving it out is larger still,
    # so the choice keeps it, and a threshold that is given does not.
    assert abs(switch(reward, weight, q, q, 100.0).value - 0.3) < 0.05
    assert switch(reward, weight, q, q, np.inf).value > 1


def test_self_normalising_forgives_weights_of_another_scale():
    item, reward, weight = logged(50_000, 7)
    shown = np.ones(item.shape, bool)
    assert self_normalised(reward, 3 * weight, shown).value == pytest.approx(
        self_normalised(reward, weight, shown).value
    )


def test_places_that_a_list_lacks_count_nothing():
    reward = np.array([[1.0, 0.0], [1.0, 1.0]])
    shown = np.array([[True, False], [True, True]])
    weight = shown.astype(float)
    assert ips(reward, weight).value == 1.5
    assert self_normalised(reward, weight, shown).value == 1.5


def test_the_difference_of_two_policies_is_surer_than_the_two():
    item, reward, weight = logged(5000, 8)
    near = slates.ratio((0.9 * TARGET + 0.1 * LOGGING)[item], LOGGING[item])
    user = np.arange(len(item))
    apart = estimate(difference(ips(reward, weight), ips(reward, near)), user)
    assert apart.error < estimate(ips(reward, weight), user).error / 3
    with pytest.raises(InvalidInput, match="same log"):
        difference(ips(reward, weight), ips(reward[1:], weight[1:]))


def test_the_interval_holds_the_truth_as_often_as_it_says():
    held = []
    for seed in range(600):
        _, reward, weight = logged(400, 1000 + seed)
        found = estimate(self_normalised(reward, weight, np.ones(reward.shape, bool)), np.arange(400))
        held.append(found.low <= TRUTH <= found.high)
    assert 0.925 < np.mean(held) < 0.975


def test_the_interval_knows_that_a_persons_lists_are_alike():
    rng = np.random.default_rng(9)
    taste = np.repeat(rng.random(200), 20)  # 200 people of 20 lists each
    reward, user = (rng.random(4000) < taste).astype(float), np.repeat(np.arange(200), 20)
    score = ips(reward, np.ones(4000))
    assert normal_estimate(score, user).error > 2 * normal_estimate(score, np.arange(4000)).error
    with pytest.raises(InvalidInput, match="at least two"):
        estimate(score, np.zeros(4000))


def test_a_skewed_sample_reaches_further_up_than_down():
    reward = np.zeros(2000)
    reward[:3] = 100.0
    found = estimate(ips(reward, np.ones(2000)), np.arange(2000))
    assert found.high - found.value > found.value - found.low > 0


def test_the_jackknife_knows_the_noise_of_the_model():
    rng = np.random.default_rng(10)
    errors, values = [], []
    for _ in range(200):
        sample = rng.normal(5, 2, 400)
        fold = np.arange(400) % 10
        without = np.array([sample[fold != n].mean() for n in range(10)])
        found = jackknife(sample.mean(), without, np.arange(400))
        errors.append(found.error)
        values.append(found.value)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)


def test_models_are_fitted_on_other_peoples_lists():
    user = np.repeat(np.arange(20), 5)
    features = np.eye(20)[user]  # a model could learn each person by heart
    reward = (user == 3).astype(float)
    for fit in (linear(1e-6), trees(20)):
        model = cross_fit(features, reward, np.arange(100), user, fit)
        assert model.predict(features, np.arange(100))[user == 3].max() < 0.3
    with pytest.raises(InvalidInput, match="folds"):
        cross_fit(features[:5], reward[:5], np.arange(5), user[:5], linear())


def test_slate_weights_assume_less_and_less():
    """Lists of two out of three items, drawn without repeats: every assumption gives weights of mean 1."""
    rng = np.random.default_rng(11)
    old, new = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    lists = np.array([(a, b) for a in range(3) for b in range(3) if a != b])

    def chances(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        given = np.stack([p[lists[:, 0]], p[lists[:, 1]] / (1 - p[lists[:, 0]])], axis=1)
        place = np.zeros((3, 2))
        np.add.at(place[:, 0], lists[:, 0], given.prod(1))
        np.add.at(place[:, 1], lists[:, 1], given.prod(1))
        return given, place

    (given_old, place_old), (given_new, place_new) = chances(old), chances(new)
    drawn = rng.choice(6, 100_000, p=given_old.prod(1))
    items, shown = lists[drawn], np.ones((100_000, 2), bool)
    looked = np.array([1.0, 0.5])
    weights = {
        "whole list": slates.whole_list(given_new[drawn], given_old[drawn], shown),
        "cascade": slates.cascade(given_new[drawn], given_old[drawn], shown),
        "item position": slates.item_position(place_new[items, [0, 1]], place_old[items, [0, 1]], shown),
        "position based": slates.position_based(place_new[items], place_old[items], shown, looked),
    }
    truth = (place_new * looked * np.array([0.1, 0.2, 0.7])[:, None]).sum()
    reward = np.array([0.1, 0.2, 0.7])[items] * looked
    noise = []
    for name, weight in weights.items():
        score = ips(reward, weight)
        assert score.value == pytest.approx(truth, rel=0.02), name
        noise.append(score.influence.std())
    assert noise == sorted(noise, reverse=True)
    assert (slates.above(weights["cascade"])[:, 1] == weights["cascade"][:, 0]).all()


def test_overlap_tells_a_log_that_says_little():
    _, _, weight = logged(20_000, 12)
    good = overlap(weight, np.ones(weight.shape, bool))
    assert good.mean_weight == pytest.approx(1, abs=4 * good.mean_error)
    assert 0.2 < good.effective_share < 1 and good.max_weight == pytest.approx(6) and good.unused == 0
    one = np.zeros(1000)
    one[0] = 1000.0
    bad = overlap(one, np.ones(1000, bool), unsupported=0.5)
    assert bad.effective == pytest.approx(1) and bad.top_share == 1 and bad.unused == 0.999 and bad.unsupported == 0.5
    assert overlap(np.zeros((0, 3)), np.zeros((0, 3), bool)).lists == 0


def test_weights_that_cannot_be_are_refused():
    with pytest.raises(InvalidInput, match="finite"):
        ips(np.ones(3), np.array([1, np.nan, 1]))
    with pytest.raises(InvalidInput, match="one shape"):
        ips(np.ones(3), np.ones(2))
