import numpy as np
import pytest

from longtail.errors import InvalidInput
from longtail.evaluation.bootstrap import intervals, paired_difference
from longtail.evaluation.gate import beats
from longtail.evaluation.metrics import Truth
from longtail.evaluation.slices import make_slices, popularity_groups


def test_intervals_cover_the_true_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(300):
        [found] = intervals(rng.exponential(1.0, 150), resamples=300, seed=trial)
        inside += found.low <= 1.0 <= found.high
    assert 0.90 <= inside / 300 <= 0.98


def test_intervals_are_seeded_and_leave_nan_out():
    values = np.array([[0.0, 1.0], [np.nan, 1.0], [1.0, 1.0], [1.0, 1.0]])
    found = intervals(values, seed=3)
    assert found == intervals(values, seed=3)
    assert (found[0].cases, found[0].mean) == (3, pytest.approx(2 / 3))
    assert (found[1].low, found[1].high) == (1.0, 1.0)
    assert intervals(np.full(3, np.nan))[0].cases == 0
    assert intervals(np.empty(0))[0].cases == 0


def test_pairing_narrows_the_interval_of_a_difference():
    rng = np.random.default_rng(1)
    base = rng.random(500)
    found = paired_difference(base + 0.01 + rng.normal(0, 0.01, 500), base)
    assert 0.008 < found.low < found.mean < found.high < 0.012


def test_the_gate_wants_the_margin_and_certainty():
    rng = np.random.default_rng(2)
    base = rng.random(2000)
    assert beats(base + 0.02, base, margin=0.01).champion
    assert "less than the margin" in beats(base + 0.005, base, margin=0.01).reason
    assert "chance" in beats(base[:20] + rng.normal(0.02, 0.5, 20), base[:20], margin=-1).reason
    assert not beats(base, base, margin=0.0).champion
    assert not beats(base - 0.02, base, margin=0.0).champion
    first = beats(base, None, margin=0.01, metric="ndcg@10")
    assert first.champion and "no champion yet" in first.reason
    assert not beats(np.full(3, np.nan), None).champion
    with pytest.raises(InvalidInput, match="same cases"):
        beats(base, base[:10])


def test_popularity_groups_split_the_interactions_in_thirds():
    popularity = np.array([0, 40, 30, 10, 10, 5, 5])
    assert popularity_groups(popularity).tolist() == [-1, 0, 1, 2, 2, 2, 2]
    assert popularity_groups(np.zeros(3, np.int64)).tolist() == [-1, -1, -1]


def test_slices_hold_the_cases_and_the_items_they_name():
    popularity = np.array([60, 20, 20, 0])
    truth = Truth.from_pairs(np.array([0, 0, 1, 3]), np.array([0, 3, 1, 2]), 4)
    found = {s.name: s for s in make_slices(truth, popularity, np.array([False, True, True, False]))}
    assert found["overall"].cases.tolist() == [0, 1, 3]
    assert found["cold users"].cases.tolist() == [1]
    assert found["known users"].cases.tolist() == [0, 3]
    assert (found["cold items"].cases.tolist(), found["cold items"].truth.items.tolist()) == ([0], [3])
    assert found["head items"].truth.items.tolist() == [0]
