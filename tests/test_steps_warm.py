"""A training that goes on from the champion: what is kept, what follows the data, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xgboost as xgb

from longtail import steps
from longtail.engine.bundle import verify
from longtail.errors import InvalidInput
from longtail.registry import Registry, Version
from longtail.retrieval.two_tower import TwoTower
from longtail.training import IncrementalConfig, TrainingConfig
from tests.test_training import BRIEF, all_steps, busy, saved
from tests.tiny import START

pytestmark = pytest.mark.slow
CONFIG = replace(BRIEF, windows=3, incremental=IncrementalConfig(windows=1, rounds=4, tower_epochs=1))
PARTS = ("features", "index", "candidates", "ranker", "evaluation", "bundle")


def register(shop: Path, out: Path, registry: str, config: TrainingConfig = CONFIG) -> Version:
    return Registry(registry).get(steps.register(shop, *(out / p for p in PARTS), registry, config)["version"])


def go_on(shop: Path, out: Path, registry: str, action: str, config: TrainingConfig = CONFIG) -> Version:
    steps.fetch_champion(registry, out / "champion")
    steps.build_features(shop, out / "features", config)
    steps.warm_two_tower(shop, out / "champion", out / "tower", config, action)
    steps.build_index(out / "tower", out / "index", config)
    steps.warm_candidates(shop, out / "champion", out / "index", out / "candidates", config, action)
    steps.warm_ranker(out / "champion", out / "candidates", out / "ranker", config, action)
    steps.evaluate(shop, *(out / p for p in ("index", "candidates", "ranker", "evaluation")), config)
    return register(shop, out, registry, config)


def dated(shop: Path) -> Path:
    """Every other item with the day it came: how old it is depends on when it is looked at."""
    items = pd.read_parquet(shop / "items.parquet")
    came = pd.Timestamp(START, unit="us", tz="UTC") + pd.to_timedelta(3 * np.arange(len(items)), "D")
    items["created_at"] = came.where(np.arange(len(items)) % 2 == 1)
    items.to_parquet(shop / "items.parquet")
    return shop


@pytest.fixture(scope="module")
def shops(tmp_path_factory) -> tuple[Path, Path, str]:
    """Sixty days of a shop, the same without the last eight and their one new item, and a registry of the latter."""
    root = tmp_path_factory.mktemp("warm")
    events = busy(users=40, items=14, n=1_500, days=60)
    new = [(user, 20, 53 + user / 10) for user in range(40)]
    old = dated(saved(root / "old", [e for e in events if e[2] < 52]))
    now = dated(saved(root / "now", events + new))
    all_steps(old, root / "full", CONFIG)
    first = register(old, root / "full", str(root / "mlflow"))
    assert first.aliases == ("champion",)
    return old, now, str(root / "mlflow")


def tower_of(folder: Path, shop: Path) -> dict[str, np.ndarray]:
    ids = pd.read_parquet(shop / "items.parquet")["item_id"]
    return dict(zip(ids, TwoTower.load(folder / "index").item_vectors, strict=True))


def test_a_refresh_keeps_what_was_learned_and_knows_the_new_item(shops, tmp_path):
    old, now, registry = shops
    version = go_on(now, tmp_path, registry, "refresh")
    before, after = tower_of(old.parent / "full", old), tower_of(tmp_path, now)
    ids = pd.read_parquet(now / "items.parquet").set_index("item_id")["created_at"]
    ageless = [i for i in before if i in after and pd.isna(ids[i])]
    same = [np.abs(before[i] - after[i]).max() < 1e-5 for i in ageless]
    assert all(same) and len(ageless) >= 5, "the vector of an item that does not age stays what it was"
    assert set(after) - set(before) == {"i020"}
    assert np.linalg.norm(after["i020"]) == pytest.approx(1, abs=1e-4), "content alone places it"
    kept = [xgb.Booster(model_file=f / "ranker" / "booster.ubj").save_raw() for f in (old.parent / "full", tmp_path)]
    assert kept[0] == kept[1]
    verify(Registry(registry).resolve(version.number))
    assert "i020" in set(pd.read_parquet(tmp_path / "bundle" / "catalogue" / "items.parquet")["item_id"])
    assert version.unseen, "the newest window is new to the kept ranker"
    checks = {c["check"]: c for c in version.checks}
    assert set(checks) == {"latency", "size", "fall", "slices"}
    assert (
        "surely loses more than 10% of ndcg@10" in checks["slices"]["reason"]
        or "no part has" in checks["slices"]["reason"]
    )
    assert "against version 1, ndcg@10 differs by +0.0000" in version.decision, "the same model on the same requests"
    bundle = Registry(registry).resolve(version.number)
    found = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*")}
    assert {"MODEL_CARD.html", "model_card.json", "evaluation/bias.html", "evaluation/bias.json"} <= found
    assert "evaluation/slices.npz" not in found


def test_an_incremental_training_adds_trees_and_goes_on_with_the_tower(shops, tmp_path):
    old, now, registry = shops
    go_on(now, tmp_path, registry, "incremental")
    boosters = [xgb.Booster(model_file=f / "ranker" / "booster.ubj") for f in (old.parent / "full", tmp_path)]
    assert [b.num_boosted_rounds() for b in boosters] == [10, 14]
    first = boosters[1][:10].save_raw()
    assert xgb.Booster(model_file=bytearray(first)).get_dump() == boosters[0].get_dump()
    about = json.loads((tmp_path / "candidates" / "about.json").read_text())
    learned = json.loads((old.parent / "full" / "candidates" / "about.json").read_text())["windows"]
    assert about["windows"][: len(learned)] == learned and len(about["windows"]) == len(learned) + 1
    figures = json.loads((tmp_path / "tower" / "config.json").read_text())["figures"]
    assert figures["epochs"] <= 1


def test_too_many_trees_are_grown_anew(shops, tmp_path):
    _, now, registry = shops
    few = replace(CONFIG, incremental=replace(CONFIG.incremental, most_rounds=12))
    go_on(now, tmp_path, registry, "incremental", few)
    assert xgb.Booster(model_file=tmp_path / "ranker" / "booster.ubj").num_boosted_rounds() == CONFIG.ranker.rounds


def test_what_cannot_go_on_says_so_in_one_line(shops, tmp_path):
    _, now, registry = shops
    with pytest.raises(InvalidInput, match="no champion to go on from: train in full"):
        steps.fetch_champion(str(tmp_path / "none"), tmp_path / "champion")
    steps.fetch_champion(registry, tmp_path / "champion")
    wide = replace(CONFIG, two_tower=replace(CONFIG.two_tower, dim=16))
    with pytest.raises(InvalidInput, match="other sizes"):
        steps.warm_two_tower(now, tmp_path / "champion", tmp_path / "tower", wide, "refresh")
    with pytest.raises(InvalidInput, match="no action 'full'"):
        steps.warm_two_tower(now, tmp_path / "champion", tmp_path / "tower", CONFIG, "full")
    with pytest.raises(InvalidInput, match="too short to go on with a new window: import a longer log, or refresh"):
        long = replace(CONFIG, window_days=30)
        steps.warm_two_tower(now, tmp_path / "champion", tmp_path / "tower", long, "incremental")
    steps.warm_two_tower(now, tmp_path / "champion", tmp_path / "tower", CONFIG, "refresh")
    steps.build_index(tmp_path / "tower", tmp_path / "index", CONFIG)
    fewer = replace(CONFIG, sources=replace(CONFIG.sources, without=("item_knn",)))
    parts = tmp_path / "champion", tmp_path / "index", tmp_path / "candidates"
    with pytest.raises(InvalidInput, match="reads the sources .*: train in full"):
        steps.warm_candidates(now, *parts, fewer, "refresh")
