"""Snapshots against a plain count of the events, and the expressions on other engines, Spark among them."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import ibis
import numpy as np
import pandas as pd
import pytest

from longtail.errors import InvalidInput
from longtail.events.log import Catalogue, Log
from longtail.features import batch
from longtail.features.definitions import (
    DECAY_UNIT,
    HALF_LIVES,
    ITEM_SNAPSHOT,
    ITEM_WINDOWS,
    USER_CATEGORY_SNAPSHOT,
    USER_SNAPSHOT,
    USER_WINDOWS,
)
from longtail.schema import DAY_US, EVENT_TYPES
from tests.features.shop import NOON, STAMPS, make_catalogue, make_log


@dataclass(frozen=True)
class Engine:
    backend: Any
    put: Callable[[str, dict[str, Any]], Any]


def frame_before(log: Log, catalogue: Catalogue, stamp: int) -> pd.DataFrame:
    names = ("user", "item", "time", "kind", "strength", "value", "quantity", "session")
    frame = pd.DataFrame({name: getattr(log, name) for name in names})
    frame["category"] = catalogue.category[log.item]
    frame["type"] = np.array(EVENT_TYPES)[log.kind]
    frame["cents"] = np.floor(frame["value"].astype(float) * 100 + 0.5).astype(np.int64)
    frame["hundredths"] = np.floor(frame["quantity"].astype(float) * 100 + 0.5).astype(np.int64)
    frame = frame[frame["time"] < stamp].copy()
    frame["age"] = (stamp - 1 - frame["time"]) // DAY_US
    return frame


def counted(events: pd.DataFrame, other: str) -> dict[str, int]:
    """Every column of both snapshots for one entity, by the plainest means."""
    positive = events[events["strength"] > 0]
    buy = positive[positive["type"] == "purchase"]
    clicks = events[events["type"].isin(["click", "view"])]
    shown = events[events["type"] == "impression"]
    carts = events[events["type"] == "add_to_cart"]
    returns = events[(events["type"] == "purchase") & (events["value"] < 0)]

    def within(frame: pd.DataFrame, days: int) -> pd.DataFrame:
        return frame[frame["age"] < days]

    out = {f"n_{d}d": len(within(positive, d)) for d in {*ITEM_WINDOWS, *USER_WINDOWS}}
    out |= {f"buy_{d}d": len(within(buy, d)) for d in (7, 30, 90)}
    out |= {f"impressions_{d}d": len(within(shown, d)) for d in (7, 30)}
    out |= {f"clicks_{d}d": len(within(clicks, d)) for d in (7, 30)}
    days_of = positive.groupby(other)["age"].nunique()
    out |= {
        "n_all": len(positive), "buy_all": len(buy), "carts_30d": len(within(carts, 30)),
        "returns_90d": len(within(returns, 90)), "returns_all": len(returns),
        "users_all": len(days_of), "items_all": len(days_of), "repeat_users": int((days_of >= 2).sum()),
        "sessions_30d": within(positive, 30)["session"].nunique(), "sessions_all": positive["session"].nunique(),
        "days_all": positive["age"].nunique(),
        "first_us": positive["time"].min() if len(positive) else 0,
        "last_us": positive["time"].max() if len(positive) else 0,
        "spend_90d": within(buy, 90)["cents"].sum(), "spend_all": buy["cents"].sum(),
        "quantity_all": positive["hundredths"].sum(),
    }  # fmt: skip
    for h in HALF_LIVES:
        out[f"pop_{h}d"] = sum(round(DECAY_UNIT * 0.5 ** (age / h)) for age in positive["age"])
    return {name: int(v) for name, v in out.items()}


@pytest.fixture(scope="module")
def log() -> Log:
    return make_log()


@pytest.fixture(scope="module")
def taken(log: Log) -> batch.Snapshots:
    return batch.snapshots(log, make_catalogue(), STAMPS, threads=1)


@pytest.mark.parametrize("stamp", STAMPS)
@pytest.mark.parametrize(("entity", "other"), [("item", "user"), ("user", "item")])
def test_every_column_equals_a_plain_count(log: Log, taken: batch.Snapshots, entity: str, other: str, stamp: int):
    names = ITEM_SNAPSHOT if entity == "item" else USER_SNAPSHOT
    n = log.n_items if entity == "item" else log.n_users
    got = getattr(taken, entity)(stamp)
    assert list(got) == list(names)
    events = frame_before(log, make_catalogue(), stamp)
    expected = [counted(events[events[entity] == code], other) for code in range(n)]
    for name in names:
        assert got[name].dtype == np.int64
        np.testing.assert_array_equal(got[name], [row[name] for row in expected], err_msg=name)


@pytest.mark.parametrize("stamp", STAMPS)
def test_user_category_rows_equal_a_plain_count(log: Log, taken: batch.Snapshots, stamp: int):
    got = taken.user_category(stamp)
    assert len(got) == log.n_users and list(got.columns) == list(USER_CATEGORY_SNAPSHOT)
    events = frame_before(log, make_catalogue(), stamp)
    events = events[(events["strength"] > 0) & (events["category"] >= 0)]
    groups = dict(list(events.groupby(["user", "category"])))
    rows = np.repeat(np.arange(len(got)), np.diff(got.indptr))
    assert list(zip(rows, got.category, strict=True)) == sorted(groups)
    for k, key in enumerate(zip(rows, got.category, strict=True)):
        expected = counted(groups[key], "item")
        assert {name: column[k] for name, column in got.columns.items()} == {n: expected[n] for n in got.columns}


def test_taking_rows_keeps_order_and_answers_unknown_users_with_nothing(taken: batch.Snapshots):
    whole = taken.user_category(STAMPS[-1])
    some = whole.take(np.array([3, -1, 0]))
    np.testing.assert_array_equal(some.category[: some.indptr[1]], whole.category[whole.indptr[3] : whole.indptr[4]])
    assert some.indptr[1] == some.indptr[2]
    np.testing.assert_array_equal(some.columns["n_all"][some.indptr[2] :], whole.columns["n_all"][: whole.indptr[1]])
    user = batch.take_user(taken.user(STAMPS[-1]), np.array([3, -1]))
    assert user["n_all"][0] > 0 and all(column[1] == 0 for column in user.values())
    assert len(batch.UserCategory.empty(2).take(np.array([0, -1])).category) == 0


def test_stamps_at_different_times_of_day_are_refused(log: Log):
    with pytest.raises(InvalidInput, match="whole days apart"):
        batch.snapshots(log, make_catalogue(), [NOON, NOON + 1])
    with pytest.raises(InvalidInput, match="at least one"):
        batch.snapshots(log, make_catalogue(), [])


def test_unasked_stamp_is_refused_and_an_empty_past_gives_zeros(log: Log):
    early = batch.snapshots(log, make_catalogue(), [NOON - 5 * DAY_US])
    assert not early.item(NOON - 5 * DAY_US)["n_all"].any() and not early.user(NOON - 5 * DAY_US)["last_us"].any()
    assert len(early.user_category(NOON - 5 * DAY_US).category) == 0
    with pytest.raises(InvalidInput, match="as_of"):
        early.item(NOON)


def test_the_same_expressions_compile_for_spark(monkeypatch: pytest.MonkeyPatch):
    # Ibis fills this option in when its Spark backend is imported, which needs pyspark; compiling does not.
    compiler = "ibis.backends.sql.compilers.pyspark.options"
    monkeypatch.setattr(compiler, SimpleNamespace(pyspark=SimpleNamespace(treat_nan_as_null=False)))
    coded = batch.coded_events(ibis.table(batch.EVENT_COLUMNS, name="events"), 0)
    stamps, weights = ibis.table(batch.STAMP_COLUMNS, name="s"), ibis.table(batch.WEIGHT_COLUMNS, name="w")
    expressions = [
        batch.item_snapshot(batch.item_days(coded), weights, stamps),
        batch.user_snapshot(batch.user_days(coded), batch.session_days(coded), stamps),
        batch.user_category_snapshot(batch.user_category_days(coded), stamps),
    ]
    for expression in expressions:
        sql = str(ibis.to_sql(expression, dialect="pyspark"))
        assert "ASOF" not in sql.upper() and "HUGEINT" not in sql.upper()
        assert set(expression.schema().values()) <= {ibis.dtype("int64"), ibis.dtype("int32")}


@pytest.fixture(params=["sqlite", pytest.param("spark", marks=[pytest.mark.slow, pytest.mark.spark])])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Another engine under the same expressions: a table from columns, and an expression's rows."""
    if request.param == "sqlite":
        sqlite = ibis.sqlite.connect()
        yield Engine(sqlite, lambda name, columns: pd.DataFrame(columns).to_sql(name, sqlite.con, index=False))
        return
    if importlib.util.find_spec("pyspark") is None or shutil.which("java") is None:
        pytest.skip("Spark needs pyspark and Java: make test-spark installs the one and names the other")
    from pyspark.sql import SparkSession

    here = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false",
            "spark.sql.shuffle.partitions": "2", "spark.sql.session.timeZone": "UTC"}  # fmt: skip
    session = SparkSession.builder.master("local[2]").config(map=here).getOrCreate()
    spark = ibis.pyspark.connect(session)
    try:
        yield Engine(spark, lambda name, columns: session.createDataFrame(pd.DataFrame(columns)).createTempView(name))
    finally:
        session.stop()


def test_a_second_engine_computes_the_same_bits(log: Log, taken: batch.Snapshots, engine: Engine):
    arrays = {n: getattr(log, n) for n in batch.EVENT_COLUMNS if n != "category"}
    arrays["category"] = make_catalogue().category[log.item]
    anchor = STAMPS[0] % DAY_US
    stamps = {"bucket": [(stamp - anchor) // DAY_US for stamp in STAMPS]}
    for name, columns in (("events", arrays), ("weights", batch.decay_weights()), ("stamps", stamps)):
        engine.put(name, columns)
    table = engine.backend.table
    coded = batch.coded_events(table("events"), anchor)
    items = batch.item_snapshot(batch.item_days(coded), table("weights"), table("stamps"))
    users = batch.user_snapshot(batch.user_days(coded), batch.session_days(coded), table("stamps"))
    categories = batch.user_category_snapshot(batch.user_category_days(coded), table("stamps"))
    whole = {name: engine.backend.to_pandas(found) for name, found in (("item", items), ("user", users))}
    by_category = engine.backend.to_pandas(categories)
    for stamp, bucket in zip(STAMPS, stamps["bucket"], strict=True):
        for entity, names in (("item", ITEM_SNAPSHOT), ("user", USER_SNAPSHOT)):
            rows = whole[entity][whole[entity]["bucket"] == bucket].set_index(entity)
            expected = pd.DataFrame(getattr(taken, entity)(stamp)).loc[rows.index]
            assert set(np.flatnonzero(getattr(taken, entity)(stamp)["n_all"])) <= set(rows.index)
            np.testing.assert_array_equal(rows[list(names)].to_numpy(np.int64), expected.to_numpy())
        rows = by_category[by_category["bucket"] == bucket].sort_values(["user", "category"])
        got = taken.user_category(stamp)
        np.testing.assert_array_equal(rows["category"], got.category)
        for name, column in got.columns.items():
            np.testing.assert_array_equal(rows[name], column, err_msg=name)
