"""Every public protocol on a few made-up rows of its form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from longtail import benchmark
from longtail.errors import InvalidInput
from longtail.events import Catalogue
from longtail.reranking.rules import LongTail

USERS, ITEMS = 25, 30
Seen = dict[int, set]


def draws(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Users from 1 on, items that a few favourites lead."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, USERS + 1, n), np.minimum(rng.geometric(0.12, n), ITEMS)


def retail(folder: Path) -> Seen:
    """Ten weeks of invoices; a guest, a cancellation and a fee among them, a newcomer in the last week."""
    user, item = draws(700)
    n = len(user)
    frame = pd.DataFrame(
        {
            "invoice": [f"{j // 3:06}" for j in range(n)], "item_id": [f"{10000 + i}A" for i in item],
            "description": [f"ITEM {i} THING {i % 4}" for i in item], "quantity": 2,
            "timestamp": pd.Timestamp("2011-01-01") + pd.to_timedelta(np.linspace(0, 70, n), unit="D"),
            "unit_price": 1.25, "user_id": user.astype(float), "country": "France", "event_type": "purchase",
        }
    )  # fmt: skip
    frame.loc[frame.index % 50 == 0, "user_id"] = np.nan
    frame.loc[7, ["quantity", "event_type"]] = [-2, "cancel"]
    frame.loc[9, "item_id"] = "POST"
    frame.loc[n - 1, "user_id"] = 999.0
    frame.to_parquet(folder / "events.parquet")
    usable = frame[frame["user_id"].notna() & (frame["event_type"] == "purchase") & (frame["item_id"] != "POST")]
    past = usable["timestamp"] <= usable["timestamp"].max() - pd.Timedelta(days=7)
    both = set(usable["user_id"][past]) & set(usable["user_id"][~past])
    return {int(u): set(usable["item_id"][past & (usable["user_id"] == u)]) for u in both}


def ordered(folder: Path) -> Seen:
    rng = np.random.default_rng(1)
    sequences = {u: rng.permutation(ITEMS)[: rng.integers(8, 20)] + 1 for u in range(1, USERS + 1)}
    rows = [(u, i, p) for u, items in sequences.items() for p, i in enumerate(items)]
    pd.DataFrame(rows, columns=["sas_user_id", "item_id", "position"]).to_parquet(
        folder / "interactions_ordered.parquet"
    )
    pd.DataFrame(
        {"item_id": range(1, ITEMS + 1), "title": [f"Film {i} ({1980 + i})" for i in range(ITEMS)],
         "genres": [["Drama", "Comedy|War"][i % 2] for i in range(ITEMS)], "year": [1980 + i for i in range(ITEMS)]}
    ).to_parquet(folder / "items.parquet")  # fmt: skip
    return {u: set(items[:-1].tolist()) for u, items in sequences.items()}


def reviews(folder: Path) -> Seen:
    user, item = draws(500)
    frame = pd.DataFrame({"user_id": user, "item_id": item}).drop_duplicates(ignore_index=True)
    day = np.sort(np.random.default_rng(2).integers(0, 500, len(frame)))
    frame["timestamp"] = 1_300_000_000 + day * 86_400
    frame["position"] = frame.groupby("user_id").cumcount()
    frame.to_parquet(folder / "interactions.parquet")
    pd.DataFrame({"item_id": range(ITEMS + 3), "attribute_ids": [[i % 5, i % 7] for i in range(ITEMS + 3)]}).to_parquet(
        folder / "items.parquet"
    )
    past = frame["timestamp"] <= int(frame["timestamp"].quantile(0.9))
    both = set(frame["user_id"][past]) & set(frame["user_id"][~past])
    return {int(u): set(frame["item_id"][past & (frame["user_id"] == u)]) for u in both}


def pairs(folder: Path) -> Seen:
    """The last test user has no training row."""
    user, item = draws(450)
    frame = pd.DataFrame({"user_id": user, "item_id": item}).drop_duplicates(ignore_index=True)
    frame.to_parquet(folder / "train.parquet")
    asked = [*sorted(set(user.tolist())), 777]
    pd.DataFrame({"user_id": asked, "item_id": [ITEMS + 5] * len(asked)}).to_parquet(folder / "test.parquet")
    return {u: set(frame["item_id"][frame["user_id"] == u]) for u in asked}


def sessions(folder: Path) -> Seen:
    """Prefixes with an item nobody trained on, and one of such items alone."""
    rng = np.random.default_rng(3)
    rows = []
    for s in range(6000):
        start, length = rng.integers(ITEMS), rng.integers(2, 5)
        rows += [(s * 10, p, int((start + p) % ITEMS) + 1) for p in range(length)]
    pd.DataFrame(rows, columns=["session_id", "position", "item_id"]).to_parquet(folder / "train_sessions.parquet")
    prefixes = [[3, 4], [7], [9999, 5], [9999], [1, 2, 3, 4, 5]]
    pd.DataFrame({"prefix": prefixes, "target": 1}).to_parquet(folder / "test_cases.parquet")
    return {case: set() for case in range(len(prefixes))}


FORMS: dict[str, tuple[Callable[[Path], Seen], type]] = {
    "repeat-week": (retail, str), "new-week": (retail, str), "last-item": (ordered, int), "temporal": (reviews, int),
    "pairs": (pairs, int), "sessions": (sessions, int),
}  # fmt: skip


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocols as they are, with fewer windows, smaller trees and hundreds of requests."""
    small = {}
    for name, p in benchmark.PROTOCOLS.items():
        ranker = replace(p.config.ranker, rounds=10, min_child_weight=1, threads=1)
        config = replace(p.config, ranker=ranker, windows=min(p.config.windows, 2), requests=150)
        # 6,000 sessions a minute apart last four days: no window of a week fits.
        config = replace(config, window_days=1, windows=1) if name == "sessions" else config
        small[name] = replace(p, config=config)
    monkeypatch.setattr(benchmark, "PROTOCOLS", small)


@pytest.mark.parametrize("name", FORMS)
def test_one_list_for_each_case(name: str, tmp_path: Path) -> None:
    make, kind = FORMS[name]
    seen = make(tmp_path)
    out = tmp_path / "not" / "yet" / "there.parquet"
    figures = benchmark.run(name, tmp_path, out, two_tower=False)
    found = pd.read_parquet(out)
    assert figures["cases"] == len(found) == len(seen) and set(found["case"]) == set(seen)
    assert 0 < figures["candidate_recall"] <= 1
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    for case, items in zip(found["case"], found["items"], strict=True):
        assert 0 < len(items) <= benchmark.LENGTH
        assert len(set(items)) == len(items)
        assert all(isinstance(i, str if kind is str else (int, np.integer)) for i in items)
        if name not in ("repeat-week", "sessions"):
            assert not set(items) & seen[case]
    if name == "repeat-week":
        again = [bool(set(items) & seen[case]) for case, items in zip(found["case"], found["items"], strict=True)]
        assert all(again), "what people bought before is what they buy again"
    if name == "sessions":
        assert 6 in list(found["items"][4])[:3], "after 1, 2, 3, 4, 5 comes 6"


def test_sources_are_left_out_by_name(tmp_path: Path) -> None:
    sessions(tmp_path)
    figures = benchmark.run("sessions", tmp_path, tmp_path / "out.parquet", without=("ease",), two_tower=False)
    assert "ease" not in figures["blend"] and "next_1" in figures["blend"] and "two_tower" not in figures["blend"]


def test_an_unknown_protocol(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no protocol 'weekly': choose one of repeat-week, new-week"):
        benchmark.run("weekly", tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", FORMS)
def test_a_folder_of_another_form(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read for this protocol") as error:
        benchmark.run(name, tmp_path, tmp_path / "out", two_tower=False)
    assert "\n" not in str(error.value)


def test_the_long_tail_takes_turns_at_the_end_of_lists_and_loses_nothing():
    frame = pd.DataFrame({"item_id": [f"i{n}" for n in range(60)], "in_stock": False})
    lists = np.tile(np.arange(40), (6, 1))
    lists[5, 30:] = -1
    out = benchmark.with_long_tail(lists, Catalogue.from_frame(frame), LongTail(after=18, pool=10))
    assert out[:, :18].tolist() == lists[:, :18].tolist()
    assert out[:5, 18:20].tolist() == [[18, 19], [20, 21], [22, 23], [24, 25], [26, 27]]
    assert [sorted(row) for row in out.tolist()] == [sorted(row) for row in lists.tolist()]
    assert benchmark.with_long_tail(lists, Catalogue.from_frame(frame), LongTail()) is lists
