"""Who is in, and with which variant: stable, even, independent between layers, unmoved by ramps."""

import numpy as np
import pytest
from scipy import stats

from longtail.errors import InvalidInput
from longtail.experiments.assignment import HOLDOUT, SLOTS, Allocation, assign, assign_all, grown, place, places

IDS = [f"user-{n}" for n in range(20_000)]


def allocation(name="one", layer="ranking", slots=((0, SLOTS),), holdout=0.0, shares=None) -> Allocation:
    return Allocation(layer, name, slots, shares or {"control": 0.5, "new": 0.5}, holdout)


def test_many_ids_have_the_places_that_each_has_alone():
    odd = ["", "ü", "a\0b", "\ud800", *IDS[:50]]
    np.testing.assert_array_equal(places(odd, "salt"), [place(who, "salt") for who in odd])
    assert len(places([], "salt")) == 0


def test_one_id_and_many_ids_agree():
    to = allocation(slots=((100, 2_000), (5_000, 5_001)), holdout=0.1, shares={"a": 0.2, "b": 0.3, "c": 0.5})
    names = {-1: None, -2: HOLDOUT, **dict(enumerate(to.variants))}
    assert [assign(who, to) for who in IDS[:3_000]] == [names[c] for c in assign_all(IDS[:3_000], to).tolist()]


def test_variants_get_their_shares():
    codes = assign_all(IDS, allocation(shares={"a": 0.2, "b": 0.3, "c": 0.5}))
    found = np.bincount(codes, minlength=3)
    assert stats.chisquare(found, np.array([0.2, 0.3, 0.5]) * len(IDS)).pvalue > 0.001


def test_layers_and_experiments_are_independent():
    one = assign_all(IDS, allocation("one", "ranking", ((0, 5_000),)))
    for other in (allocation("two", "rules", ((0, 5_000),)), allocation("one", "rules", ((0, 5_000),))):
        two = assign_all(IDS, other)
        inside = np.histogram2d(one >= 0, two >= 0, bins=2)[0]
        assert stats.chi2_contingency(inside).pvalue > 0.001
    both = (one >= 0) & (assign_all(IDS, allocation("two", "rules")) >= 0)
    table = np.histogram2d(one[both], assign_all(IDS, allocation("two", "rules"))[both], bins=2)[0]
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_a_ramp_moves_nobody_who_is_in():
    taken = (((0, 500), (900, 1_000)),)
    slots, before = (), None
    for share in (0.01, 0.1, 0.37, 0.9):
        slots = grown(slots, share, taken)
        codes = assign_all(IDS, allocation(slots=slots))
        if before is not None:
            np.testing.assert_array_equal(codes[before >= 0], before[before >= 0])
        assert abs((codes >= 0).mean() - share) < 0.015
        before = codes
    assert not (before >= 0)[assign_all(IDS, allocation(slots=taken[0])) >= 0].any()
    smaller = assign_all(IDS, allocation(slots=grown(slots, 0.37, taken)))
    assert ((smaller >= 0) <= (before >= 0)).all()
    assert grown(grown(grown((), 0.37, taken), 0.9, taken), 0.37, taken) == grown((), 0.37, taken)


def test_a_full_layer_says_what_is_left():
    with pytest.raises(InvalidInput, match=r"has 10.00% free, 20.00% more are needed"):
        grown((), 0.2, [((0, 9_000),)])
    with pytest.raises(InvalidInput, match="belong to two experiments"):
        grown(((0, 10),), 0.2, [((5, 9_000),)])


def test_the_holdout_is_the_same_for_all_and_grows_without_losing_anybody():
    small, large = (assign_all(IDS, allocation(n, n, holdout=h)) == -2 for n, h in (("one", 0.02), ("two", 0.05)))
    assert large[small].all() and abs(large.mean() - 0.05) < 0.006
