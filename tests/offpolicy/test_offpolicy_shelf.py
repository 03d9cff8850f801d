"""The chances that off-policy evaluation reads off are those that re-ranking logs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.offpolicy.shelf import Shelf
from longtail.reranking import ItemView, PersonView, Rules, rerank
from longtail.reranking.exploration import doubt
from tests.tiny import catalogue

N = 30
CATALOGUE = catalogue(N)
VIEW = ItemView.from_catalogue(CATALOGUE, doubt=doubt(np.arange(N), 7 * np.arange(N)))
RULES = st.fixed_dictionaries(
    {
        "exploration": st.fixed_dictionaries(
            {
                "epsilon": st.sampled_from([0.0, 0.2, 1.0]), "skip_first": st.integers(0, 2),
                "pool": st.sampled_from([1, 5, 100]), "temperature": st.sampled_from([None, 0.7]),
            }
        ).flatmap(
            lambda e: st.sampled_from([0, 2]).map(lambda wide: e | {"thompson": wide if e["temperature"] else 0})
        ),
        "caps": st.sampled_from(
            [{}, {"category": 1}, {"brand": 1, "within": 3}, {"category": 1, "relax": False}, {"brand": 2}]
        ),
        "diversity": st.sampled_from([{}, {"lambda": 0.5}]),
        "pins": st.sampled_from([[], [{"name": "p", "items": ["i29", "i03"], "place": 2}]]),
        "promotions": st.sampled_from([[], [{"name": "q", "every": 3, "brand": "b1", "items": ["i28"]}]]),
        "boosts": st.sampled_from([[], [{"name": "b", "brand": "b2", "factor": 3.0}]]),
        "block": st.sampled_from([[], [{"brand": "b3"}]]),
    }
)  # fmt: skip


def shelf_of(rules: dict, seed: int, k: int = 7) -> tuple[Shelf, tuple]:
    bound = Rules.model_validate(rules).bind(CATALOGUE)
    rng = np.random.default_rng(seed)
    items = rng.permutation(N - 4)[:20].astype(np.int64)
    scores = rng.normal(size=20).astype(np.float32)
    asked = (scores, items, VIEW, PersonView(), bound)
    return Shelf(*asked, now=0, k=k), asked


@settings(max_examples=150, deadline=None)
@given(rules=RULES, seed=st.integers(0, 10_000))
def test_chances_are_the_propensities_that_are_logged(rules, seed):
    shelf, asked = shelf_of(rules, seed)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        found = rerank(*asked, rng, 0, 7)
        assert shelf.given(found.items) == pytest.approx(found.propensity.astype(float), rel=1e-5)
        for place in range(len(found.items)):
            assert shelf.chances(shelf.positions(found.items[:place])).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "rules",
    [{"exploration": {"epsilon": 0.3, "pool": 6}},
     {"exploration": {"epsilon": 1, "temperature": 0.5, "thompson": 2, "skip_first": 1}},
     {"exploration": {"epsilon": 0.3, "temperature": 1.0}, "caps": {"category": 2}, "diversity": {"lambda": 0.7}}],
)  # fmt: skip
def test_marginals_are_how_often_an_item_comes_to_stand_at_a_place(rules):
    shelf, asked = shelf_of(rules, 1, k=4)
    rng = np.random.default_rng(2)
    counted = np.zeros((len(shelf.items), 4))
    for _ in range(4000):
        counted[shelf.positions(rerank(*asked, rng, 0, 4).items), np.arange(4)] += 1
    expected = shelf.marginal(2000, rng)
    assert expected.sum(0) == pytest.approx(np.ones(4))
    assert np.abs(expected - counted / 4000).max() < 0.04


def test_a_list_that_the_policy_would_never_show_has_no_chance():
    shelf, asked = shelf_of({"exploration": {"epsilon": 0.2, "pool": 5}}, 3)
    best = rerank(*asked, np.random.default_rng(0), 0, 20).items
    assert shelf.given(np.append(best[[-1]], best[:3])).tolist() == [0, 0, 0, 0]
    assert shelf.given(np.array([N - 1])).tolist() == [0]
