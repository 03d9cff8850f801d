"""The ladder: whatever is missing, late or overloaded, a full and safe list comes, and says what was missing."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.engine.breaker import BreakerConfig
from longtail.engine.lists import StoredList
from longtail.engine.schema import MAX_K, Instance, parse
from longtail.errors import InvalidInput, Unavailable
from longtail.surfaces import Surfaces
from tests.engine.in_process import ask, dead, engine_of, ids, stalled

K = 10
UNSAFE = {"i0", "i1", "i2"}  # out of stock, for adults, in the south only


class Lists:
    """A list store in memory."""

    def __init__(self, lists: dict[tuple[str, str], StoredList] | None = None, fails: bool = False) -> None:
        self.lists, self.fails = lists or {}, fails

    async def get(self, user: str, surface: str) -> StoredList | None:
        if self.fails:
            raise Unavailable("killed")
        return self.lists.get((user, surface))


def stored(items: list[str]) -> StoredList:
    n = len(items)
    return StoredList(items, [1.0] * n, ["ease"] * n, "earlier", 0)


def with_surfaces(engine, text: str):
    engine.surfaces = Surfaces.parse(text).bind(engine.bundle.catalogue, engine.bundle.sources)
    return engine


def test_the_last_good_list_comes_when_the_retriever_is_gone_and_only_to_its_person(engine):
    good, other = ask(engine, {"user_id": "u3", "k": K}, {"k": K})
    broken = replace(engine, retrieve=dead, last_good=engine._last_good)
    again, stranger, shorter = ask(
        broken, {"user_id": "u3", "k": K}, {"user_id": "u4", "k": K}, {"user_id": "u3", "k": 3}
    )
    assert again.level == "last_good" and again.made == "cache" and ids(again) == ids(good)
    assert again.model_version == good.model_version and "retriever" in again.cause
    assert stranger.level == "popular_segment" and ids(shorter) == ids(good)[:3]
    assert all(i.reason for i in again.items) and other.level == "full"


def test_a_last_good_list_is_filtered_again_and_filled_up(engine):
    adult = {"region": "south", "age": 40}
    (good,) = ask(engine, {"user_id": "u3", "k": 59, "context": adult})
    assert {"i1", "i2"} <= set(ids(good))
    broken = replace(engine, retrieve=dead, last_good=engine._last_good)
    (child,) = ask(broken, {"user_id": "u3", "k": 57, "context": {"region": "north", "age": 9}})
    assert child.level == "last_good" and not UNSAFE & set(ids(child)) and len(set(ids(child))) == 57


def test_a_stored_list_stands_in_where_memory_has_none(engine):
    lists = Lists({("u3", "homepage"): stored(["i0", "i9", "gone", "i4"])})
    (answer,) = ask(replace(engine, retrieve=dead, lists=lists), {"user_id": "u3", "k": 4})
    assert answer.level == "last_good" and answer.made == "precomputed" and ids(answer)[:2] == ["i9", "i4"]
    assert len(answer.items) == 4 and answer.model_version == "earlier"


@pytest.mark.parametrize(("own", "codes"), [(True, [0, 9, 4]), (True, [9, 4]), (True, []), (False, [9, 4, 5])])
def test_the_codes_of_a_stored_list_are_those_of_the_bundle_that_made_it(engine, own, codes):
    version = engine.bundle.version if own else "earlier"
    found = StoredList(["i0", "i9", "i4"], [1.0] * 3, ["ease"] * 3, version, 0, codes)
    (answer,) = ask(replace(engine, retrieve=dead, lists=Lists({("u3", "homepage"): found})), {"user_id": "u3", "k": 2})
    assert answer.level == "last_good" and ids(answer) == ["i9", "i4"]


def test_the_codes_of_a_list_of_this_bundle_are_not_looked_up_again(engine):
    found = StoredList(["i9", "i4"], [1.0] * 2, ["ease"] * 2, engine.bundle.version, 0, [0, 4])  # 0 is out of stock
    (answer,) = ask(replace(engine, retrieve=dead, lists=Lists({("u3", "homepage"): found})), {"user_id": "u3", "k": 1})
    assert ids(answer) == ["i4"]


@pytest.mark.parametrize(
    ("items", "scores", "codes"), [(["i9"], [], []), ([9], [1], []), (["i9"], [1], ["nine"]), (None, None, None)]
)
def test_a_store_that_holds_something_else_costs_its_rung_only(engine, items, scores, codes):
    odd = StoredList(items, scores, ["ease"], "earlier", 0, codes)
    (answer,) = ask(replace(engine, lists=Lists({("u3", "email"): odd})), {"user_id": "u3", "surface": "email", "k": 3})
    assert (answer.level, answer.made, len(answer.items)) == ("full", "live", 3) and "lists: " in answer.cause


def test_a_store_of_lists_that_fails_costs_its_rung_only(engine):
    (answer,) = ask(replace(engine, retrieve=dead, lists=Lists(fails=True)), {"user_id": "u3", "k": 4})
    assert answer.level == "popular_segment" and "lists: Unavailable" in answer.cause


def test_a_precomputed_surface_is_answered_without_a_hop_and_lives_without_its_list(engine):
    lists = Lists({("u3", "email"): stored(["i9", "i4", "i5"])})
    ready = replace(engine, retrieve=dead, score=dead, lists=lists)
    (answer,) = ask(ready, {"user_id": "u3", "surface": "email", "k": 3})
    assert (answer.level, answer.made, answer.cause, ids(answer)) == ("full", "precomputed", None, ["i9", "i4", "i5"])
    (missing,) = ask(replace(engine, lists=lists), {"user_id": "u4", "surface": "email", "k": 3})
    assert (missing.level, missing.made, len(missing.items)) == ("full", "live", 3)


def test_a_cached_list_comes_without_hops_until_it_is_old_or_the_person_did_something(engine):
    now = engine.bundle.as_of
    cached = with_surfaces(engine, "surfaces: {homepage: {cache_s: 60}}")
    (first,) = ask(cached, {"user_id": "u3", "k": K})
    (second,) = ask(cached, {"user_id": "u3", "k": K})
    assert (first.made, second.made) == ("live", "cache") and ids(first) == ids(second)
    click = {"user_id": "u3", "k": K, "context": {"events": [{"item_id": "i10"}]}}
    assert ask(cached, click)[0].made == "live"
    for other in ({"k": K - 1}, {"context": {"age": 30}}, {"user_id": "u4"}, {"trace": True}):
        assert ask(cached, {"user_id": "u3", "k": K} | other)[0].made == "live"
    cached.clock = lambda: now + 61_000_000
    assert ask(cached, {"user_id": "u3", "k": K})[0].made == "live"


def test_a_list_that_depends_on_its_anchor_alone_is_cached_for_everybody(engine):
    page = {"surface": "similar_items", "k": 5, "context": {"items": ["i10"], "region": "north"}}
    (first,) = ask(engine, page | {"user_id": "u4"})
    (second,) = ask(engine, page | {"user_id": "u6"})
    (elsewhere,) = ask(engine, page | {"context": {"items": ["i11"], "region": "north"}})
    assert (first.made, second.made, elsewhere.made) == ("live", "cache", "live") and ids(first) == ids(second)


def test_a_stalled_hop_costs_its_deadline_and_then_nothing(parts):
    breaker = BreakerConfig(min_calls=2, open_s=60)
    engine = replace(engine_of(parts, ranker_ms=40, breaker=breaker), score=stalled)

    async def main() -> list[tuple[float, str, str]]:
        out = []
        for _ in range(4):
            start = time.perf_counter()
            (answer,) = await engine.recommend(parse({"instances": [{"k": K}]}).instances)
            assert len(answer.items) == K
            out.append((time.perf_counter() - start, answer.level, answer.cause))
        return out

    first, second, third, _ = asyncio.run(main())
    assert first[1:] == second[1:] == ("unranked", "ranker: deadline_exceeded")
    assert third[1:] == ("unranked", "ranker: breaker_open") and third[0] < 0.03


def test_the_deadline_of_the_whole_request_holds_over_all_stages(parts):
    engine = replace(engine_of(parts, total_ms=60, retriever_ms=1000, ranker_ms=1000), retrieve=stalled)
    start = time.perf_counter()
    (answer,) = ask(engine, {"k": K})
    assert time.perf_counter() - start < 0.5 and answer.level == "popular" and "deadline_exceeded" in answer.cause


def test_a_stalled_store_of_people_is_not_waited_for(engine):
    class Stalled:
        histories = features = stalled

    engine = replace(engine, people=Stalled(), config=replace(engine.config, people_ms=20, features_ms=20))
    (answer,) = ask(engine, {"user_id": "u3", "k": K})
    assert answer.level == "full" and answer.cause == "people: deadline_exceeded; features: deadline_exceeded"


def test_under_overload_lists_step_down_instead_of_queueing(parts):
    bundle, people, retrieve, score = parts

    async def slow(features: np.ndarray) -> np.ndarray:
        await asyncio.sleep(0.2)
        return await score(features)

    engine = replace(engine_of(parts, ranker_slots=2, slot_wait_ms=5, ranker_ms=1000, total_ms=2000), score=slow)

    async def main():
        one = parse({"instances": [{"k": K}]}).instances
        return await asyncio.gather(*[engine.recommend(one) for _ in range(12)])

    levels = [(a.level, a.cause) for (a,) in asyncio.run(main())]
    assert levels.count(("full", None)) == 2 and levels.count(("unranked", "ranker: overload")) == 10


def test_screening_that_fails_while_the_ranker_scores_is_done_again(engine, monkeypatch):
    def broken(*_):
        raise RuntimeError("broken")

    (before,) = ask(engine, {"user_id": "u3", "k": K})
    monkeypatch.setattr("longtail.engine.ranking.screen", broken)
    (after,) = ask(engine, {"user_id": "u3", "k": K})
    assert after.level == "full" and ids(after) == ids(before) and not UNSAFE & set(ids(after))


def test_popular_lists_cost_next_to_nothing(engine):
    broken = replace(engine, retrieve=dead)

    async def main() -> float:
        one = parse({"instances": [{"k": 20, "context": {"region": "north"}}]}).instances
        times = []
        for _ in range(200):
            start = time.perf_counter()
            await broken.recommend(one)
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    assert asyncio.run(main()) < 0.002


def test_a_block_list_holds_on_every_rung(engine):
    rules = 'rules: {block: [{items: ["i9", "i4"]}, {category: "c3"}]}'
    gone = {"i9", "i4"} | {f"i{i}" for i in range(60) if i % 6 == 3}
    for missing in ((), ("score",), ("retrieve",)):
        with_surfaces(broken := replace(engine, **dict.fromkeys(missing, dead)), rules)
        (answer,) = ask(broken, {"user_id": "u3", "k": 60, "context": {"region": "north"}})
        assert not gone & set(ids(answer)) and len(ids(answer)) == 60 - 3 - len(gone)


def test_rather_something_bought_before_than_nothing(engine):
    everything = [{"item_id": f"i{i}", "event_type": "purchase"} for i in range(60)]
    with_surfaces(engine, "rules: {filters: {exclude_bought: true}}")
    (answer,) = ask(engine, {"k": 5, "context": {"events": everything}})
    assert len(answer.items) == 5 and "filters" in answer.cause


@pytest.mark.parametrize("missing", [(), ("score",), ("retrieve",)])
def test_a_category_page_keeps_to_its_category_on_every_rung(engine, missing):
    broken = replace(engine, **dict.fromkeys(missing, dead))
    page = {"surface": "category_page", "k": 8, "user_id": "u3", "context": {"category": "c2"}}
    (answer,) = ask(broken, page)
    assert len(answer.items) == 8 and all(int(i[1:]) % 6 == 2 for i in ids(answer))
    (deep,) = ask(broken, page | {"k": 20, "context": {"category": "c2/d8"}})
    assert 0 < len(deep.items) < 20 and all(int(i[1:]) % 12 == 8 for i in ids(deep))


def test_an_unknown_category_is_said_and_not_a_blank_page(engine):
    (answer,) = ask(engine, {"surface": "category_page", "k": 4, "context": {"category": "nothing/here"}})
    assert len(answer.items) == 4 and answer.cause == "category: unknown"


def test_a_mistake_in_the_surface_names_the_field(engine):
    with pytest.raises(InvalidInput, match=r"instances\[1\]\.surface: there is no 'shelf', only .*homepage"):
        ask(engine, {}, {"surface": "shelf"})
    with pytest.raises(InvalidInput, match=r"instances\[0\]\.context\.category"):
        ask(engine, {"surface": "category_page"})


def test_anchors_are_what_the_list_is_like_and_never_in_it(engine):
    """Who likes category 3 looks at an item of category 4: the list beside it is of category 4."""
    page = {"surface": "similar_items", "user_id": "u3", "k": 8, "context": {"items": ["i10", "i16", "unknown"]}}
    (answer,) = ask(engine, page)
    assert answer.level == "full" and not {"i10", "i16"} & set(ids(answer))
    assert sum(int(i[1:]) % 6 == 4 for i in ids(answer)) >= 5
    (nothing_known,) = ask(engine, page | {"context": {"items": ["unknown"]}})
    assert len(nothing_known.items) == 8


def test_because_you_viewed_names_what_was_viewed(engine):
    events = [{"item_id": "i10", "event_type": "view"}, {"item_id": "i11", "event_type": "purchase"}]
    (answer,) = ask(engine, {"surface": "because_you_viewed", "k": 5, "context": {"events": events}})
    assert {i.reason for i in answer.items} == {"because you viewed thing 4 number 10"} and "i10" not in ids(answer)


def test_calls_of_many_surfaces_answer_each_in_its_place(engine):
    asked = [
        {"surface": s, "user_id": f"u{n}", "k": n + 1, "context": {"items": ["i10"], "category": "c4"}}
        for n, s in enumerate(["homepage", "cart", "category_page", "homepage", "similar_items", "cart"] * 5)
    ]
    together = ask(engine, *asked)
    assert [len(a.items) for a in together] == [
        i["k"] if i["surface"] != "category_page" else min(i["k"], 10) for i in asked
    ]
    assert [ids(a) for a in together[:6]] == [ids(ask(engine, i)[0]) for i in asked[:6]]


FAULTS = {"fine": None, "dead": dead, "stalled": stalled}
contexts = st.fixed_dictionaries(
    {},
    optional={
        "region": st.sampled_from(["north", "south", "nowhere"]), "age": st.integers(0, 150),
        "items": st.lists(st.sampled_from(["i0", "i1", "i10", "gone"]), max_size=4),
        "category": st.sampled_from(["c1", "c3/d9", "no", "/"]),
        "events": st.lists(st.fixed_dictionaries({"item_id": st.sampled_from(["i1", "i7", "x"])}), max_size=3),
    },
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    retrieve=st.sampled_from(list(FAULTS)), score=st.sampled_from(list(FAULTS)), k=st.none() | st.integers(1, MAX_K),
    user=st.none() | st.sampled_from(["u1", "u2", "nobody", "é\u0000"]), context=contexts,
    surface=st.sampled_from(["homepage", "similar_items", "because_you_viewed", "cart", "category_page", "email"]),
)  # fmt: skip
def test_never_empty_never_unsafe(parts, retrieve, score, k, user, context, surface):
    engine = engine_of(parts, total_ms=30, retriever_ms=10, ranker_ms=10)
    faults = {"retrieve": FAULTS[retrieve], "score": FAULTS[score]}
    engine = replace(engine, **{name: fault for name, fault in faults.items() if fault}, last_good=None)
    if surface == "category_page":
        context = {"category": "c1"} | context
    instance = Instance.model_validate({"user_id": user, "surface": surface, "k": k, "context": context})
    for _ in range(2):
        (answer,) = asyncio.run(engine.recommend([instance]))
        shown = ids(answer)
        assert 1 <= len(shown) <= (k or 24) and len(set(shown)) == len(shown)
        assert "i0" not in shown
        assert "i1" not in shown or context.get("age", 0) >= 18
        assert "i2" not in shown or context.get("region", "south") == "south"
        assert all(i.reason and i.score == i.score for i in answer.items)
        assert (answer.cause is None) <= (answer.level == "full")
