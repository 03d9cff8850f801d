"""Replay served requests through the trainer's feature code and count the values that differ.

    python -m benchmarks.replay BUNDLE SHOP [--requests 1000]

Servers run as `longtail serve` runs them and log the features that the ranker was given. The same people at the same
moments then go through what a training run calls, from the imported shop: its histories, its snapshots, its features.
"""

from __future__ import annotations

import argparse
import http.client
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from longtail.engine.baked import LAST
from longtail.engine.impressions import Impression, read_impressions
from longtail.events import Requests, Shop
from longtail.events.log import histories_before
from longtail.features.batch import snapshots
from longtail.features.request import feature_list
from longtail.ranking.two_stage import Stage
from longtail.retrieval import Retriever
from longtail.retrieval.content import content_matrix
from serving.local import LocalServing

CANDIDATES = 500
STAGES = ("total", "people", "retriever", "features", "ranker")
PATIENT = [word for stage in STAGES for word in (f"--{stage}_ms", "30000")]  # asked is what is computed, not how fast


def serve(bundle: Path, users: list[str]) -> list[tuple[Impression, np.ndarray]]:
    """What the impression log says after one list for each user."""
    with TemporaryDirectory() as state:
        log = Path(state) / "impressions"
        extra = ["--candidates", str(CANDIDATES), "--impression_features", "candidates", *PATIENT]
        with LocalServing(bundle, Path(state), clock="data", impressions=log, extra=extra) as serving:
            connection = http.client.HTTPConnection("127.0.0.1", serving.http_port)
            for user in users:
                body = json.dumps({"instances": [{"user_id": user, "context": {"request_id": f"replay-{user}"}}]})
                connection.request("POST", "/v1/models/recommender:predict", body, {"content-type": "application/json"})
                answer = json.loads(connection.getresponse().read())["predictions"][0]
                if answer["level"] != "full":
                    raise SystemExit(f"a request was not fully served: {answer.get('cause')}")
        return [row for row in read_impressions(log) if row[0].request_id.startswith("replay-")]


def replay(bundle: Path, shop: Shop, rows: list[Impression]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(request int64 [N], item int64 [N], features float32 [N, F]) as training computes them."""
    with np.load(bundle / "catalogue" / "item_features.npz") as stored:
        until = int(stored["as_of"])
    codes = {user: code for code, user in enumerate(shop.user_ids)}
    user = np.array([codes[row.user_id] for row in rows], np.int32)
    time = np.array([row.time for row in rows], np.int64)
    history = histories_before(shop.log.positives, user, time, LAST)
    requests = Requests(time, user, shop.segment[user], history)
    taken = snapshots(shop.log, shop.catalogue, [until])
    retriever = Retriever.load(bundle / "retrieval")
    stage = Stage(until, retriever, taken, shop.catalogue, content_matrix(shop.catalogue))
    parts = []
    for first, part, candidates in stage.chunks(requests, CANDIDATES):
        features = stage.features(part, candidates, stage.item_table())
        parts.append((candidates.rows + first, candidates.items, features))
    rows_, items, features = (np.concatenate(column) for column in zip(*parts, strict=True))
    return rows_, items, features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("shop", type=Path)
    parser.add_argument("--requests", type=int, default=1000)
    args = parser.parse_args()
    shop = Shop.load(args.shop)
    n = min(args.requests, len(shop.user_ids))
    users = [str(u) for u in np.random.default_rng(0).choice(shop.user_ids, n, replace=False)]
    served = serve(args.bundle, users)
    rows, items, expected = replay(args.bundle, shop, [row for row, _ in served])
    same_items = np.array_equal(items, np.concatenate([row.candidates for row, _ in served]))
    if not same_items:
        raise SystemExit("the candidates themselves differ: the bundle belongs to another shop")
    actual = np.concatenate([features for _, features in served])
    differs = ~((actual == expected) | (np.isnan(actual) & np.isnan(expected)))
    names = [f.name for f in feature_list(Retriever.load(args.bundle / "retrieval").names)]
    print(f"{len(served)} served requests, {len(rows)} candidates, {actual.size} values: {int(differs.sum())} differ")
    for column in np.flatnonzero(differs.any(0)):
        print(f"  {names[column]}: {int(differs[:, column].sum())}")
    raise SystemExit(bool(differs.any()))


if __name__ == "__main__":
    main()
