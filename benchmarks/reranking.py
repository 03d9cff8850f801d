"""Milliseconds of `rerank` for one request: `OMP_NUM_THREADS=1 python -m benchmarks.reranking`.

Prints a Markdown table: median and 95th percentile over 500 requests of 500 candidates each, from a catalogue of 50,000
items with 64-dimensional vectors.
"""

import time

import numpy as np
import pandas as pd

from longtail.events import Catalogue
from longtail.reranking import ItemView, PersonView, Rules, rerank

ITEMS, CANDIDATES, REQUESTS = 50_000, 500, 500
NOW = 1_700_000_000_000_000
ALL = {
    "filters": {"exclude_bought": True, "exclude_seen": True},
    "caps": {"category": 4, "brand": 4},
    "diversity": {"lambda": 0.8},
    "freshness": {"strength": 0.3},
    "exploration": {"epsilon": 0.1, "temperature": 1.0},
    "boosts": [{"name": "a", "category": "c1", "factor": 1.5}, {"name": "b", "items": ["i1", "i2"], "factor": 2}],
    "block": [{"brand": "b3"}],
    "pins": [{"name": "c", "items": ["i7"], "place": 3}],
    "promotions": [{"name": "d", "brand": "b5", "every": 10}],
}
CASES = {
    "safety filters alone": ({}, 20),
    "caps": ({"caps": ALL["caps"]}, 20),
    "MMR on attributes": ({"diversity": ALL["diversity"]}, 20),
    "MMR on vectors": ({"diversity": {"lambda": 0.8, "similarity": "vectors"}}, 20),
    "exploration": ({"exploration": ALL["exploration"]}, 20),
    "everything": (ALL, 20),
    "everything, 50 places": (ALL, 50),
}


def main() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"item_id": [f"i{i}" for i in range(ITEMS)]})
    frame["category"] = [f"c{c}/{d}" for c, d in rng.integers(0, 12, (ITEMS, 2))]
    frame["brand"] = [f"b{b}" for b in rng.integers(0, 300, ITEMS)]
    frame["in_stock"] = rng.random(ITEMS) < 0.9
    frame["created_at"] = pd.to_datetime(NOW, unit="us", utc=True)
    shop = Catalogue.from_frame(frame)
    view = ItemView.from_catalogue(shop, rng.normal(size=(ITEMS, 64)))
    person = PersonView(age=30, bought=np.arange(200), seen=np.arange(300, 500))
    print("| rules | places | p50 ms | p95 ms |\n| --- | --- | --- | --- |")
    for name, (file, k) in CASES.items():
        rules = Rules.model_validate(file).bind(shop)
        scores = rng.normal(size=CANDIDATES).astype(np.float32)
        spent = []
        for _ in range(REQUESTS):
            items = np.sort(rng.choice(ITEMS, CANDIDATES, replace=False))  # in the order of the retriever
            start = time.perf_counter()
            rerank(scores, items, view, person, rules, rng, NOW, k)
            spent.append(1000 * (time.perf_counter() - start))
        print(f"| {name} | {k} | {np.median(spent):.2f} | {np.quantile(spent, 0.95):.2f} |")


if __name__ == "__main__":
    main()
