"""The ranker's input against values worked out by hand."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.errors import InvalidBundle, InvalidInput
from longtail.events import Catalogue, Histories, Requests
from longtail.features import item_table, loops, request
from longtail.features.batch import UserCategory
from longtail.features.definitions import DECAY_UNIT, ITEM_SNAPSHOT, USER_CATEGORY_SNAPSHOT, USER_SNAPSHOT
from longtail.features.request import NEVER, ItemArrays, ItemTable, Pairs, assemble, feature_list, schema_hash
from longtail.retrieval.content import content_matrix
from longtail.schema import DAY_US, EVENT_CODE
from tests.features.plain import plain

NOW = 19_800 * DAY_US + 15 * DAY_US // 24  # 15:00 UTC
ITEMS = 12


def history(*events: tuple[int, float, str, float]) -> Histories:
    """Events (item, days ago, kind, quantity), oldest first."""
    n = len(events)
    item, days, kind, quantity = zip(*events, strict=True) if n else ((), (), (), ())
    times = np.array([NOW - round(d * DAY_US) for d in days], np.int64)
    return Histories(
        np.array([0, n]), np.array(item, np.int32), times, np.array([EVENT_CODE[k] for k in kind], np.int8),
        np.ones(n, np.float32), np.array(quantity, np.float32), (times // DAY_US).astype(np.int32),
    )  # fmt: skip


def catalogue() -> Catalogue:
    at = np.arange(ITEMS)
    return Catalogue.from_frame(
        pd.DataFrame(
            {
                "item_id": [f"i{i:02}" for i in at],
                "category": [None if i == 11 else f"c{i % 3}" for i in at],
                "brand": [f"b{i % 4}" for i in at],
                "title": [f"word{i % 3} more{i % 4}" for i in at],
                "price": [np.nan if i == 5 else 10.0 * (i + 1) for i in at],
                "margin": 0.25,
                # Item 9 is listed ten days after the request.
                "created_at": pd.to_datetime(
                    [NOW + (10 if i == 9 else -100 - i) * DAY_US for i in at], unit="us", utc=True
                ),
            }
        )
    )


def items_of(**columns: dict[int, int]) -> ItemTable:
    snapshot = {name: np.zeros(ITEMS, np.int64) for name in ITEM_SNAPSHOT}
    for name, values in columns.items():
        for item, value in values.items():
            snapshot[name][item] = value
    made = catalogue()
    return ItemTable(snapshot, made, content_matrix(made, max_share=1.0))


def table_of(
    past: Histories, pairs: list[int], items: ItemTable | None = None, user: dict[str, int] | None = None,
    categories: UserCategory | None = None, segment: int = -1,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Columns by name, for one request at NOW and the given items."""
    asked = Requests(np.array([NOW]), np.array([0], np.int32), np.array([segment], np.int32), past)
    snapshot = {name: np.array([(user or {}).get(name, 0)], np.int64) for name in USER_SNAPSHOT}
    n = len(pairs)
    scores = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    rows = Pairs(np.zeros(n, np.int64), np.array(pairs, np.int64), scores, scores + 100)
    found = assemble(asked, snapshot, categories or UserCategory.empty(1), items or items_of(), rows)
    names = [f.name for f in feature_list(["a", "b"])]
    assert found.shape == (n, len(names)) and found.dtype == np.float32
    return dict(zip(names, found.T, strict=True))


def close(found: np.ndarray, expected: list[float]) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_the_person_did_with_this_item() -> None:
    past = history(
        (3, 20, "click", 1), (4, 16, "view", 1), (3, 12, "purchase", 4), (3, 10, "purchase", 1), (5, 2, "view", 1)
    )
    t = table_of(past, [3, 4, 6])
    close(t["pair_n"], [3, 1, 0])
    close(t["pair_bought"], [2, 0, 0])
    close(t["pair_since"], [10, 16, NEVER])
    close(t["pair_first"], [20, 16, NEVER])
    close(t["pair_interval"], [5, np.nan, np.nan])
    close(t["pair_due"], [2, np.nan, np.nan])
    close(t["pair_quantity"], [np.log1p(2), np.log1p(1), np.nan])
    close(t["pair_steps"], [1, 3, NEVER])


def test_nobody_with_no_history() -> None:
    t = table_of(history(), [0, 9])
    for name in ("pair_n", "pair_bought", "category_n_all", "content_match_3", "brand_match_20", "context_known"):
        close(t[name], [0, 0])
    close(t["context_idle"], [NEVER, NEVER])
    close(t["user_since_last"], [NEVER, NEVER])
    close(t["context_segment"], [-1, -1])
    assert np.isnan(t["vintage_difference"]).all() and np.isnan(t["price_difference"]).all()


def test_what_lies_after_the_request_is_unknown() -> None:
    t = table_of(history((0, 3, "click", 1)), [1, 9], items_of(first_us={1: NOW - 7 * DAY_US, 9: NOW + 5}))
    close(t["item_listed"], [101, NEVER])
    close(t["item_age"], [7, NEVER])
    close(t["vintage_difference"], [-1, np.nan])  # item 1 was listed a day before item 0


def test_items_by_their_snapshot() -> None:
    t = table_of(
        history(), [2, 5, 6],
        items_of(n_30d={2: 9}, pop_3d={2: 3 * DECAY_UNIT}, pop_30d={2: 5 * DECAY_UNIT}, clicks_7d={2: 4},
                 impressions_7d={2: 80}, users_all={2: 8}, repeat_users={2: 2}, spend_all={5: 600, 6: 900},
                 quantity_all={2: 900, 5: 300}, n_all={2: 3, 5: 3}, last_us={2: NOW - DAY_US // 2}),
    )  # fmt: skip
    close(t["item_n_30d"], [np.log(10), 0, 0])
    close(t["item_trend_3_30"], [0.5, 0, 0])
    close(t["item_ctr_7d"], [0.05, 0.05, 0.05])
    close(t["item_repeat_rate"], [0.25, 0, 0])
    close(t["item_since_last"], [0.5, NEVER, NEVER])
    close(t["item_quantity"], [np.log(4), np.log(2), 0])
    close(t["item_price"], [np.log(31), np.log(3), np.log(71)])  # what was paid stands in for the price of item 5
    close(t["item_margin"], [0.25] * 3)


def test_the_person_by_their_snapshot() -> None:
    user = {"n_all": 12, "items_all": 4, "sessions_all": 3, "first_us": NOW - 30 * DAY_US, "clicks_30d": 9,
            "impressions_30d": 80, "spend_all": 4000, "quantity_all": 200}  # fmt: skip
    t = table_of(history(), [0], user=user)
    close(t["user_n_all"], [np.log(13)])
    close(t["user_age"], [30])
    close(t["user_interval"], [10])
    close(t["user_repeat_share"], [3])
    close(t["user_basket"], [4])
    close(t["user_ctr_30d"], [0.1])
    close(t["price_difference"], [np.log1p(10) - np.log1p(20)])  # two pieces for 40.00


def test_the_person_in_the_category() -> None:
    """The person knows categories 0 and 2: 10 of 20 interactions were in category 2."""
    columns = {name: np.zeros(2, np.int64) for name in USER_CATEGORY_SNAPSHOT}
    columns["n_all"], columns["last_us"] = np.array([3, 10]), np.array([NOW - DAY_US, NOW - 4 * DAY_US])
    categories = UserCategory(np.array([0, 2]), np.array([0, 2], np.int32), columns)
    t = table_of(history(), [0, 1, 2, 11], user={"n_all": 20}, categories=categories)
    close(t["category_n_all"], [np.log(4), 0, np.log(11), 0])
    close(t["category_share"], [3.5 / 40, 0.5 / 40, 10.5 / 40, 0.5 / 40])
    close(t["category_since"], [1, NEVER, 4, NEVER])


def test_likeness_to_the_newest_items() -> None:
    past = history((1, 5, "click", 1), (3, 4, "click", 1), (6, 3, "click", 1), (0, 2, "click", 1))
    items = items_of()
    t = table_of(past, [0, 2, 11], items)
    close(t["category_match_3"], [1, 0, 0])  # 3, 6 and 0 share a category; item 11 has none
    close(t["category_match_20"], [3 / 4, 0, 0])
    close(t["brand_match_20"], [1 / 4, 1 / 4, 1 / 4])  # one other item of the brand each: 0; 6; 3
    dense = items.content.toarray()
    close(t["content_match_3"], list(dense[[0, 2, 11]] @ dense[[3, 6, 0]].sum(0) / 3))


def test_the_moment_and_the_session() -> None:
    past = history((1, 9.2, "click", 1), (2, 0.3, "click", 1), (3, 0.25, "click", 1))
    t = table_of(past, [0], segment=3)
    expected = {"context_hour": 15, "context_weekday": 19_800 % 7, "context_history": np.log(4), "context_idle": 0.25,
                "context_session": 2, "context_segment": 3, "context_known": 1}  # fmt: skip
    for name, value in expected.items():
        close(t[name], [value])


def test_sources_come_last_as_score_and_rank() -> None:
    t = table_of(history(), [4, 7])
    assert list(t)[-4:] == ["source_a", "rank_a", "source_b", "rank_b"]
    assert [t[n].tolist() for n in list(t)[-4:]] == [[0, 2], [100, 102], [1, 3], [101, 103]]


def test_every_feature_has_a_name_of_its_own_a_group_and_a_meaning() -> None:
    found = feature_list([])
    names = [f.name for f in feature_list(["a", "b"])]
    assert len(found) >= 80
    assert len(set(names)) == len(names) == len(found) + 4
    assert {f.group for f in feature_list(["a"])} == {"item", "user", "pair", "category", "cross", "context", "source"}
    assert all(len(f.meaning) > 5 for f in found)


def test_the_schema_ties_a_model_to_names_and_order(monkeypatch: pytest.MonkeyPatch) -> None:
    before = schema_hash(["a", "b"])
    assert before == schema_hash(["a", "b"])
    assert len({before, schema_hash(["b", "a"]), schema_hash(["a"]), schema_hash(["a", "c"])}) == 4
    monkeypatch.setattr(request, "USER_SNAPSHOT", {**USER_SNAPSHOT, "n_all": "something else"})
    assert schema_hash(["a", "b"]) != before


def test_an_empty_batch() -> None:
    none = np.empty(0, np.int64)
    asked = Requests(none, none.astype(np.int32), none.astype(np.int32), Histories.empty(0))
    user = dict.fromkeys(USER_SNAPSHOT, none)
    no_source = np.empty((0, 1), np.float32)
    found = assemble(asked, user, UserCategory.empty(0), items_of(), Pairs(none, none, no_source, no_source))
    assert found.shape == (0, len(feature_list(["a"])))


def test_codes_outside_the_catalogue_are_refused() -> None:
    """The loops read memory by these codes: a retriever that is out of step must end in an error."""
    asked, user, categories, pairs, items = random_batch(1)
    wrong = [(0, -1), (0, ITEMS), (-1, ITEMS + 5)]
    for at, code in wrong:
        codes = pairs.items.copy()
        codes[at] = code
        with pytest.raises(InvalidInput, match="catalogue"):
            assemble(asked, user, categories, items, replace(pairs, items=codes))
    for rows in (pairs.rows[::-1], pairs.rows + len(asked), pairs.rows - 1):
        with pytest.raises(InvalidInput, match="ascend"):
            assemble(asked, user, categories, items, replace(pairs, rows=rows))
    past = replace(asked.history, item=asked.history.item + ITEMS)
    with pytest.raises(InvalidInput, match="catalogue"):
        assemble(replace(asked, history=past), user, categories, items, pairs)


def test_stored_arrays_give_the_same_bits_as_computed_ones(tmp_path: Path) -> None:
    asked, user, categories, pairs, items = random_batch(2)
    items.arrays.save(tmp_path)
    opened = ItemArrays.open(tmp_path)
    assert opened is not None and isinstance(opened.matrix.base.base, np.memmap)
    expected = assemble(asked, user, categories, items, pairs)
    assert assemble(asked, user, categories, opened, pairs).tobytes() == expected.tobytes()
    (tmp_path / "item_table" / "columns.json").write_text('["of another version"]')
    assert ItemArrays.open(tmp_path) is None
    items.arrays.save(tmp_path)
    np.save(tmp_path / "item_table" / "facts.npy", np.zeros((1, 5), np.int64))
    with pytest.raises(InvalidBundle, match="different lengths"):
        ItemArrays.open(tmp_path)


def test_an_item_has_the_same_row_in_any_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, items = random_batch(3)
    whole = items.arrays.matrix
    monkeypatch.setattr(item_table, "CHUNK", 5)
    parts = ItemTable(items.snapshot, items.catalogue, items.content).arrays.matrix
    assert parts.tobytes() == whole.tobytes()


def test_the_literals_of_the_loops_are_those_of_the_schema() -> None:
    assert loops.DAY == DAY_US and loops.NEVER == NEVER


def test_a_request_without_candidates_between_others() -> None:
    asked, user, categories, pairs, items = random_batch(1)
    kept = pairs.rows != 1
    without = Pairs(*(getattr(pairs, f.name)[kept] for f in fields(Pairs)))
    whole = assemble(asked, user, categories, items, pairs)
    assert whole[kept].tobytes() == assemble(asked, user, categories, items, without).tobytes()


def random_batch(seed: int) -> tuple[Requests, dict[str, np.ndarray], UserCategory, Pairs, ItemTable]:
    rng = np.random.default_rng(seed)
    b = 4
    lengths = rng.integers(0, 40, b) * (rng.random(b) < 0.8)
    n = int(lengths.sum())
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    times = NOW + rng.integers(0, DAY_US, b)
    ago = np.concatenate([np.sort(rng.integers(1, 200 * DAY_US, k))[::-1] for k in lengths]) if n else np.empty(0, int)
    time = np.repeat(times, lengths) - ago
    past = Histories(
        indptr, rng.integers(0, ITEMS, n).astype(np.int32), time, rng.integers(1, 5, n).astype(np.int8),
        np.ones(n, np.float32), rng.random(n).astype(np.float32) * 3, (time // DAY_US).astype(np.int32),
    )  # fmt: skip
    asked = Requests(times, np.arange(b, dtype=np.int32), rng.integers(-1, 3, b).astype(np.int32), past)
    user = {name: rng.integers(0, 1000, b) for name in USER_SNAPSHOT}
    held = [np.flatnonzero(rng.random(3) < 0.5) for _ in range(b)]
    sizes = [len(h) for h in held]
    columns = {name: rng.integers(0, 50, sum(sizes)) for name in USER_CATEGORY_SNAPSHOT}
    categories = UserCategory(np.concatenate([[0], np.cumsum(sizes)]), np.concatenate(held).astype(np.int32), columns)
    of = [np.flatnonzero(rng.random(ITEMS) < 0.6) for _ in range(b)]
    rows = np.repeat(np.arange(b), [len(o) for o in of])
    scores = rng.random((2, len(rows), 2)).astype(np.float32)
    made = catalogue()
    items = ItemTable(
        {name: rng.integers(0, 10**6, ITEMS) for name in ITEM_SNAPSHOT}, made, content_matrix(made, max_share=1.0)
    )
    return asked, user, categories, Pairs(rows, np.concatenate(of), *scores), items


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_the_fast_way_gives_what_the_plain_way_gives(seed: int) -> None:
    asked, user, categories, pairs, items = random_batch(seed)
    found = assemble(asked, user, categories, items, pairs)
    names = [f.name for f in feature_list([])]
    expected = plain(asked, user, categories, items, pairs)
    assert all(list(row) == names for row in expected)
    for column, name in enumerate(names):
        np.testing.assert_allclose(
            found[:, column], [row[name] for row in expected], rtol=2e-5, atol=1e-5, err_msg=name
        )


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_values_do_not_depend_on_the_batch(seed: int) -> None:
    asked, user, categories, pairs, items = random_batch(seed)
    whole = assemble(asked, user, categories, items, pairs)
    for b in range(len(asked)):
        one, mine = np.array([b]), pairs.rows == b
        alone = Pairs(pairs.rows[mine] * 0, pairs.items[mine], pairs.scores[mine], pairs.ranks[mine])
        columns = {name: column[one] for name, column in user.items()}
        found = assemble(asked.take(one), columns, categories.take(one), items, alone)
        assert found.tobytes() == whole[mine].tobytes()
        last = Pairs(*(getattr(alone, f.name)[-1:] for f in fields(Pairs)))
        assert assemble(asked.take(one), columns, categories.take(one), items, last).tobytes() == found[-1:].tobytes()


def test_content_likeness_does_not_depend_on_the_batch_with_long_texts() -> None:
    """Rows of dozens of words, out of order in one request only."""
    rng = np.random.default_rng(0)
    content = sp.random(ITEMS, 300, 0.4, "csr", np.float32, random_state=0)
    for seed in range(5):
        asked, user, categories, pairs, items = random_batch(seed)
        items = ItemTable(items.snapshot, items.catalogue, content)
        whole = assemble(asked, user, categories, items, pairs)
        j = int(rng.integers(len(pairs.rows)))
        one = pairs.rows[[j]]
        alone = Pairs(np.zeros(1, np.int64), pairs.items[[j]], pairs.scores[[j]], pairs.ranks[[j]])
        columns = {name: column[one] for name, column in user.items()}
        found = assemble(asked.take(one), columns, categories.take(one), items, alone)
        assert found.tobytes() == whole[[j]].tobytes()
