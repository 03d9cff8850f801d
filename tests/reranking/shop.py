"""A small shop for the re-ranking tests, random but fixed by its seed."""

import numpy as np
import pandas as pd

from longtail.events import Catalogue
from longtail.reranking import ItemView

NOW = 1_700_000_000_000_000
DAY = pd.Timedelta(days=1)
REGIONS = ("de", "fr", "us")


def catalogue(n: int, seed: int = 0) -> Catalogue:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "item_id": [f"i{i}" for i in range(n)],
            "category": rng.choice(["kitchen/knives", "kitchen/pans", "garden", "toys", None], n),
            "brand": rng.choice(["acme", "bolt", "crux", None], n),
            "price": rng.uniform(1, 100, n),
            "in_stock": rng.random(n) < 0.8,
            "min_age": rng.choice([0, 0, 0, 16, 18], n),
            "created_at": pd.to_datetime(NOW, unit="us", utc=True) - rng.integers(0, 90, n) * DAY,
        }
    )
    frame["regions"] = [None if r < 0.6 else list(rng.choice(REGIONS, 2, replace=False)) for r in rng.random(n)]
    return Catalogue.from_frame(frame)


def view(n: int, seed: int = 0, dimension: int = 0) -> ItemView:
    vectors = np.random.default_rng(seed).normal(size=(n, dimension)) if dimension else None
    return ItemView.from_catalogue(catalogue(n, seed), vectors)
