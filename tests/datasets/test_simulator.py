"""The simulator is an instrument: what it claims about itself must hold in the log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from longtail.datasets.importing import simulate_shop
from longtail.datasets.simulated_policy import PolicyContext, plackett_luce
from longtail.datasets.simulated_world import Truth, available, true_utility
from longtail.datasets.simulator import Drift, SimulatorConfig, simulate
from longtail.errors import InvalidInput
from longtail.schema import DAY_US

SMALL = SimulatorConfig(users=300, items=120, days=20, events=20_000, seed=3)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("sim")
    truth = simulate(folder, SMALL)
    return folder, truth, pd.read_parquet(folder / "events.parquet")


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(small: tuple, tmp_path: Path) -> None:
    folder, _, _ = small
    simulate(tmp_path / "again", SMALL)
    simulate(tmp_path / "other", replace(SMALL, seed=4))
    for name in ("events.parquet", "items.parquet"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        assert (folder / name).read_bytes() != (tmp_path / "other" / name).read_bytes()


def test_the_target_is_met_and_the_shop_is_alive(small: tuple) -> None:
    _, truth, events = small
    assert len(events) == pytest.approx(SMALL.events, rel=0.08)
    kinds = set(events["event_type"])
    assert {"impression", "view", "click", "add_to_cart", "purchase", "rating"} <= kinds
    assert ((events["event_type"] == "purchase") & (events["value"] < 0)).any()
    assert events["user_id"].isna().mean() > 0.1
    assert (events.groupby("user_id")["device_id"].nunique() > 1).any()
    day = (events["timestamp"] - truth.start_us) // DAY_US
    born = pd.Series(truth.created_day, index=truth.item_ids)
    shown = events["event_type"] == "impression"
    assert (day[shown] >= events["item_id"][shown].map(born)).all()


def test_clicks_follow_true_utility_and_position(small: tuple) -> None:
    _, truth, events = small
    shown = events[(events["event_type"] == "impression") & events["user_id"].notna()]
    clicked = events[events["event_type"] == "click"][["request_id", "item_id"]].assign(clicked=1)
    shown = shown.merge(clicked, how="left", on=["request_id", "item_id"]).fillna({"clicked": 0})
    user = pd.Index(truth.user_ids).get_indexer(shown["user_id"])
    item = pd.Index(truth.item_ids).get_indexer(shown["item_id"])
    want = truth.utility(user, item, (shown["timestamp"].to_numpy() - truth.start_us) / DAY_US)
    assert shown["clicked"][want > 1].mean() > 3 * shown["clicked"][want < 0].mean()
    assert shown["clicked"][shown["position"] == 0].mean() > 2 * shown["clicked"][shown["position"] == 7].mean()
    assert shown.groupby("request_id")["item_id"].nunique().eq(8).all()


def test_people_differ_and_love_the_tail(small: tuple) -> None:
    _, truth, _ = small
    users, items = np.arange(300), np.arange(120)
    time = truth.start_us + 10 * DAY_US
    utility = true_utility(truth, users, items, time)
    assert utility.shape == (300, 120) and available(truth, users, time).shape == (300, 120)
    pairwise = truth.utility(users[:5], items[:5], 10.0)
    np.testing.assert_allclose(np.diag(utility[:5, :5]), pairwise, rtol=1e-4, atol=1e-4)
    best = np.argsort(-utility, axis=1)[:, :10]
    assert len(np.unique(best)) > 100
    assert np.corrcoef(utility[:40])[np.triu_indices(40, 1)].mean() < 0.35


def test_logged_propensities_are_the_chances_of_the_draw() -> None:
    rng = np.random.default_rng(0)
    p = np.array([0.7, 0.2, 0.1, 0.0])
    items, chance = plackett_luce(p, 20_000, 3, rng)
    assert (np.sort(items, axis=1) == [0, 1, 2]).all()
    first = np.bincount(items[:, 0], minlength=4) / 20_000
    np.testing.assert_allclose(first, p, atol=0.01)
    after_zero = items[items[:, 0] == 0, 1]
    assert (after_zero == 1).mean() == pytest.approx(0.2 / 0.3, abs=0.015)
    np.testing.assert_allclose(chance[(items[:, 0] == 0) & (items[:, 1] == 1)][0], [0.7, 0.2 / 0.3, 1.0])
    few, zero = plackett_luce(np.array([0.0, 1.0]), 2, 3, rng)
    assert few.tolist() == [[1, -1, -1]] * 2 and zero.tolist() == [[1, 0, 0]] * 2


def test_best_first_ties_place_to_taste_and_knows_no_chance(tmp_path: Path) -> None:
    lead = {}
    for best_first in (False, True):
        folder = tmp_path / str(best_first)
        truth = simulate(folder, replace(SMALL, best_first=best_first))
        log = pd.read_parquet(folder / "events.parquet")
        shown = log[(log["event_type"] == "impression") & log["user_id"].notna()]
        assert shown["propensity"].isna().all() == best_first
        user = pd.Index(truth.user_ids).get_indexer(shown["user_id"])
        item = pd.Index(truth.item_ids).get_indexer(shown["item_id"])
        want = true_utility(truth, np.arange(len(truth.user_ids)), np.arange(len(truth.item_ids)), truth.start_us)
        by_place = pd.Series(want[user, item]).groupby(shown["position"].to_numpy()).mean()
        lead[best_first] = by_place.iloc[0] - by_place.iloc[-1]
    assert lead[True] > 3 * abs(lead[False]) and lead[True] > 0.5


def test_a_policy_plugs_in(tmp_path: Path) -> None:
    def first_items(day: int, users: np.ndarray, context: PolicyContext) -> tuple[np.ndarray, np.ndarray]:
        assert len(context.time) == len(users) and context.eligible.shape == (4, 120)
        return np.tile(np.arange(8), (len(users), 1)), np.ones((len(users), 8))

    simulate(tmp_path, replace(SMALL, days=3, events=1_500, policy=first_items))
    events = pd.read_parquet(tmp_path / "events.parquet")
    shown = events[events["event_type"] == "impression"]
    assert set(shown["item_id"]) == {f"i{n:06d}" for n in range(8)} and (shown["propensity"] == 1).all()


def test_drift_changes_tastes_prices_and_traffic_from_its_day_on(tmp_path: Path) -> None:
    config = replace(SMALL, drift=Drift(10, tastes=1.0, prices=2.0, traffic=3.0))
    truth = simulate(tmp_path, config)
    users, items = np.arange(300), np.arange(120)
    before, after = (true_utility(truth, users, items, truth.start_us + d * DAY_US) for d in (9, 11))
    still = true_utility(truth, users, items, truth.start_us + 8 * DAY_US)
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] < 0.7 < np.corrcoef(before.ravel(), still.ravel())[0, 1]
    day = (pd.read_parquet(tmp_path / "events.parquet")["timestamp"] - truth.start_us) // DAY_US
    assert (day == 10).sum() > 1.8 * (day == 9).sum()


def test_a_simulated_shop_is_an_imported_shop_with_its_truth_under_pseudonyms(tmp_path: Path) -> None:
    summary = simulate_shop(tmp_path / "shop", SMALL, key_file=tmp_path / "key")
    events = pd.read_parquet(tmp_path / "shop/events.parquet")
    truth = Truth.load(tmp_path / "shop/truth")
    people = events.loc[~events["user_id"].str.startswith("~"), "user_id"].unique()
    assert summary["bad"] == 0 and len(people) == summary["users"] and set(people) <= set(truth.user_ids)


def test_impossible_configurations_say_so() -> None:
    with pytest.raises(InvalidInput, match="users"):
        SimulatorConfig(users=0)
    with pytest.raises(InvalidInput, match="list_size"):
        SimulatorConfig(items=3)
