"""What an import promises: nothing lost, nothing half-written, one clear line for what cannot be imported."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from longtail.datasets.importing import import_shop
from longtail.errors import InvalidInput
from longtail.events.log import Shop
from longtail.identity import Pseudonymiser, load_key

MAPPING = "events: e.csv\ncolumns: {user_id: who, item_id: sku, timestamp: at, event_type: kind}\n"


def write(
    folder: Path, rows: list[str], header: str = "event_id,who,sku,at,kind,value", mapping: str = MAPPING
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "e.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    (folder / "mapping.yaml").write_text(mapping, encoding="utf-8")
    return folder


def good_rows(n: int, users: int = 5, items: int = 7) -> list[str]:
    return [f"e{i},u{i % users},i{i % items},2024-01-{1 + i % 28:02d}T10:00:00,click,1.5" for i in range(n)]


def run(source: Path, tmp_path: Path, **options: object) -> dict:
    return import_shop("mapped", source, tmp_path / "shop", key_file=tmp_path / "key", **options)


def test_totals_add_up_and_bad_rows_are_quarantined_with_reasons(tmp_path: Path) -> None:
    bad = [
        "b1,u1,,2024-01-01T10:00:00,click,1",
        "b2,u1,i1,2150-01-01T10:00:00,click,1",
        "b3,u1,i1,yesterday,click,1",
        "b4,u1,i1,2024-01-01T10:00:00,clack,1",
        "b5,u1,i1,2024-01-01T10:00:00,click,dear",
        "b6,,i1,2024-01-01T10:00:00,click,1",
        "b7,u1,i1,1970-01-20T10:00:00,click,1",
    ]
    summary = run(write(tmp_path / "src", good_rows(100) + bad + good_rows(3)), tmp_path, max_bad_share=0.1)
    assert (summary["read"], summary["good"], summary["bad"], summary["duplicates"]) == (110, 100, 7, 3)
    assert sum(summary["reasons"].values()) == 7 and len(summary["reasons"]) == 7
    quarantine = pd.read_parquet(tmp_path / "shop/quarantine.parquet")
    assert list(quarantine["row"]) == list(range(100, 107)) and quarantine["reason"].notna().all()
    assert quarantine.set_index("event_id")["reason"]["b5"] == "value is not a number"
    assert "u1" not in set(quarantine["user_id"])
    assert len(pd.read_parquet(tmp_path / "shop/events.parquet")) == 100


def test_a_bad_row_does_not_shadow_the_good_one_of_the_same_id(tmp_path: Path) -> None:
    rows = ["x,u1,i1,never,click,1", "x,u1,i1,2024-01-01,click,1", "x,u1,i2,2024-01-02,click,1"]
    summary = run(write(tmp_path / "src", rows), tmp_path, max_bad_share=0.5)
    assert (summary["good"], summary["bad"], summary["duplicates"]) == (1, 1, 1)
    assert list(pd.read_parquet(tmp_path / "shop/events.parquet")["item_id"]) == ["i1"]


def test_the_shop_is_sorted_pseudonymous_and_keeps_unknown_columns(tmp_path: Path) -> None:
    rows = [f"{r},red" for r in reversed(good_rows(60))]
    run(write(tmp_path / "src", rows, "event_id,who,sku,at,kind,value,colour"), tmp_path)
    events = pd.read_parquet(tmp_path / "shop/events.parquet")
    assert events["timestamp"].is_monotonic_increasing and set(events["colour"]) == {"red"}
    names = Pseudonymiser(load_key(tmp_path / "key"))
    assert set(events["user_id"]) == {names.of(f"u{i}") for i in range(5)}
    assert events["session_id"].notna().all()
    assert len(Shop.load(tmp_path / "shop").log) == 60


def test_until_keeps_what_is_strictly_before(tmp_path: Path) -> None:
    cut = int(pd.Timestamp("2024-01-10T10:00:00", tz="UTC").value // 1000)
    run(write(tmp_path / "src", good_rows(56)), tmp_path, until=cut)
    assert pd.read_parquet(tmp_path / "shop/events.parquet")["timestamp"].max() == pd.Timestamp("2024-01-09T10:00Z")


@pytest.mark.parametrize(
    ("rows", "header", "says"),
    [
        ([], "event_id,who,sku,at,kind,value", "is empty"),
        (good_rows(5), "event_id,who,article,at,kind,value", "line 2, columns.item_id: e.csv has no column 'sku'"),
        ([r.replace("2024", "2150") for r in good_rows(5)], "event_id,who,sku,at,kind,value", "in the future"),
        (
            [r.replace("click", "cart") for r in good_rows(5)],
            "event_id,who,sku,at,kind,value",
            "known are impression, view, click, add_to_cart, purchase",
        ),
        (good_rows(5) + ["a,u,i,x,click,1"] * 2, "event_id,who,sku,at,kind,value", "2 of 7 rows are bad (28.6%"),
    ],
)
def test_what_cannot_be_imported_is_one_line(tmp_path: Path, rows: list[str], header: str, says: str) -> None:
    with pytest.raises(InvalidInput) as error:
        run(write(tmp_path / "src", rows, header), tmp_path)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "shop").exists() and not (tmp_path / ".shop.partial").exists()


def test_broken_encoding_and_empty_files_are_one_line(tmp_path: Path) -> None:
    source = write(tmp_path / "src", good_rows(5))
    (source / "e.csv").write_bytes(b"who,sku,at,kind\nM\xfcller,i1,2024-01-01,click\n")
    with pytest.raises(InvalidInput, match="not UTF-8"):
        run(source, tmp_path)
    (source / "e.csv").write_bytes(b"")
    with pytest.raises(InvalidInput, match="is empty"):
        run(source, tmp_path)


def test_two_imports_into_one_folder_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / ".shop.partial").mkdir()
    other = os.open(tmp_path / ".shop.partial", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(InvalidInput, match="another import"):
        run(write(tmp_path / "src", good_rows(5)), tmp_path)
    os.close(other)
    assert run(tmp_path / "src", tmp_path)["good"] == 5


def test_one_user_three_items_one_type(tmp_path: Path) -> None:
    summary = run(write(tmp_path / "src", good_rows(9, users=1, items=3)), tmp_path)
    assert (summary["users"], summary["items"]) == (1, 3)


def test_a_folder_that_is_no_shop_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/letter.txt").write_text("dear")
    with pytest.raises(InvalidInput, match="not an imported shop"):
        run(write(tmp_path / "src", good_rows(5)), tmp_path)
    assert (tmp_path / "shop/letter.txt").read_text() == "dear"


def test_items_that_only_events_know_are_out_of_stock(tmp_path: Path) -> None:
    mapping = MAPPING + "items: i.csv\n"
    source = write(tmp_path / "src", good_rows(9, items=3), mapping=mapping)
    (source / "i.csv").write_text("item_id,price,regions\ni0,-4,\ni1,3.5,north|south\ni1,9,\n,1,\n")
    summary = run(source, tmp_path)
    items = pd.read_parquet(tmp_path / "shop/items.parquet").set_index("item_id")
    assert (summary["items_added"], summary["items_bad"], summary["items_repeated"]) == (1, 1, 1)
    assert not items.loc["i2", "in_stock"] and pd.isna(items.loc["i0", "price"])
    assert list(items.loc["i1", "regions"]) == ["north", "south"] and items.loc["i0", "regions"] is None


@pytest.mark.parametrize("at", ["checking the events", "writing the events", "events written", "writing the items"])
def test_killed_in_the_middle_and_again_gives_the_same_bytes(tmp_path: Path, at: str) -> None:
    source = write(tmp_path / "src", good_rows(30_000, users=900, items=400))
    code = """
import sys
from pathlib import Path
from longtail.datasets.importing import import_shop

def progress(what, done, of):
    print("events written" if done else what, flush=True)
    if sys.argv[2] == ("events written" if done else what):
        sys.stdin.read()  # until the kill

folder = Path(sys.argv[1])
import_shop("mapped", folder / "src", folder / "shop", key_file=folder / "key", progress=progress)
"""
    words = [sys.executable, "-c", code, str(tmp_path), at]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and any(line.strip() == at for line in child.stdout)
        os.kill(child.pid, signal.SIGKILL)
    shop = tmp_path / "shop"
    assert not shop.exists() and (tmp_path / ".shop.partial").exists()
    run(source, tmp_path)
    again = import_shop("mapped", source, tmp_path / "other", key_file=tmp_path / "key")
    for name in ("events.parquet", "items.parquet", "import.json"):
        assert (shop / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert again["good"] == 30_000 and not (tmp_path / ".shop.partial").exists()
