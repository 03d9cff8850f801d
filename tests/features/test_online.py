"""What a request reads online is, bit for bit, what training read; and Feast's own join agrees with ours."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from longtail.errors import InvalidInput
from longtail.features import batch, offline, online
from longtail.features.definitions import USER_CATEGORY_SNAPSHOT, USER_SNAPSHOT
from longtail.features.point_in_time import latest_stamps, user_features_at
from longtail.schema import DAY_US
from tests.features.shop import NOON, STAMPS, make_catalogue, make_log

USER_IDS = np.array([f"u{u:02}" for u in range(25)], object)


@pytest.fixture(scope="module")
def taken() -> batch.Snapshots:
    return batch.snapshots(make_log(), make_catalogue(), STAMPS, threads=1)


@pytest.fixture(scope="module")
def features(taken: batch.Snapshots, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    offline.write_snapshots(taken, folder, USER_IDS, make_catalogue())
    return folder


@pytest.fixture(scope="module")
def store(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    online.materialise(features, folder)
    return folder


def assert_same(got: tuple[dict, batch.UserCategory], expected: tuple[dict, batch.UserCategory]) -> None:
    for name in USER_SNAPSHOT:
        assert got[0][name].dtype == np.int64
        np.testing.assert_array_equal(got[0][name], expected[0][name], err_msg=name)
    np.testing.assert_array_equal(got[1].indptr, expected[1].indptr)
    np.testing.assert_array_equal(got[1].category, expected[1].category)
    for name in USER_CATEGORY_SNAPSHOT:
        np.testing.assert_array_equal(got[1].columns[name], expected[1].columns[name], err_msg=name)


def test_a_request_reads_the_newest_stamp_up_to_its_time():
    times = [STAMPS[0] - 1, STAMPS[0], STAMPS[1] - 1, STAMPS[2] + DAY_US]
    assert latest_stamps(np.array(STAMPS), np.array(times)).tolist() == [-1, 0, 0, 2]


def test_rows_of_mixed_stamps_keep_the_order_of_the_requests(taken: batch.Snapshots):
    users = np.array([4, 4, -1, 2, 4])
    times = np.array([STAMPS[2], STAMPS[0], STAMPS[2], NOON - DAY_US, STAMPS[1]])
    row, categories = user_features_at(taken, users, times)
    for b, stamp in enumerate([STAMPS[2], STAMPS[0], None, None, STAMPS[1]]):
        user = taken.user(stamp)["n_all"][4] if stamp else 0
        whole = taken.user_category(stamp).take(users[[b]]) if stamp else batch.UserCategory.empty(1)
        assert row["n_all"][b] == user
        one = categories.take(np.array([b]))
        np.testing.assert_array_equal(one.category, whole.category)
        np.testing.assert_array_equal(one.columns["last_us"], whole.columns["last_us"])


def test_online_rows_are_the_training_rows(taken: batch.Snapshots, store: Path):
    read = online.OnlineFeatures(store)
    assert read.contents and read.contents.as_of == STAMPS[-1]
    assert read.contents.categories == offline.category_fingerprint(make_catalogue().categories)
    users = np.array([*range(25), -1])
    expected = user_features_at(taken, users, np.full(26, STAMPS[-1] + 5))
    assert_same(asyncio.run(read.rows([*USER_IDS, "nobody"])), expected)
    row, categories = asyncio.run(read.user_row("u03"))
    assert row == {name: int(column[3]) for name, column in taken.user(STAMPS[-1]).items()}
    np.testing.assert_array_equal(categories.category, taken.user_category(STAMPS[-1]).take(np.array([3])).category)


def test_what_pandas_leaves_behind_in_the_process_does_not_matter(taken: batch.Snapshots, store: Path):
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        pd.DataFrame({"a": [1]}).to_sql("table", connection, index=False)
    got = asyncio.run(online.OnlineFeatures(store).rows([USER_IDS[3], USER_IDS[9]]))
    assert {len(column) for column in got[0].values()} == {2}


def test_an_unknown_user_reads_zeros(store: Path):
    row, categories = asyncio.run(online.OnlineFeatures(store).user_row("nobody"))
    assert list(row) == list(USER_SNAPSHOT) and not any(row.values()) and len(categories.category) == 0


def test_a_store_does_not_go_back_in_time_unasked(taken: batch.Snapshots, tmp_path: Path):
    for name, stamp in (("old", STAMPS[0]), ("new", STAMPS[1])):
        offline.write_snapshots(taken, tmp_path / name, USER_IDS, make_catalogue(), [stamp])
    online.materialise(tmp_path / "new", tmp_path / "store", user_ids=["u03", "u04"])
    reader = online.OnlineFeatures(tmp_path / "store")
    with pytest.raises(InvalidInput, match="newer"):
        online.materialise(tmp_path / "old", tmp_path / "store")
    online.materialise(tmp_path / "old", tmp_path / "store", allow_older=True)
    for open_reader, stamp in ((reader, STAMPS[1]), (online.OnlineFeatures(tmp_path / "store"), STAMPS[0])):
        assert asyncio.run(open_reader.user_row("u03"))[0]["n_all"] == taken.user(stamp)["n_all"][3]
    assert asyncio.run(reader.user_row("u05"))[0]["n_all"] == 0


def test_missing_files_and_stores_are_one_clear_line(tmp_path: Path):
    with pytest.raises(InvalidInput, match=r"user_features\.parquet"):
        online.materialise(tmp_path, tmp_path / "store")
    with pytest.raises(InvalidInput, match="materialise"):
        online.OnlineFeatures(tmp_path)


def test_feast_joins_the_same_rows(taken: batch.Snapshots, features: Path, store: Path):
    rng = np.random.default_rng(1)
    users = rng.integers(0, 23, 60)
    times = rng.choice([STAMPS[0], STAMPS[0] + 1, STAMPS[1] - 1, STAMPS[1], STAMPS[2], STAMPS[2] + 7], 60)
    entities = pd.DataFrame(
        {
            "user_id": USER_IDS[users],
            "event_timestamp": pd.to_datetime(times, unit="us", utc=True).astype("datetime64[us, UTC]"),
            "row": np.arange(60),
        }
    )
    feast = online.local_store(store)
    frame = feast.get_historical_features(entities, feast.get_feature_service("training_user")).to_df()
    frame = frame.sort_values("row")
    row, categories = user_features_at(taken, users, times)
    for name in USER_SNAPSHOT:
        np.testing.assert_array_equal(frame[name].fillna(0).to_numpy(np.int64), row[name], err_msg=name)
    for name, column in [(offline.CATEGORIES, categories.category), *categories.columns.items()]:
        lists = frame[name if name == offline.CATEGORIES else offline.list_column(name)]
        np.testing.assert_array_equal(np.concatenate(list(lists)), column, err_msg=name)


def test_the_repository_applies_as_it_stands(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from feast import FeatureStore
    from feast.repo_config import load_repo_config
    from feast.repo_operations import apply_total

    monkeypatch.setenv("LONGTAIL_FEATURES", str(features))
    monkeypatch.setenv("LONGTAIL_STORE", str(tmp_path))
    repository = Path(__file__).parents[2] / "feature_repo"
    monkeypatch.chdir(repository)
    monkeypatch.syspath_prepend(repository)
    apply_total(load_repo_config(repository, repository / "feature_store.yaml"), repository, True)
    store = FeatureStore(repo_path=str(repository))
    assert {view.name for view in store.list_feature_views()} == {
        "item_daily", "user_daily", "user_category_daily", "user_online",
    }  # fmt: skip
    services = {service.name for service in store.list_feature_services()}
    assert services == {"recommender_user", "training_user", "recommender_item"}


def test_feasts_own_materialisation_fills_the_same_store(features: Path, store: Path, tmp_path: Path):
    """The way of a store that is no file: Feast reads the written file, and a request reads what it stored."""
    online.write_online_file(features)
    feast = online.local_store(tmp_path)
    online.apply_views(feast, features)
    feast.materialize(
        pd.Timestamp(STAMPS[0], unit="us", tz="UTC").to_pydatetime(),
        pd.Timestamp(STAMPS[-1] + 1, unit="us", tz="UTC").to_pydatetime(),
        [online.VIEW],
    )
    ids = [*USER_IDS, "nobody"]
    expected = asyncio.run(online.OnlineFeatures(store).rows(ids))
    assert_same(asyncio.run(online.OnlineFeatures(feast).rows(ids)), expected)
    served = feast.get_online_features(feast.get_feature_service("recommender_user"), [{"user_id": "u03"}]).to_dict()
    assert served["row"][0][: len(USER_SNAPSHOT)] == [int(column[3]) for column in expected[0].values()]
