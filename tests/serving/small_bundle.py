"""A bundle trained in seconds on a made-up shop, by the product's own pieces."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from longtail.engine.bundle import publishing, write_manifest
from longtail.engine.online import write_people
from longtail.engine.parts import write_catalogue, write_fallback
from longtail.engine.ranker_repository import write_repository
from longtail.events import Shop
from longtail.features.offline import write_snapshots
from longtail.features.request import feature_list
from longtail.ranking.ranker import RankerConfig
from longtail.retrieval import Retriever
from longtail.training import TrainingConfig, TrainingSet, learn, prepare, propose

DAY = pd.Timedelta(days=1)
START = pd.Timestamp("2024-01-01", tz="UTC")
DAYS = 60


def shop(users: int = 80, items: int = 60, seed: int = 0) -> Shop:
    """Everyone likes one of six categories. Item 0 is out of stock, item 1 for adults, item 2 for `south` only."""
    rng = np.random.default_rng(seed)
    n = users * 40
    user = rng.integers(0, users, n)
    taste = user % 6
    item = np.where(rng.random(n) < 0.7, taste + 6 * rng.integers(0, items // 6, n), rng.integers(0, items, n))
    time = START + pd.to_timedelta(np.sort(rng.uniform(0, DAYS, n)), unit="D")
    kind = rng.choice(["view", "click", "add_to_cart", "purchase"], n, p=[0.5, 0.25, 0.15, 0.1])
    events = pd.DataFrame(
        {
            "event_id": [f"e{i}" for i in range(n)], "user_id": [f"u{u}" for u in user],
            "item_id": [f"i{i}" for i in item], "event_type": kind, "timestamp": time,
            "session_id": [f"s{u}-{t.dayofyear}" for u, t in zip(user, time, strict=True)], "request_id": None,
            "position": -1, "value": np.where(kind == "purchase", 10.0, np.nan),
            "region": np.where(user % 2 == 0, "north", "south"),
        }
    )  # fmt: skip
    frame = pd.DataFrame(
        {
            "item_id": [f"i{i}" for i in range(items)], "title": [f"thing {i % 6} number {i}" for i in range(items)],
            "category": [f"c{i % 6}/d{i % 12}" for i in range(items)], "brand": [f"b{i % 5}" for i in range(items)],
            "price": rng.uniform(1, 50, items), "in_stock": [i != 0 for i in range(items)],
            "min_age": [18 if i == 1 else 0 for i in range(items)],
            "regions": [["south"] if i == 2 else None for i in range(items)],
        }
    )  # fmt: skip
    return Shop.from_frames(events, frame)


def train(made: Shop) -> tuple[TrainingSet, Retriever, object]:
    """(data, fitted retriever, booster) at the end of the shop's log."""
    until = int((START + DAYS * DAY).value // 1000)
    config = TrainingConfig(
        windows=2, requests=300, depth=30, ranker=RankerConfig(rounds=20, max_depth=4, min_child_weight=1, threads=1)
    )
    data = prepare(made, until, config)
    booster, blend = learn(propose(data, [], data.windows(), lambda text: None), config)
    return data, data.stage(until, [], blend).retriever, booster


def make(target: Path, made: Shop | None = None) -> Path:
    """Train and publish a bundle."""
    made = made or shop()
    data, retriever, booster = train(made)
    popular = np.argsort(-np.bincount(made.log.item, minlength=len(made.catalogue)), kind="stable")
    with publishing(target) as folder:
        retriever.save(folder / "retrieval")
        names = feature_list(retriever.names)
        booster.save_model(target.parent / "booster.ubj")
        write_repository(target.parent / "booster.ubj", len(names), folder / "ranker")
        table = data.stage(data.until, []).item_table()
        write_catalogue(folder, made.catalogue, table.snapshot, data.until, data.content)
        write_people(folder, made.log, made.user_ids, made.segment, made.segments)
        write_snapshots(data.snapshots, folder, made.user_ids, made.catalogue, [data.until])
        write_fallback(folder, made.catalogue.item_ids, popular[:20], dict.fromkeys(made.segments, popular[:10]))
        write_manifest(folder, {"ndcg@10": 0.1}, "test", datetime(2024, 3, 1, tzinfo=UTC))
    return target
