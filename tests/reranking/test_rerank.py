import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.reranking import BoundRules, PersonView, Rules, may_show, rerank
from longtail.reranking.filters import counts, eligibility
from tests.reranking.shop import NOW, catalogue, view

SHOP = catalogue(60)
VIEW = view(60, dimension=4)

listed = st.lists(st.integers(0, 65).map(lambda i: f"i{i}"), min_size=1, max_size=4)
dates = st.sampled_from([None, "2023-11-20", "2023-11-14T22:13:20Z"])  # NOW is the last one: it is over
rules_files = st.fixed_dictionaries(
    {
        "filters": st.fixed_dictionaries({"exclude_bought": st.booleans(), "exclude_seen": st.booleans()}),
        "caps": st.fixed_dictionaries(
            {
                "category": st.none() | st.integers(1, 4),
                "brand": st.none() | st.integers(1, 4),
                "within": st.integers(1, 15),
                "relax": st.booleans(),
            }
        ),
        "diversity": st.fixed_dictionaries(
            {"lambda": st.floats(0, 1), "similarity": st.sampled_from(["attributes", "vectors"])}
        ),
        "freshness": st.fixed_dictionaries({"strength": st.floats(0, 5)}),
        "exploration": st.fixed_dictionaries(
            {
                "epsilon": st.floats(0, 1),
                "skip_first": st.integers(0, 3),
                "pool": st.integers(1, 30),
                "temperature": st.none() | st.floats(0.01, 10),
            }
        ),
        "boosts": st.lists(
            st.fixed_dictionaries(
                {"name": st.just("b"), "category": st.sampled_from(["kitchen", "toys"]), "factor": st.floats(0.1, 900)}
            ),
            max_size=2,
        ),
        "block": st.lists(st.fixed_dictionaries({"brand": st.sampled_from(["acme", "bolt"])}), max_size=1),
        "pins": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from("ab"), "items": listed, "place": st.integers(1, 12), "end": dates}
            ),
            max_size=3,
        ),
        "promotions": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from("cd"), "every": st.integers(1, 7), "end": dates},
                optional={"items": listed},
            ).flatmap(
                lambda p: st.sampled_from([{"category": "garden"}, {"brand": "crux"}, {}]).map(
                    lambda aim: p | (aim if aim or "items" in p else {"brand": "acme"})
                )
            ),
            max_size=2,
        ),
    }
)
people = st.builds(
    PersonView,
    region=st.integers(-1, 2),
    age=st.integers(-1, 30),
    bought=st.lists(st.integers(0, 59)).map(lambda v: np.array(v, np.int64)),
    seen=st.lists(st.integers(0, 59)).map(lambda v: np.array(v, np.int64)),
)
wild = st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.nan, -np.inf, np.inf])


@settings(max_examples=150, deadline=None)
@given(
    file=rules_files,
    person=people,
    pairs=st.lists(st.tuples(st.integers(-1, 70), wild), max_size=60),
    k=st.integers(0, 30),
    linear=st.booleans(),
    seed=st.integers(0, 9),
)
def test_every_list_is_a_safe_capped_subset_without_repeats(file, person, pairs, k, linear, seed):
    rules = Rules.model_validate(file).bind(SHOP)
    items = np.array([i for i, _ in pairs], np.int64)
    scores = np.array([s for _, s in pairs], np.float32)
    out = rerank(scores, items, VIEW, person, rules, np.random.default_rng(seed), NOW, k, linear)

    assert len(out.order) <= k
    assert len(np.unique(out.items)) == len(out.items)
    inserted = out.order < 0
    assert np.array_equal(out.items[~inserted], items[out.order[~inserted]])
    assert (eligibility(out.items, VIEW, PersonView(person.region, person.age)) == 0).all()
    assert np.isfinite(out.scores).all()
    assert ((out.propensity > 0) & (out.propensity <= 1)).all()
    assert len(out.rules_applied) == len(out.propensity) == len(out.items)
    if rules.rules.filters.exclude_bought:
        assert not np.isin(out.items, person.bought).any()
    if rules.rules.filters.exclude_seen:
        assert not np.isin(out.items, person.seen).any()
    for target in file["block"]:
        assert (SHOP.frame["brand"].to_numpy(object)[out.items] != target["brand"]).all()

    pinned, promoted = claimed_by(out, "pin:"), claimed_by(out, "promotion:")
    assert (inserted <= pinned | promoted).all()
    assert (out.propensity[pinned | promoted] == 1).all()
    eligible = len(items) - sum(out.dropped.values())
    caps = rules.rules.caps
    if caps.relax:
        assert len(out.items) >= min(k, eligible)
    relaxed = claimed_by(out, "caps_relaxed")
    assert caps.relax or not relaxed.any()
    ruled = pinned | promoted | relaxed
    for limit, codes in ((caps.category, VIEW.category), (caps.brand, VIEW.brand)):
        if limit is not None:
            head = codes[out.items[: caps.within]]
            for place in np.flatnonzero(~ruled[: caps.within] & (head >= 0)):
                assert (head[: place + 1] == head[place]).sum() <= limit

    taken: dict[int, int] = {}  # item by place
    for pin in rules.pins:
        if pin.span.holds(NOW) and pin.place < len(out.items) and pin.place not in taken:
            free = pin.items[~np.isin(pin.items, list(taken.values()))]
            safe = free[may_show(free, VIEW, person, rules, NOW)]
            if len(safe):
                assert out.items[pin.place] == safe[0]
                assert any(name.startswith("pin:") for name in out.rules_applied[pin.place])
                taken[pin.place] = safe[0]
    for promotion in rules.promotions[:1]:
        if promotion.target.span.holds(NOW):
            mine = promotion.target.among(np.arange(60), rules.words, {})
            for start in range(0, len(out.items) - promotion.every + 1, promotion.every):
                block = out.items[start : start + promotion.every]
                waiting = [i for i in items if 0 <= i < 60 and mine[i] and i not in out.items]
                room = not pinned[start : start + promotion.every].all()
                if room and waiting and may_show(np.array(waiting), VIEW, person, rules, NOW).any():
                    assert mine[block].any() or np.isin(block, promotion.items).any()


def claimed_by(out, prefix):
    """bool [k']: places that a rule of this name decided."""
    return np.array([any(n.startswith(prefix) for n in names) for names in out.rules_applied], bool)


def plain(**sections) -> BoundRules:
    return Rules.model_validate(sections).bind(SHOP)


def open_view():
    """A view in which every item may be shown."""
    v = view(60, dimension=4)
    v.in_stock[:] = True
    v.everywhere[:] = True
    v.min_age[:] = 0
    return v


OPEN = open_view()
RNG = np.random.default_rng


def run(scores, rules, items=None, rng=None, k=10, **more):
    items = np.arange(len(scores)) if items is None else np.asarray(items)
    return rerank(np.asarray(scores, np.float32), items, OPEN, PersonView(), rules, rng or RNG(0), NOW, k, **more)


def test_without_rules_the_order_is_by_score_and_ties_go_to_the_smaller_item():
    out = run([1, 3, 3, 2], plain(), items=[9, 8, 4, 5])
    assert out.items.tolist() == [4, 8, 5, 9]
    assert out.propensity.tolist() == [1, 1, 1, 1]
    assert out.rules_applied == [()] * 4


def test_each_drop_is_counted_once_under_its_first_reason():
    v = view(4)
    v.in_stock[:] = [True, False, True, True]
    v.everywhere[:] = True
    v.min_age[:] = [0, 18, 18, 0]
    person = PersonView(bought=np.array([3]), age=17)
    reason = eligibility(np.array([0, 1, 2, 3, 0, -1, 4]), v, person, exclude_bought=True)
    assert counts(reason) == {"unknown": 2, "duplicate": 1, "stock": 1, "age": 1, "bought": 1}


def test_an_unknown_region_or_age_meets_no_restriction():
    v = open_view()
    v.everywhere[0] = False
    v.min_age[1] = 18
    items = np.array([0, 1, 2])
    assert eligibility(items, v, PersonView()).astype(bool).tolist() == [True, True, False]
    v.regions[0, 0] = 0b10
    assert eligibility(items, v, PersonView(region=1, age=18)).tolist() == [0, 0, 0]
    assert eligibility(items, v, PersonView(region=0, age=18)).astype(bool).tolist() == [True, False, False]


def test_more_regions_than_one_word_holds():
    from longtail.events import Catalogue
    from longtail.reranking import ItemView

    shop = catalogue(100)
    frame = shop.frame.assign(regions=[[f"r{i:03d}"] for i in range(100)], in_stock=True, min_age=0)
    v = ItemView.from_catalogue(Catalogue.from_frame(frame))
    person = PersonView(region=v.region_code("r077"))
    assert np.flatnonzero(eligibility(np.arange(100), v, person) == 0).tolist() == [77]
    assert v.region_code("atlantis") == -1 and v.region_code(None) == -1


def test_a_boost_lifts_negative_scores_too_and_ends_on_its_day():
    rules = plain(boosts=[{"name": "sale", "items": ["i1"], "factor": 10, "end": "2023-11-15"}])
    assert run([-5.0, -6.0, -9.0], rules).items.tolist() == [1, 0, 2]
    assert run([-5.0, -6.0, -9.0], rules).rules_applied[0] == ("boost:sale",)
    late = rerank(
        np.array([-5.0, -6.0], np.float32), np.arange(2), OPEN, PersonView(), rules, RNG(0), NOW + 86_400_000_000, 2
    )
    assert late.items.tolist() == [0, 1]


def test_linear_scores_are_multiplied_by_the_factor():
    rules = plain(boosts=[{"name": "sale", "items": ["i1"], "factor": 3}])
    assert run([0.5, 0.2, 0.1], rules, linear_scores=True).items.tolist() == [1, 0, 2]
    rules = plain(boosts=[{"name": "sale", "items": ["i1"], "factor": 2}])
    assert run([0.5, 0.2, 0.1], rules, linear_scores=True).items.tolist() == [0, 1, 2]


def test_freshness_halves_with_age():
    from longtail.reranking.boosts import freshness_factor

    day = 86_400_000_000
    factors = freshness_factor(np.array([NOW, NOW - 7 * day, NOW - 14 * day, -1, NOW + day]), NOW, 7, 1.0)
    assert factors.tolist() == [2.0, 1.5, 1.25, 1.0, 2.0]


def test_a_score_that_is_not_a_number_ranks_last():
    assert run([np.nan, 1, 2], plain()).items.tolist() == [2, 1, 0]
    assert len(run([np.nan, np.nan], plain()).items) == 2


def test_mmr_brings_in_another_category_that_relevance_alone_leaves_out():
    v = open_view()
    v.category[:4] = [0, 0, 0, 1]
    v.top_category[:4] = [0, 0, 0, 1]
    v.brand[:4] = [0, 0, 0, 1]
    scores = np.array([4, 3.9, 3.8, 3.0], np.float32)
    out = rerank(scores, np.arange(4), v, PersonView(), plain(diversity={"lambda": 0.5}), RNG(0), NOW, 2)
    assert out.items.tolist() == [0, 3]
    assert out.rules_applied[1] == ("diversity",)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.6, 0.95])
def test_mmr_equals_the_textbook_loop_on_vectors(weight):
    scores = RNG(3).normal(size=30).astype(np.float32)
    relevance = (scores - scores.min()) / (scores.max() - scores.min())
    vectors, chosen = OPEN.vectors, []
    for _ in range(12):

        def value(i):
            alike = max((max(vectors[i] @ vectors[j], 0) for j in chosen), default=0)
            return weight * relevance[i] - (1 - weight) * alike

        chosen.append(max((i for i in np.argsort(-scores) if i not in chosen), key=value))
    out = run(scores, plain(diversity={"lambda": weight, "similarity": "vectors"}), k=12)
    assert out.items.tolist() == chosen


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), category=st.none() | st.integers(1, 3), brand=st.none() | st.integers(1, 3),
       within=st.integers(1, 12), weight=st.sampled_from([1.0, 0.7, 0.2]))  # fmt: skip
def test_caps_and_diversity_equal_a_plain_loop(seed, category, brand, within, weight):
    scores = RNG(seed).normal(size=40).astype(np.float32)
    relevance = (scores - scores.min()) / (scores.max() - scores.min())

    def alike(i, j):
        shares = ((OPEN.category, 0.5), (OPEN.top_category, 0.25), (OPEN.brand, 0.25))
        return sum(share for column, share in shares if column[i] >= 0 and column[i] == column[j])

    def fits(i):
        limits = ((OPEN.category, category), (OPEN.brand, brand))
        return len(chosen) >= within or all(
            limit is None or column[i] < 0 or sum(column[j] == column[i] for j in chosen) < limit
            for column, limit in limits
        )

    chosen: list[int] = []
    while len(chosen) < 15:
        left = [i for i in np.argsort(-scores) if i not in chosen]
        allowed = [i for i in left if fits(i)] or left
        chosen.append(
            max(
                allowed,
                key=lambda i: (
                    np.float32(weight) * relevance[i]
                    - np.float32(1 - weight) * np.float32(max((alike(i, j) for j in chosen), default=0))
                ),
            )
        )
    caps = {"category": category, "brand": brand, "within": within}
    out = run(scores, plain(caps=caps, diversity={"lambda": weight}), k=15)
    assert out.items.tolist() == chosen


def test_a_strict_cap_ends_the_list_and_a_relaxed_one_fills_it():
    v = open_view()
    v.category[:5] = 0
    v.brand[:5] = -1
    strict = plain(caps={"category": 2, "within": 5, "relax": False})
    assert len(rerank(np.arange(5.0), np.arange(5), v, PersonView(), strict, RNG(0), NOW, 5).items) == 2
    relaxed = plain(caps={"category": 2, "within": 5})
    out = rerank(np.arange(5.0), np.arange(5), v, PersonView(), relaxed, RNG(0), NOW, 5)
    assert out.items.tolist() == [4, 3, 2, 1, 0]
    assert [("caps_relaxed" in names) for names in out.rules_applied] == [False, False, True, True, True]


@pytest.mark.parametrize("temperature", [None, 0.5])
@pytest.mark.parametrize("caps", [{}, {"category": 1, "within": 2}])
def test_propensities_match_how_often_items_are_shown(temperature, caps):
    """The logged propensity is the chance of the item at its place given the items above it."""
    rules = plain(exploration={"epsilon": 0.4, "pool": 4, "temperature": temperature}, caps=caps)
    scores = [-3.0, -2.0, -1.0, -1.5, -2.5]
    rng, n = RNG(7), 6000
    shown: dict[tuple[int, ...], int] = {}
    logged: dict[tuple[int, ...], float] = {}
    for _ in range(n):
        out = run(scores, rules, rng=rng, k=3)
        for place in range(3):
            prefix = tuple(out.items[: place + 1].tolist())
            shown[prefix] = shown.get(prefix, 0) + 1
            assert logged.setdefault(prefix, float(out.propensity[place])) == float(out.propensity[place])
    for prefix, count in shown.items():
        above = shown.get(prefix[:-1], n)
        p = logged[prefix]
        assert abs(count / above - p) < 5 * np.sqrt(p * (1 - p) / above) + 1e-9
    for prefix, count in shown.items():
        if count > 500 and len(prefix) < 3:
            assert sum(p for deeper, p in logged.items() if deeper[:-1] == prefix) == pytest.approx(1, abs=1e-5)


def test_the_better_item_is_sampled_more_often_even_where_all_scores_are_negative():
    rules = plain(exploration={"epsilon": 1.0, "temperature": 1.0})
    first = np.array([run([-1.0, -2.0, -800.0], rules, rng=RNG(s)).items[0] for s in range(2000)])
    assert (first == 0).mean() == pytest.approx(1 / (1 + np.exp(-1)), abs=0.04)
    assert (first != 2).all()


def test_first_places_are_spared_from_exploration():
    rules = plain(exploration={"epsilon": 1.0, "skip_first": 2})
    firsts = {tuple(run(np.arange(30.0), rules, rng=RNG(s)).items[:2].tolist()) for s in range(20)}
    assert firsts == {(29, 28)}
    assert len({tuple(run(np.arange(30.0), rules, rng=RNG(s)).items.tolist()) for s in range(20)}) > 1


def test_the_same_seed_gives_the_same_list():
    rules = plain(exploration={"epsilon": 0.5}, diversity={"lambda": 0.7})
    scores = RNG(1).normal(size=60)
    assert run(scores, rules, rng=RNG(4)).items.tolist() == run(scores, rules, rng=RNG(4)).items.tolist()


def test_no_candidates_and_an_empty_catalogue_give_an_empty_list():
    assert len(run([], plain()).items) == 0
    out = rerank(np.ones(2, np.float32), np.arange(2), view(60).take(np.empty(0, int)), PersonView(), plain(), RNG(0),
                 NOW, 5)  # fmt: skip
    assert len(out.items) == 0 and out.dropped == {"unknown": 2}


def test_the_items_beside_the_list_are_not_repeated_in_it():
    out = rerank(np.arange(5.0), np.arange(5), OPEN, PersonView(anchors=np.array([4, 1])), plain(), RNG(0), NOW, 5)
    assert out.items.tolist() == [3, 2, 0] and out.dropped == {"anchor": 2}


def test_a_category_page_keeps_to_its_category():
    v = open_view()
    v.category[:4] = [0, 1, 2, -1]
    out = rerank(np.arange(4.0), np.arange(4), v, PersonView(within=np.array([1, 2])), plain(), RNG(0), NOW, 4)
    assert out.items.tolist() == [2, 1] and out.dropped == {"category": 2}
    nothing = rerank(np.arange(4.0), np.arange(4), v, PersonView(within=np.empty(0, int)), plain(), RNG(0), NOW, 4)
    assert not len(nothing.items)


def test_an_objective_tilts_the_order_by_expected_money():
    from longtail.reranking.rules import Objective

    shop = catalogue(60)
    shop.frame["price"] = np.where(np.arange(60) == 1, 1000.0, 10.0)
    shop.frame.loc[2, "price"] = np.nan
    shop.frame["margin"] = np.where(np.arange(60) == 0, 0.9, 0.1)
    chances = [0.6, 0.01, 0.5, 0.4]

    def order(goal, weight=1.0):
        rules = Rules().bind(shop, Objective(goal=goal, weight=weight))
        return run(chances, rules, linear_scores=True).items.tolist()

    assert order("clicks") == order("conversion") == order("revenue", 0) == [0, 2, 3, 1]
    assert order("revenue") == [1, 0, 2, 3]  # 10.0, then 6.0, the unknown price as the median one, 4.0
    assert order("revenue", 0.2) == [0, 2, 3, 1]
    assert order("margin") == [0, 1, 2, 3]  # 5.4, 1.0, 0.5, 0.4
    # Item 1 sells at a hundredfold, so half of it is 50.5: .6, .505, .5, .4
    assert order({"conversion": 1, "revenue": 1}) == [0, 1, 2, 3]
    shop = shop.with_return_rate(np.where(np.arange(60) == 0, 0.9, 0.0))
    assert order("net_revenue") == [1, 2, 3, 0]  # 10.0, the unknown price, 4.0, 0.6
    assert order("net_revenue", 0.2) == [2, 3, 0, 1]


def test_the_last_places_go_to_what_was_shown_least():
    shown = np.zeros(len(OPEN), np.float32)
    shown[:6] = [9, 9, 3, 5, 3, 9]
    items, scores = np.arange(8), -np.arange(8.0)
    rules = plain(long_tail={"after": 2, "pool": 4})
    out = rerank(scores, items, OPEN, PersonView(), rules, RNG(0), NOW, 5, shown=shown)
    # of the best four left: 2 and 4 were shown three times, 6 and 7 never
    assert out.items.tolist() == [0, 1, 2, 6, 7]
    assert out.rules_applied == [(), (), (), ("long_tail",), ("long_tail",)] and out.propensity.tolist() == [1] * 5
    for off in (rerank(scores, items, OPEN, PersonView(), rules, RNG(0), NOW, 5), ask_all(scores, items)):
        assert off.items.tolist() == [0, 1, 2, 3, 4]
    capped = plain(long_tail={"after": 1}, caps={"category": 1, "within": 5, "relax": False})
    one = rerank(scores, items, OPEN, PersonView(), capped, RNG(0), NOW, 5, shown=shown)
    assert len({int(OPEN.category[i]) for i in one.items}) == len(one.items)


def ask_all(scores: np.ndarray, items: np.ndarray):
    return rerank(scores, items, OPEN, PersonView(), plain(), RNG(0), NOW, 5, shown=np.arange(len(OPEN), 0, -1.0))
