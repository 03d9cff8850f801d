"""The engine on a really trained bundle, its hops called in process."""

from __future__ import annotations

import asyncio
import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from longtail.engine.bundle import REASON_OF_KIND
from longtail.engine.exposure import HALF_LIFE_US, Exposure
from longtail.engine.impressions import ImpressionLog, read_impressions
from longtail.engine.parts import Bundle
from longtail.engine.popular import POPULAR_REASON, SEGMENT_REASON
from longtail.engine.schema import Instance, parse
from longtail.engine.wire import (
    pack_requests,
    unpack_requests,
)
from longtail.errors import InvalidBundle, InvalidInput
from longtail.events import Histories
from longtail.surfaces import Surfaces
from tests.engine.in_process import ask, dead, engine_of, ids
from tests.serving.small_bundle import train

K = 10


def test_a_known_person_gets_a_full_list_with_reasons(engine):
    (answer,) = ask(engine, {"user_id": "u3", "k": K})
    assert answer.level == "full" and answer.cause is None and len(set(ids(answer))) == K
    assert answer.model_version == engine.bundle.version
    assert all(i.source in engine.bundle.sources and i.reason for i in answer.items)
    assert [i.score for i in answer.items] == sorted((i.score for i in answer.items), reverse=True)


def test_the_list_follows_the_taste(engine):
    """User u3 chose category 3 seven times of ten: the list holds more of it than a newcomer's."""
    person, newcomer = ask(engine, {"user_id": "u3", "k": K}, {"k": K})

    def liked(answer) -> int:
        return sum(int(i[1:]) % 6 == 3 for i in ids(answer))

    assert liked(person) > liked(newcomer)


def test_a_click_in_the_session_changes_the_next_list(engine):
    event = {"item_id": "i10", "event_type": "click"}
    before, after = ask(engine, {"k": K}, {"k": K, "context": {"events": [event]}})
    assert ids(before) != ids(after)
    assert any(int(i[1:]) % 6 == 4 for i in ids(after)[:3])


def test_unknown_items_in_the_session_change_nothing(engine):
    before, after = ask(engine, {"k": K}, {"k": K, "context": {"events": [{"item_id": "gone"}]}})
    assert ids(before) == ids(after) and after.level == "full"


def test_instances_of_one_call_get_what_they_get_alone(engine):
    asked = [{"user_id": f"u{n}", "k": n + 1, "context": {"region": "south"}} for n in range(4)] + [{"k": 3}]
    together = ask(engine, *asked)
    for instance, answer in zip(asked, together, strict=True):
        (alone,) = ask(engine, instance)
        assert alone.items == answer.items


def test_without_the_ranker_the_blended_order_comes(engine):
    (answer,) = ask(replace(engine, score=dead), {"user_id": "u3", "k": K})
    assert answer.level == "unranked" and "ranker" in answer.cause and len(answer.items) == K


@pytest.mark.parametrize("broken", [np.full(50, np.nan, np.float32), np.zeros(3, np.float32)])
def test_a_ranker_that_answers_nonsense_counts_as_dead(engine, broken):
    async def nonsense(features):
        return broken

    (answer,) = ask(replace(engine, score=nonsense), {"user_id": "u3", "k": K})
    assert answer.level == "unranked" and len(answer.items) == K


def test_without_the_retriever_popular_items_come(engine):
    known, stranger = ask(replace(engine, retrieve=dead), {"user_id": "u3", "k": K}, {"k": K})
    assert known.level == "popular_segment" and stranger.level == "popular"
    assert len(known.items) == len(stranger.items) == K and "retriever" in known.cause


def test_without_the_people_everybody_is_a_newcomer(engine):
    class Broken:
        async def histories(self, user_ids):
            raise OSError("disk")

        async def features(self, user_ids):
            raise OSError("disk")

    lost, newcomer = ask(replace(engine, people=Broken()), {"user_id": "u3", "k": K}, {"k": K})
    assert lost.level == "full" and "people" in lost.cause and ids(lost) == ids(newcomer)


@pytest.mark.parametrize("missing", [(), ("score",), ("retrieve",), ("retrieve", "score")])
@pytest.mark.parametrize("context", [{}, {"region": "north"}, {"region": "north", "age": 17}, {"region": "nowhere"}])
def test_every_rung_is_safe_even_when_the_whole_shop_is_asked_for(engine, missing, context):
    """Item 0 is out of stock, item 1 is for adults, item 2 is for the south only."""
    (answer,) = ask(replace(engine, **dict.fromkeys(missing, dead)), {"k": 500, "context": context})
    assert not {"i0", "i1", "i2"} & set(ids(answer))
    assert len(set(ids(answer))) == len(engine.bundle.catalogue) - 3


def test_an_adult_in_the_south_may_see_all_that_is_in_stock(engine):
    (answer,) = ask(engine, {"k": 500, "context": {"region": "south", "age": 40}})
    assert len(ids(answer)) == len(engine.bundle.catalogue) - 1


def test_timings_and_trace_come_when_asked_for(engine):
    plain, traced = ask(engine, {"k": 2}, {"k": 2, "trace": True})
    assert plain.timings_ms is None and plain.trace is None
    assert set(traced.timings_ms) == {"people", "retriever", "features", "ranker", "rerank", "total"}
    assert traced.trace["candidates"] > 0 and traced.trace["hops"] == {"retriever": "ok", "ranker": "ok"}
    assert [i["item_id"] for i in traced.trace["items"]] == ids(traced)
    assert sum(traced.trace["by_source"].values()) >= traced.trace["candidates"]
    first = traced.trace["items"][0]
    assert first["rank_before_rules"] == 1 and first["sources"] and "item_price" in first["features"]
    json.dumps(traced.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "body"),
        ({}, "instances"),
        ({"instances": []}, "instances"),
        ({"instances": "x"}, "instances"),
        ({"instances": [{"k": 0}]}, r"instances\[0\]\.k"),
        ({"instances": [{"k": 1}, {"k": "ten"}]}, r"instances\[1\]\.k"),
        ({"instances": [{"user_id": ""}]}, r"instances\[0\]\.user_id"),
        ({"instances": [{"user": "u1"}]}, r"instances\[0\]\.user"),
        ({"instances": [{"context": {"events": [{"event_type": "view"}]}}]}, r"events\[0\]\.item_id"),
        ({"instances": [{"context": {"events": [{"item_id": "i1", "event_type": "stare"}]}}]}, r"event_type.*one of"),
        ({"instances": [{"context": {"events": [{"item_id": "i1", "timestamp": "2024-01-01"}]}}]}, "timestamp"),
        ({"instances": [{"context": {"age": -1}}]}, r"context\.age"),
        ({"instances": [{}] * 257}, "instances"),
    ],
)
def test_a_malformed_request_names_the_field(body, field):
    with pytest.raises(InvalidInput, match=field):
        parse(body)


def test_numeric_ids_are_those_of_the_text(engine):
    assert parse({"instances": [{"user_id": 17850}]}).instances[0].user_id == "17850"


def test_served_features_are_those_that_training_computes(engine, made_shop, tmp_path):
    """Replay what was served through the trainer's own feature code: no value differs."""
    log = ImpressionLog(tmp_path / "log", "candidates")
    logged = replace(engine, impressions=log, clock=lambda: engine.bundle.as_of + 5_000_000)
    people = [f"u{n}" for n in range(60)]
    for start in range(0, len(people), 7):
        ask(logged, *[{"user_id": u, "k": 5} for u in people[start : start + 7]])
    log.close()
    served = read_impressions(tmp_path / "log")
    assert len(served) == len(people)

    from longtail.events import Requests
    from longtail.events.log import histories_before

    data, retriever, _ = train(made_shop)
    stage = data.stage(data.until, [], retriever.blend)
    codes = {user: code for code, user in enumerate(made_shop.user_ids)}
    user = np.array([codes[row.user_id] for row, _ in served], np.int32)
    time = np.array([row.time for row, _ in served], np.int64)
    history = histories_before(made_shop.log.positives, user, time, data.config.history)
    requests = Requests(time, user, made_shop.segment[user], history)
    candidates = retriever.candidates(requests, 50)
    expected = stage.features(requests, candidates, stage.item_table())
    np.testing.assert_array_equal(candidates.items, np.concatenate([row.candidates for row, _ in served]))
    actual = np.concatenate([features for _, features in served])
    assert (~((actual == expected) | (np.isnan(actual) & np.isnan(expected)))).sum() == 0


def test_a_bundle_of_other_parts_is_refused(bundle_folder, tmp_path):
    import shutil

    shutil.copytree(bundle_folder, tmp_path / "b")
    path = next((tmp_path / "b" / "ranker").glob("*/config.pbtxt"))
    path.write_text(path.read_text().replace("dims: [ 1", "dims: [ 2", 1))
    with pytest.raises(InvalidBundle, match=r"config\.pbtxt was altered"):
        Bundle.open(tmp_path / "b")
    with pytest.raises(InvalidBundle, match="takes 2"):
        Bundle.open(tmp_path / "b", contents=False)


@pytest.mark.parametrize("text", ["nobody-else", "u3'; --", "\u0000", "é" * 200, "😀"])
def test_any_user_id_is_answered(engine, text):
    (answer,) = ask(engine, {"user_id": text, "k": 3})
    assert answer.level == "full" and answer.cause is None and len(answer.items) == 3


def test_events_from_the_future_count_as_now(engine):
    event = {"item_id": "i10", "timestamp": "2099-01-01T00:00:00Z"}
    (answer,) = ask(engine, {"k": K, "context": {"events": [event]}})
    assert answer.level == "full" and answer.cause is None


def test_wire_refuses_what_does_not_fit():
    from longtail.engine.people import requests_of

    sent = pack_requests(requests_of([Instance()], Histories.empty(1), [np.empty(0, int)], np.array([-1]), 1))
    with pytest.raises(InvalidInput, match="time"):
        unpack_requests({n: a for n, a in sent.items() if n != "time"}, 3)
    with pytest.raises(InvalidInput, match="history_indptr"):
        unpack_requests(sent | {"history_indptr": np.array([0, 5])}, 3)


def test_what_was_shown_least_has_its_turn_at_the_end_of_lists(parts):
    engine = engine_of(parts)
    rules = Surfaces.parse("surfaces: {homepage: {k: 10, rules: {long_tail: {after: 8}}}}")
    engine.surfaces = rules.bind(engine.bundle.catalogue, engine.bundle.sources)
    probe = asyncio.run(engine.recommend(parse({"instances": [{"k": K}]}).instances, probe=True))
    lists = [ids(ask(engine, {"k": K})[0]) for _ in range(6)]
    assert lists[0] == ids(probe[0])  # what nobody saw does not count
    assert {tuple(shown[:8]) for shown in lists} == {tuple(lists[0][:8])}
    ends = [item for shown in lists for item in shown[8:]]
    assert len(set(ends)) == len(ends) == 12


def test_what_was_shown_is_forgotten_by_half_in_a_day():
    exposure = Exposure(3)
    exposure.add(np.array([0, 2, -1]), 0)
    exposure.add(np.array([0]), HALF_LIFE_US // 2)
    exposure.add(np.array([1]), HALF_LIFE_US)
    np.testing.assert_allclose(exposure.counts, [0.5 + 0.5**0.5, 1, 0.5], rtol=1e-6)
    exposure.add(np.array([1]), 0)  # a clock that was set back neither fades nor revives
    np.testing.assert_allclose(exposure.counts, [0.5 + 0.5**0.5, 2, 0.5], rtol=1e-6)


def test_nobody_is_told_a_reason_that_cannot_be_true(engine):
    asked = {"k": 40, "surface": "homepage"}
    nobody, known = ask(engine, asked, asked | {"user_id": "u3"})
    somewhere = {i.reason for i in ask(engine, asked | {"context": {"region": "south"}})[0].items}
    told = {i.reason for i in nobody.items}
    assert not told & {SEGMENT_REASON, *REASON_OF_KIND.values()}
    assert {POPULAR_REASON if r == SEGMENT_REASON else r for r in somewhere} <= told
    assert {i.reason for i in known.items} - told


def test_the_question_is_sent_before_features_are_read(engine):
    """A hop asks in a task of its own, which runs only when the engine waits."""
    order = []

    async def send(requests, ask):
        order.append("sent")
        return await engine.retrieve(requests, ask)

    class People(type(engine.people)):
        async def features(self, user_ids):
            order.append("read")
            return await super().features(user_ids)

    people = copy.copy(engine.people)
    people.__class__ = People
    hurried = replace(engine, people=people, retrieve=lambda requests, ask: asyncio.create_task(send(requests, ask)))
    (answer,) = ask(hurried, {"user_id": "u3", "k": K})
    assert answer.level == "full" and order == ["sent", "read"]


def test_a_log_that_fails_costs_nobody_a_list(engine, tmp_path):
    class Broken(ImpressionLog):
        def add(self, rows):
            raise OSError("no log today")

    told = []

    async def call():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))
        logged = replace(engine, impressions=log)
        return await logged.recommend(parse({"instances": [{"user_id": "u3", "k": K}]}).instances)

    log = Broken(tmp_path / "log")
    (answer,) = asyncio.run(call())
    log.close()
    assert answer.level == "full" and [str(error) for error in told] == ["no log today"]
