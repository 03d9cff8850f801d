"""What the servers wrote comes back as a shop: the same events, and shown lists as impressions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from longtail.datasets import read, simulator
from longtail.datasets.importing import import_shop
from longtail.engine.experiment_log import Exposed, ExposureLog
from longtail.engine.impressions import Impression, ImpressionLog
from longtail.errors import InvalidInput
from longtail.events.log import Shop
from longtail.events.spool import Row, Spool
from longtail.schema import DAY_US
from tests.serving.collector_process import KEY, CollectorProcess

NOON = 20_000 * DAY_US + DAY_US // 2
ANN, BOB = "a" * 32, "b" * 32


def row(n: int, **columns: object) -> Row:
    content = {
        "event_id": f"e{n}", "user_id": ANN, "item_id": f"i{n}", "event_type": "click", "timestamp": NOON + n,
        "session_id": "c" * 32, "received_at": NOON, **columns,
    }  # fmt: skip
    return Row(str(content["event_id"]), NOON + n, json.dumps(content).encode())


SHOWN = Impression(
    "r1", ANN, "c" * 32, "homepage", NOON - 5, "champion", "v1", "full", "live", ["i1", "i2", "i3"], [1.0, 0.5, 0.0],
    [3.0, 2.0, 1.0], ["ease", "popular", "ease"],
)  # fmt: skip


def write(state: Path, rows: list[Row], shown: list[Impression]) -> Path:
    spool = Spool(state)
    if rows:
        spool.write(rows)
        spool.seal()
    spool.close()
    log = ImpressionLog(state / "impressions")
    log.add(shown)
    log.close()
    return state


def collect(state: Path, tmp_path: Path, **options: object) -> tuple[dict, pd.DataFrame]:
    summary = import_shop("collected", state, tmp_path / "shop", key_file=tmp_path / "key", **options)
    return summary, pd.read_parquet(tmp_path / "shop/events.parquet")


def test_shown_lists_become_impressions_with_place_and_propensity(tmp_path: Path):
    summary, events = collect(write(tmp_path / "state", [row(1, request_id="r1")], [SHOWN]), tmp_path)
    assert (summary["good"], summary["bad"], summary["duplicates"]) == (4, 0, 0)
    shown = events[events["event_type"] == "impression"].sort_values("position")
    assert shown["item_id"].tolist() == ["i1", "i2", "i3"] and shown["position"].tolist() == [0, 1, 2]
    assert shown["propensity"].tolist()[:2] == [1.0, 0.5] and np.isnan(shown["propensity"].tolist()[2])
    assert set(shown["request_id"]) == {"r1"} and set(shown["surface"]) == {"homepage"}
    assert set(shown["variant"]) == {"champion"} and set(shown["model_version"]) == {"v1"}
    assert set(events["user_id"]) == {ANN} and set(events["session_id"]) == {"c" * 32}
    assert events["timestamp"].iloc[0] == pd.Timestamp(NOON - 5, unit="us", tz="UTC")
    log = Shop.load(tmp_path / "shop").log
    assert len(set(log.request[log.request >= 0])) == 1


def test_an_impression_that_the_page_tells_of_as_well_counts_once(tmp_path: Path):
    told = [
        row(1, event_type="impression", item_id="i2", request_id="r1"),
        row(2, event_type="impression", item_id="i9", request_id="r1"),
        row(3, event_type="impression", item_id="i2", request_id="other"),
        row(4, event_type="click", item_id="i2", request_id="r1"),
    ]
    summary, events = collect(write(tmp_path / "state", told, [SHOWN]), tmp_path)
    assert (summary["good"], summary["duplicates"]) == (6, 1)
    kept = events[(events["item_id"] == "i2") & (events["request_id"] == "r1")]
    assert sorted(kept["event_type"]) == ["click", "impression"]
    assert kept.set_index("event_type")["propensity"]["impression"] == 0.5


def test_requests_of_nobody_are_guests_of_one_request(tmp_path: Path):
    nobody = replace(SHOWN, request_id="r2", user_id=None, session_id=None)
    visitor = replace(SHOWN, request_id="r3", user_id=None)
    summary, events = collect(write(tmp_path / "state", [row(1)], [SHOWN, nobody, visitor]), tmp_path)
    assert (summary["bad"], summary["users"], summary["guests"]) == (0, 1, 2)
    assert set(events["user_id"]) == {ANN, "~r2", "~" + "c" * 32}


def test_either_log_alone_will_do_and_neither_is_said(tmp_path: Path):
    assert collect(write(tmp_path / "a", [row(1), row(2)], []), tmp_path)[0]["good"] == 2
    assert collect(write(tmp_path / "b", [], [SHOWN]), tmp_path)[0]["good"] == 3
    with pytest.raises(InvalidInput, match="state folder of a collector"):
        collect(write(tmp_path / "c", [], []), tmp_path)
    broken = write(tmp_path / "d", [row(1)], [])
    next(broken.glob("events/*/*.parquet")).write_bytes(b"no parquet")
    with pytest.raises(InvalidInput, match="cannot be read"):
        collect(broken, tmp_path)


def test_the_log_goes_on_from_a_shop_that_was_imported_before(tmp_path: Path):
    visitor = row(2, user_id=None, device_id="phone")
    items = tmp_path / "items.parquet"
    pd.DataFrame({"item_id": ["i1", "i7"], "title": ["One", "Seven"]}).to_parquet(items)
    before, _ = collect(write(tmp_path / "before", [row(1), visitor], [SHOWN]), tmp_path, items=items)
    assert (before["good"], before["users"], before["guests"]) == (5, 1, 1)
    shop = (tmp_path / "shop").rename(tmp_path / "imported")
    known = row(9, user_id=BOB, session_id="d" * 32, device_id="phone")  # who the visitor was
    state = write(tmp_path / "state", [row(1), known], [replace(SHOWN, request_id="r2")])
    summary, events = collect(state, tmp_path, history=shop)
    assert (summary["good"], summary["duplicates"]) == (9, 1)  # e1 is in both
    assert set(events["request_id"].dropna()) == {"r1", "r2"} and events["timestamp"].is_monotonic_increasing
    assert events.set_index("event_id")["user_id"]["e2"] == BOB and summary["guests"] == 0
    assert "Seven" in pd.read_parquet(tmp_path / "shop/items.parquet")["title"].tolist()
    again, same = collect(state, tmp_path, history=tmp_path / "shop")  # over itself, as every night
    assert again["good"] == 9 and same["event_id"].tolist() == events["event_id"].tolist()
    with pytest.raises(InvalidInput, match="no imported shop: it has no events.parquet"):
        collect(state, tmp_path, history=state)


def test_who_met_which_variant_comes_along(tmp_path: Path):
    state = write(tmp_path / "state", [row(1)], [SHOWN])
    log = ExposureLog(state / "exposures")
    met = Exposed(NOON - 5, "ranker", ANN, "c" * 32, "r1", "homepage", "new", device="phone")
    log.add([met, replace(met, time=NOON + 5, request_id="r2")])
    log.close()
    collect(state, tmp_path, until=NOON + 3)
    found = pd.read_parquet(tmp_path / "shop/exposures.parquet")
    assert found[["experiment", "user_id", "variant", "device"]].to_numpy().tolist() == [
        ["ranker", ANN, "new", "phone"]
    ]
    next(state.glob("exposures/*/*.parquet")).write_bytes(b"no parquet")
    with pytest.raises(InvalidInput, match="state/exposures cannot be read"):
        collect(state, tmp_path)


def test_without_a_scratch_folder_the_log_is_a_frame(tmp_path: Path):
    raw = read("collected", write(tmp_path / "state", [row(1), row(2)], [SHOWN]))
    assert isinstance(raw.events, pd.DataFrame) and len(raw.events) == 5 and raw.pseudonymous


def test_the_catalogue_comes_from_a_file(tmp_path: Path):
    state = write(tmp_path / "state", [row(1)], [])
    pd.DataFrame({"item_id": ["i1", "i2"], "price": [1.0, 2.0]}).to_parquet(tmp_path / "items.parquet")
    summary, _ = collect(state, tmp_path, items=tmp_path / "items.parquet")
    assert summary["items"] == 2
    with pytest.raises(InvalidInput, match="none.parquet does not exist: `--items` names the Parquet file"):
        collect(state, tmp_path, items=tmp_path / "none.parquet")
    with pytest.raises(InvalidInput, match="takes no items: leave --items out"):
        import_shop("pairs", state, tmp_path / "x", key_file=tmp_path / "key", items=tmp_path / "items.parquet")


@pytest.mark.serving
def test_events_sent_to_the_collector_make_the_shop_that_the_files_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LONGTAIL_PSEUDONYM_KEY", KEY)
    config = simulator.SimulatorConfig(users=120, items=60, days=20, events=4000, seed=3)
    simulator.simulate(tmp_path / "raw", config)
    direct = import_shop("simulator", tmp_path / "raw", tmp_path / "direct")
    raw = simulator.read(tmp_path / "raw")
    sent = pd.read_parquet(raw.events) if isinstance(raw.events, Path) else raw.events
    with CollectorProcess(tmp_path / "state") as collector:
        answers = []
        for start in range(0, len(sent), 500):
            batch = json.loads(sent[start : start + 500].to_json(orient="records"))
            status, answer, _ = collector.post([{k: v for k, v in e.items() if v is not None} for e in batch])
            assert status == 200
            answers.append(answer)
            assert collector.post(batch[:50])[1]["accepted"] == 0
    spool = Spool(tmp_path / "state")
    spool.seal()
    spool.close()
    assert sum(a["accepted"] for a in answers) == direct["good"]
    items = tmp_path / "direct/items.parquet"
    summary = import_shop("collected", tmp_path / "state", tmp_path / "shop", items=items)
    for count in ("good", "bad", "duplicates", "users", "guests", "linked_guest_events", "first", "last"):
        assert summary[count] == (0 if count == "duplicates" else direct[count]), count
    ours, theirs = (
        pd.read_parquet(tmp_path / name / "events.parquet").set_index("event_id") for name in ("shop", "direct")
    )
    columns = list(theirs.columns)
    pd.testing.assert_frame_equal(ours[columns].loc[theirs.index], theirs, check_like=True)
