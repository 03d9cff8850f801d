"""What the collector lets in is what the import accepts, value for value."""

from __future__ import annotations

import json

import ibis
import orjson
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtail.events import incoming, validation
from longtail.events.incoming import Bounds, Misfit, clean
from longtail.schema import DAY_US, EVENT_TYPES

NOW = 20_000 * DAY_US
GOOD = {"event_id": "e", "user_id": "u", "item_id": "i", "event_type": "click", "timestamp": NOW - 1}


def reason(event: object) -> str:
    with pytest.raises(Misfit) as caught:
        clean(event, NOW)
    return str(caught.value)


def test_the_rules_are_those_of_the_import():
    assert incoming.EARLIEST_US == validation.EARLIEST_US and incoming.TEXT == validation.TEXT
    assert {*incoming.WHOLE, *incoming.REAL} == set(validation.NUMBERS)


def test_a_whole_event_keeps_every_column():
    event = {
        **GOOD, "session_id": "s", "surface": "home", "position": 3, "request_id": "r", "value": 7, "dwell_ms": 2**40,
        "device": "phone", "quantity": 2, "propensity": 1, "region": "n", "device_id": "d", "colour": {"a": [1, None]},
    }  # fmt: skip
    row = clean(event, NOW)
    assert json.loads(row.pop("extra")) == {"colour": {"a": [1, None]}}
    assert row == {k: v for k, v in event.items() if k != "colour"}
    assert [type(row[name]) for name in ("value", "quantity", "propensity", "position")] == [float, float, float, int]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"event_id": None}, "event_id is missing"),
        ({"event_id": "  "}, "event_id is missing"),
        ({"event_id": ["e"]}, "event_id is not text"),
        ({"event_id": True}, "event_id is not text"),
        ({"event_id": 1.5}, "event_id is not text"),
        ({"event_id": "x" * 257}, "event_id is longer than 256 characters"),
        ({"item_id": "a\nb"}, "item_id has control characters"),
        ({"item_id": ""}, "item_id is missing"),
        ({"user_id": None}, "user_id, session_id and device_id are all missing"),
        ({"event_type": None}, "event_type is missing"),
        ({"event_type": "wish"}, "event_type is unknown"),
        ({"timestamp": "yesterday"}, "timestamp is missing or cannot be read"),
        ({"timestamp": ""}, "timestamp is missing or cannot be read"),
        ({"timestamp": True}, "timestamp is missing or cannot be read"),
        ({"timestamp": {}}, "timestamp is missing or cannot be read"),
        ({"timestamp": 1e300}, "timestamp is in the future"),
        ({"timestamp": NOW + 301_000_000}, "timestamp is in the future"),
        ({"timestamp": "9999-12-31T23:59:59.999999-23:59"}, "timestamp is in the future"),
        ({"timestamp": NOW // 1000}, "timestamp is before 1990: is the unit right?"),
        ({"timestamp": "0001-01-01T00:00:00+23:59"}, "timestamp is before 1990: is the unit right?"),
        ({"position": -1}, "position is negative"),
        ({"position": 2.5}, "position is not a whole number"),
        ({"position": "3"}, "position is not a number"),
        ({"position": True}, "position is not a number"),
        ({"position": 2**31}, "position is out of range"),
        ({"dwell_ms": 2**63}, "dwell_ms is out of range"),
        ({"dwell_ms": -5}, "dwell_ms is negative"),
        ({"quantity": -0.5}, "quantity is negative"),
        ({"value": float("inf")}, "value is not finite"),
        ({"value": float("nan")}, "value is not finite"),
        ({"value": 10**400}, "value is not finite"),
        ({"value": "12"}, "value is not a number"),
        ({"propensity": 0}, "propensity is not in (0, 1]"),
        ({"propensity": 1.5}, "propensity is not in (0, 1]"),
        ({"note": "x" * 5000}, "unknown columns are longer than 4096 bytes"),
        ({"note": float("nan")}, "unknown columns cannot be kept: too deeply nested, or not finite"),
    ],
)
def test_what_is_wrong_is_named(change: dict, expected: str):
    assert reason({**GOOD, **change}) == expected


@pytest.mark.parametrize("event", [None, 3, "text", [], [GOOD]])
def test_what_is_no_object_is_no_event(event: object):
    assert reason(event) == "an event is an object with named values"


def test_nesting_without_end_is_refused():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert "nested" in reason({**GOOD, "deep": deep})


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("2024-10-03T23:59:59.999999Z", NOW - 1),
        ("2024-10-04T01:59:59.999999+02:00", NOW - 1),
        ("2024-10-03 23:59:59.999999", NOW - 1),
        ("2024-10-03", NOW - DAY_US),
        (float(NOW - 1), NOW - 1),
        (None, NOW),
    ],
)
def test_times_are_read_in_any_zone(told: object, expected: int):
    assert clean({**GOOD, "timestamp": told}, NOW)["timestamp"] == expected


def test_numbers_as_ids_are_text_and_a_clock_may_be_a_little_ahead():
    row = clean({**GOOD, "user_id": 17850, "timestamp": NOW + 299_000_000}, NOW)
    assert row["user_id"] == "17850" and row["timestamp"] == NOW + 299_000_000
    with pytest.raises(Misfit, match="future"):
        clean({**GOOD, "timestamp": NOW + 2}, NOW, Bounds(ahead_us=1))


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=5)
ids = st.text(min_size=1, max_size=5) | st.integers(0, 99) | scalars
moments = (
    st.integers(NOW - 10 * DAY_US, NOW + DAY_US)
    | st.datetimes(pd.Timestamp("1980-01-01"), pd.Timestamp("2030-01-01")).map(lambda t: t.isoformat())
    | scalars
)
events = st.fixed_dictionaries(
    {"event_id": ids, "user_id": ids, "item_id": ids, "event_type": st.sampled_from(EVENT_TYPES) | scalars},
    optional={
        "timestamp": moments, "session_id": ids, "device_id": ids, "region": ids, "position": scalars,
        "dwell_ms": scalars, "value": scalars, "quantity": scalars, "propensity": st.floats(0, 1) | scalars,
        "colour": scalars,
    },
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(events, min_size=1, max_size=30))
def test_whatever_is_let_in_passes_the_import_unchanged(sent: list[dict]):
    rows = []
    for event in sent:
        try:
            rows.append(clean(orjson.loads(orjson.dumps(event)), NOW))
        except Misfit:
            continue
    if not rows:
        return
    frame = pd.DataFrame(rows).astype(object)
    table = ibis.memtable(_typed(frame).assign(row=range(len(frame))))
    conformed = validation.conform(table, "reject")
    judged = validation.with_reason(conformed, NOW + Bounds().ahead_us, "reject").order_by("row").to_pandas()
    assert judged[validation.REASON].isna().all(), judged[validation.REASON].dropna().tolist()
    for name in (n for n in (*incoming.TEXT, *incoming.WHOLE, *incoming.REAL, "timestamp") if n in frame):
        for got, expected in zip(judged[name], frame[name], strict=True):
            assert (pd.isna(got) and pd.isna(expected)) or got == expected, name


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    kinds = {**dict.fromkeys(incoming.WHOLE, "Int64"), **dict.fromkeys(incoming.REAL, "Float64"), "timestamp": "int64"}
    return frame.astype({name: kinds.get(name, "string") for name in frame})
