"""Pins and promotions: what the shop puts at a place by itself."""

import numpy as np
import pytest

from longtail.reranking import PersonView, Rules, may_show, rerank
from tests.reranking.shop import NOW, catalogue, view

SHOP = catalogue(60)
RNG = np.random.default_rng


def open_view():
    v = view(60)
    v.in_stock[:], v.everywhere[:], v.min_age[:] = True, True, 0
    return v


OPEN = open_view()


def run(rules, n=20, k=10, shop_view=OPEN, person=None, now=NOW, seed=0):
    """Candidates 0..n-1, the best first."""
    bound = Rules.model_validate(rules).bind(SHOP)
    return rerank(-np.arange(n, dtype=np.float32), np.arange(n), shop_view, person or PersonView(), bound, RNG(seed),
                  now, k)  # fmt: skip


def pin(place, *items, **more):
    return {"name": f"p{place}", "items": [f"i{i}" for i in items], "place": place} | more


def test_a_pinned_candidate_moves_to_its_place_and_the_others_make_room():
    out = run({"pins": [pin(2, 7)]})
    assert out.items.tolist() == [0, 7, 1, 2, 3, 4, 5, 6, 8, 9]
    assert out.rules_applied[1] == ("pin:p2",)
    assert out.order.tolist() == out.items.tolist()
    assert out.propensity.tolist() == [1] * 10


def test_what_is_no_candidate_is_inserted():
    out = run({"pins": [pin(3, 50)]}, k=4)
    assert out.items.tolist() == [0, 1, 50, 2]
    assert out.order.tolist() == [0, 1, -1, 2]
    assert np.isfinite(out.scores).all()


@pytest.mark.parametrize("harm", ["stock", "region", "age"])
def test_an_unsafe_pin_gives_its_place_to_the_next_of_its_items_or_to_nobody(harm):
    v = open_view()
    if harm == "stock":
        v.in_stock[50] = False
    elif harm == "region":
        v.everywhere[50] = False
    else:
        v.min_age[50] = 18
    assert run({"pins": [pin(1, 50, 51)]}, k=3, shop_view=v).items.tolist() == [51, 0, 1]
    out = run({"pins": [pin(1, 50)]}, k=3, shop_view=v)
    assert out.items.tolist() == [0, 1, 2] and out.rules_applied == [()] * 3


def test_a_pin_passes_the_shops_own_filters_too():
    rules = {"pins": [pin(1, 50)], "filters": {"exclude_bought": True}}
    assert run(rules, k=2, person=PersonView(bought=np.array([50]))).items.tolist() == [0, 1]
    assert run(rules, k=2, person=PersonView(anchors=np.array([50]))).items.tolist() == [0, 1]
    assert run({**rules, "block": [{"items": ["i50"]}]}, k=2).items.tolist() == [0, 1]


def test_pins_hold_between_their_dates():
    rules = {"pins": [pin(1, 50, start="2023-11-14T22:13:20Z", end="2023-11-14T22:13:21Z")]}
    assert [run(rules, k=1, now=NOW + us).items[0] for us in (-1, 0, 999_999, 1_000_000)] == [0, 50, 50, 0]


def test_of_two_pins_for_one_place_the_first_in_the_file_wins_and_no_item_stands_twice():
    out = run({"pins": [pin(2, 7), pin(2, 8), pin(4, 7, 9), pin(30, 3)]}, k=6)
    assert out.items.tolist() == [0, 7, 1, 9, 2, 3]


def test_places_around_pins_explore_with_propensities_that_ignore_them():
    out = run({"pins": [pin(1, 50), pin(3, 0)], "exploration": {"epsilon": 1.0, "pool": 5}}, k=4, seed=3)
    assert out.items[[0, 2]].tolist() == [50, 0]
    assert out.propensity.tolist() == pytest.approx([1, 0.2, 1, 0.2])


def promotion(every, *items, **more):
    return {"name": "own", "every": every} | ({"items": [f"i{i}" for i in items]} if items else {}) | more


def test_a_promotion_takes_the_last_place_of_each_block_that_has_none_of_it():
    out = run({"promotions": [promotion(4, 1, 12, 15)]}, k=12)
    assert out.items.tolist() == [0, 1, 2, 3, 4, 5, 6, 12, 7, 8, 9, 15]
    assert [n for n in out.rules_applied if n] == [("promotion:own",)] * 2
    assert out.propensity.tolist() == [1] * 12


def test_the_best_ranked_of_a_category_or_brand_is_promoted():
    brand = SHOP.frame["brand"].to_numpy(object)
    mine = [i for i in range(20) if brand[i] == "crux"]
    out = run({"promotions": [promotion(1, brand="crux")]}, k=3)
    assert out.items.tolist() == mine[:3]
    category = SHOP.frame["category"].to_numpy(object)
    garden = next(i for i in range(10, 60) if category[i] == "garden")
    bound = Rules.model_validate({"promotions": [promotion(3, category="garden")]}).bind(SHOP)
    items = np.array([i for i in range(60) if category[i] != "garden"][:9] + [garden])
    out = rerank(-np.arange(10.0), items, OPEN, PersonView(), bound, RNG(0), NOW, 6)
    assert out.items.tolist() == [*items[:2], garden, *items[2:5]]


def test_listed_items_stand_in_where_no_candidate_is_of_the_target():
    brand = SHOP.frame["brand"].to_numpy(object)
    items = np.array([i for i in range(60) if brand[i] != "crux"][:8])
    away = [i for i in range(60) if brand[i] == "crux"]
    rules = {"promotions": [promotion(3, away[0], away[1], brand="crux")]}
    out = rerank(-np.arange(8.0), items, OPEN, PersonView(), Rules.model_validate(rules).bind(SHOP), RNG(0), NOW, 6)
    assert out.items.tolist() == [*items[:2], away[0], *items[2:4], away[1]]
    assert out.order.tolist() == [0, 1, -1, 2, 3, -1]


def test_a_promotion_is_never_unsafe():
    v = open_view()
    v.in_stock[[12, 50]] = False
    out = run({"promotions": [promotion(3, 12, 50, 51)]}, k=3, shop_view=v)
    assert out.items.tolist() == [0, 1, 51]


def test_a_pin_of_the_target_counts_and_two_promotions_get_a_place_each():
    out = run({"pins": [pin(2, 50)], "promotions": [promotion(3, 50, 12)]}, k=3)
    assert out.items.tolist() == [0, 50, 1]
    two = {"promotions": [promotion(3, 12), {"name": "two", "every": 3, "items": ["i13"]}]}
    out = run(two, k=6)
    assert out.items.tolist()[:3] == [0, 13, 12]
    assert out.rules_applied[1:3] == [("promotion:two",), ("promotion:own",)]


def test_the_propensity_of_a_promoted_place_is_one_while_the_places_above_explore():
    rules = {"promotions": [promotion(3, 15, 16, 17)], "exploration": {"epsilon": 0.5, "pool": 4}}
    for seed in range(30):
        out = run(rules, k=3, seed=seed)
        assert set(out.items[:2]) <= set(range(6)) and out.items[2] == 15
        assert out.propensity[2] == 1 and (out.propensity[:2] < 1).all()


def test_a_list_made_elsewhere_loses_what_may_not_be_shown_any_more():
    v = open_view()
    v.in_stock[1] = False
    rules = Rules.model_validate({"block": [{"items": ["i2"]}], "filters": {"exclude_seen": True}}).bind(SHOP)
    person = PersonView(seen=np.array([3]))
    assert may_show(np.array([4, 3, 2, 1, 0, 4, -1]), v, person, rules, NOW).tolist() == [True] + [False] * 3 + [
        True, False, False,
    ]  # fmt: skip
