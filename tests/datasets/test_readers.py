"""Each reader on a small folder of its form."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from longtail.datasets import READERS, read
from longtail.datasets.importing import import_shop
from longtail.errors import InvalidInput


def test_online_retail_keeps_returns_and_guests_and_rejects_what_is_no_product(tmp_path: Path) -> None:
    row = ("A1", "10001", "red mug", 2, pd.Timestamp("2011-01-01 10:00"), 1.5, 7.0, "France", "purchase")
    rows = [
        row,
        ("A2", "10001", "RED MUG", 1, pd.Timestamp("2011-01-02"), 1.5, None, "France", "purchase"),
        ("C3", "10001", "RED MUG", -1, pd.Timestamp("2011-01-03"), 1.5, 7.0, "France", "cancel"),
        ("A4", "POST", "POSTAGE", 1, pd.Timestamp("2011-01-03"), 18.0, 7.0, "France", "purchase"),
        ("A5", "10002", None, 4, pd.Timestamp("2011-01-04"), 0.0, None, "France", "purchase"),
        ("A6", "10003", "LATE CUP", 1, pd.Timestamp("2011-02-04"), 9.0, 8.0, "France", "purchase"),
    ]
    names = [
        "invoice",
        "item_id",
        "description",
        "quantity",
        "timestamp",
        "unit_price",
        "user_id",
        "country",
        "event_type",
    ]
    pd.DataFrame(rows, columns=names).to_parquet(tmp_path / "events.parquet")
    summary = import_shop("online-retail", tmp_path, tmp_path / "shop", key_file=tmp_path / "key", max_bad_share=0.5)
    assert (summary["good"], summary["bad"], summary["users"], summary["guests"]) == (4, 2, 2, 1)
    events = pd.read_parquet(tmp_path / "shop/events.parquet")
    assert list(events["value"]) == [3.0, 1.5, -1.5, 9.0] and list(events["quantity"]) == [2, 1, 1, 1]
    early = read("online-retail", tmp_path, until=int(pd.Timestamp("2011-02-01").value // 1000))
    assert list(early.items["item_id"]) == ["10001"]


def test_movielens_ordered_ends_everybody_at_the_same_time(tmp_path: Path) -> None:
    rows = [(1, 5, 0), (1, 6, 1), (2, 6, 1), (2, 5, 0), (2, 7, 2)]
    pd.DataFrame(rows, columns=["sas_user_id", "item_id", "position"]).to_parquet(
        tmp_path / "interactions_ordered.parquet"
    )
    items = [
        (5, "Heat (1995)", "Action|Crime", 1995),
        (6, "Up", "Comedy", None),
        (7, None, None, 1950),
        (8, "Unseen", "War", 1),
    ]
    pd.DataFrame(items, columns=["item_id", "title", "genres", "year"]).to_parquet(tmp_path / "items.parquet")
    raw = read("movielens-ordered", tmp_path)
    last = raw.events.sort_values("timestamp").groupby("user_id").tail(1)
    assert last["timestamp"].nunique() == 1 and list(last.sort_values("user_id")["item_id"]) == ["6", "7"]
    assert list(raw.items["item_id"]) == ["5", "6", "7"]
    assert raw.items["text"][0] == "heat genre_Action genre_Crime year_1995 decade_1990"


def test_pairs_take_item_ids_but_no_pair_from_the_test_file(tmp_path: Path) -> None:
    pd.DataFrame({"user_id": [3, 4, 3], "item_id": [1, 1, 2]}).to_parquet(tmp_path / "train.parquet")
    pd.DataFrame({"user_id": [3], "item_id": [9]}).to_parquet(tmp_path / "test.parquet")
    raw = read("pairs", tmp_path)
    assert list(raw.events["item_id"]) == ["1", "1", "2"] and list(raw.items["item_id"]) == ["1", "2", "9"]
    assert raw.events["timestamp"].iloc[2] > raw.events["timestamp"].iloc[0]


def test_sessions_do_not_interleave_and_stay_anonymous(tmp_path: Path) -> None:
    rows = [(0, p, p) for p in range(200)] + [(4, 1, 5), (4, 0, 6)]
    pd.DataFrame(rows, columns=["session_id", "position", "item_id"]).to_parquet(tmp_path / "train_sessions.parquet")
    events = read("sessions", tmp_path).events
    assert events["timestamp"].is_monotonic_increasing and events["timestamp"].is_unique
    assert list(events["item_id"])[-2:] == ["6", "5"] and events["user_id"].isna().all()


def test_amazon_keeps_cold_items_and_the_order_within_a_day(tmp_path: Path) -> None:
    day = 1318896000
    frame = pd.DataFrame({"user_id": [1, 1], "item_id": [2, 3], "timestamp": [day, day], "position": [0, 1]})
    frame.to_parquet(tmp_path / "interactions.parquet")
    items = pd.DataFrame({"item_id": [2, 3, 4], "attribute_ids": [[1, 2], [], [7]], "text_tags": ["red", None, "blue"]})
    items.to_parquet(tmp_path / "items.parquet")
    raw = read("amazon-5core", tmp_path)
    assert list(raw.events["timestamp"]) == [day * 10**6, day * 10**6 + 1]
    assert list(raw.items["text"]) == ["attr_1 attr_2 red", None, "attr_7 blue"]


@pytest.mark.parametrize("name", [n for n in READERS if n not in ("mapped", "collected")])
def test_an_absent_empty_or_foreign_file_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        read(name, tmp_path)
    for file in ("events", "items", "interactions", "interactions_ordered", "train", "train_sessions"):
        (tmp_path / f"{file}.parquet").touch()
    with pytest.raises(InvalidInput, match="empty"):
        read(name, tmp_path)
    for file in ("events", "items", "interactions", "interactions_ordered", "train", "train_sessions"):
        pd.DataFrame({"x": [1]}).to_parquet(tmp_path / f"{file}.parquet")
    with pytest.raises(InvalidInput, match="lacks column"):
        read(name, tmp_path)


def test_an_unknown_reader_names_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="online-retail"):
        read("excel", Path("."))


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ("events: e.csv\ncolums: {}\n", "line 2, colums: is not a key"),
        (
            "events: e.csv\nevent_type: click\ncolumns:\n  user_id: who\n  item: sku\n",
            "line 5, columns.item: is no column",
        ),
        (
            "events: e.csv\nevent_type: buy\ncolumns: {user_id: who, item_id: sku, timestamp: at}\n",
            "line 2, event_type: 'buy'",
        ),
        ("events: f.csv\n", "line 1, events:"),
        ("events: [e.csv\n", "not valid YAML"),
        (
            "events: e.csv\ntimestamp: hours\nevent_type: view\ncolumns: {user_id: who, item_id: sku, timestamp: at}\n",
            "line 2",
        ),
    ],
)
def test_a_wrong_mapping_names_line_and_key(mapping: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("who,sku,at\na,1,2024-01-01\n")
    (tmp_path / "mapping.yaml").write_text(mapping)
    with pytest.raises(InvalidInput) as error:
        read("mapped", tmp_path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_mapping_reads_units_formats_and_types(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("who,sku,at,kind\na,007,1704067200,bought\n")
    (tmp_path / "m.yaml").write_text(
        "events: e.csv\ntimestamp: s\nevent_types: {bought: purchase}\n"
        "columns: {user_id: who, item_id: sku, timestamp: at, event_type: kind}\n"
    )
    row = read("mapped", tmp_path, mapping=tmp_path / "m.yaml").events.iloc[0]
    assert (row["item_id"], row["event_type"], row["timestamp"]) == ("007", "purchase", 1704067200 * 10**6)
