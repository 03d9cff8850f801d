"""A whole bundle of any size, made up in minutes: the shape of a large shop without its data.

    python -m benchmarks.synthetic FOLDER [--items 2000000] [--users 100000]

The retriever is that of `synthetic_retriever`. People, catalogue, item and user features follow the same shop and are
written by the product's own code; the ranker has the size that training gives it and is trained on what the retriever
proposes, with a made-up taste. Every part is made by a process of its own, so that the memory of one is free for the
next.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from benchmarks.synthetic_retriever import NOW, SEGMENTS, Shop, synthetic_requests, synthetic_retriever
from longtail.engine.bundle import publishing, write_manifest
from longtail.events import Catalogue, Histories, Log, Requests
from longtail.schema import DAY_US, EVENT_CODE, EVENT_STRENGTH, EVENT_TYPES

PARTS = ("retrieval", "catalogue", "ranker")
REGIONS = [f"region-{n:02d}" for n in range(SEGMENTS)]
WORDS = 30_000  # of titles
RANKER_REQUESTS, RANKER_CANDIDATES, SHOWN = 400, 500, 150


def synthetic_bundle(folder: Path, items: int, users: int, seed: int = 0) -> None:
    """Write a bundle of `items` items and `users` people that the servers load.

    Raises:
        InvalidInput: the folder exists.
        CalledProcessError: a part could not be made; its process has said why.
    """
    with publishing(folder) as out:
        for part in PARTS:
            words = [sys.executable, "-m", "benchmarks.synthetic", str(out), "--part", part]
            given = {"--items": items, "--users": users, "--seed": seed}
            path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
            begin = time.perf_counter()
            subprocess.run([*words, *(str(w) for pair in given.items() for w in pair)], check=True,
                           env={**os.environ, "PYTHONPATH": path})  # fmt: skip
            print(f"{part}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
        write_manifest(out, {}, "made up", datetime(2024, 10, 4, tzinfo=UTC))


def make_catalogue(folder: Path, items: int, users: int, seed: int) -> None:
    """Catalogue, item features, people, their features and the fallback lists."""
    from longtail.engine.online import write_people
    from longtail.engine.parts import write_catalogue, write_fallback
    from longtail.features.batch import snapshots
    from longtail.features.offline import ITEM_FILE, write_snapshots

    rng, shop = np.random.default_rng(seed + 10), Shop.make(items, seed)
    catalogue = made_up_catalogue(shop, rng)
    requests = synthetic_requests(users, items, seed)
    log = made_up_log(requests, catalogue, rng)
    taken = snapshots(log, catalogue, [NOW])
    write_catalogue(folder, catalogue, taken.item(NOW), NOW, _content(catalogue, rng))
    ids = np.array([f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}" for n in range(users)], object)
    write_people(folder, log, ids, requests.segment, np.array(REGIONS, object))
    write_snapshots(taken, folder, ids, catalogue, [NOW])
    (folder / ITEM_FILE).unlink()  # what serving reads of the items is in the catalogue
    best = shop.popular[:5_000]
    by_segment = {name: rng.permutation(best[:500])[:200] for name in REGIONS}
    write_fallback(folder, catalogue.item_ids, best[:500], by_segment)


def made_up_catalogue(shop: Shop, rng: np.random.Generator) -> Catalogue:
    """Items with all that the contract knows but texts; a cluster of the shop lies in one category."""
    n = len(shop.popular)
    group = shop.cluster % max(4, min(1_500, n // 100))
    brand = (20_000 * rng.random(n) ** 3).astype(np.int64)
    words = (WORDS * rng.random((n, 4)) ** 2).astype(np.int64)
    titles = [f"word{a} word{b} word{c} word{d}" for a, b, c, d in words.tolist()]
    limited = rng.random(n) < 0.02
    created = NOW - (rng.exponential(400, n) * DAY_US).astype(np.int64)
    regions = [[REGIONS[i % SEGMENTS], REGIONS[(i + 3) % SEGMENTS]] if few else None for i, few in enumerate(limited)]
    frame = pd.DataFrame(
        {
            "item_id": [f"sku-{i:08d}" for i in range(n)], "title": titles,
            "category": [f"department-{g % 25}/group-{g}" for g in group.tolist()],
            "brand": [f"brand-{b}" for b in brand.tolist()], "price": np.round(rng.lognormal(3, 1, n), 2),
            "margin": rng.uniform(0.05, 0.5, n), "in_stock": rng.random(n) < 0.97,
            "created_at": pd.to_datetime(created, unit="us", utc=True),
            "regions": regions, "min_age": np.where(rng.random(n) < 0.01, 18, 0).astype(np.int32), "text": None,
        }
    )  # fmt: skip
    return Catalogue.from_frame(frame)


def made_up_log(requests: Requests, catalogue: Catalogue, rng: np.random.Generator) -> Log:
    """The histories as a log: mostly clicks, some carts and purchases."""
    h: Histories = requests.history
    n = len(h.item)
    kinds = ["view", "click", "add_to_cart", "purchase"]
    kind = np.array([EVENT_CODE[name] for name in kinds], np.int8)[rng.choice(4, n, p=[0.5, 0.3, 0.12, 0.08])]
    strength = np.array([EVENT_STRENGTH[name] for name in EVENT_TYPES], np.float32)[kind]
    bought = kind == EVENT_CODE["purchase"]
    none = np.full(n, -1, np.int32)
    return Log(
        h.rows.astype(np.int32), h.item, h.time, kind, strength,
        np.where(bought, catalogue.price[h.item], 0).astype(np.float32), h.quantity, h.session, none,
        none.astype(np.int16), np.full(n, np.nan, np.float32), len(requests), len(catalogue),
    )  # fmt: skip


def _content(catalogue: Catalogue, rng: np.random.Generator) -> sp.csr_matrix:
    """Rows as `content_matrix` makes them: about ten words of an item, its category path and its brand, csr [I, V]."""
    n = len(catalogue)
    words = (WORDS * rng.random((n, 10)) ** 2).astype(np.int32)
    named = [catalogue.category, catalogue.top_category, catalogue.brand]
    columns, width = [words], WORDS
    for codes in named:
        columns.append((codes + width).astype(np.int32)[:, None])
        width += int(codes.max()) + 1
    tokens = np.sort(np.concatenate(columns, axis=1), axis=1)
    keep = np.ones(tokens.shape, bool)
    keep[:, 1:] = tokens[:, 1:] != tokens[:, :-1]
    count = np.bincount(tokens[keep], minlength=width)
    weight = np.where(keep, np.log(n / np.maximum(count, 1))[tokens], 0).astype(np.float32)
    weight /= np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), 1e-9)
    indptr = np.append(0, np.cumsum(keep.sum(1)))
    return sp.csr_matrix((weight[keep], tokens[keep], indptr), (n, width))


def make_ranker(folder: Path, items: int, users: int, seed: int) -> None:
    """A LambdaMART of the size that training makes, over what the retriever of the folder proposes."""
    from longtail.engine.baked import BakedPeople
    from longtail.engine.parts import open_catalogue
    from longtail.engine.ranker_repository import write_repository
    from longtail.features.batch import UserCategory
    from longtail.features.definitions import USER_SNAPSHOT
    from longtail.features.online import UserRows, unpack
    from longtail.features.request import Pairs, assemble, feature_list
    from longtail.ranking.ranker import RankerConfig, TrainingRows, train_ranker
    from longtail.retrieval import Retriever

    rng = np.random.default_rng(seed + 20)
    people, retriever, table = BakedPeople.open(folder), Retriever.load(folder / "retrieval"), open_catalogue(folder)[1]
    stored = UserRows.read(folder)
    place = {user: n for n, user in enumerate(stored.user_ids.tolist())}
    chosen = rng.choice(len(people), min(RANKER_REQUESTS, len(people)), replace=False)
    features, gain = [], []
    for row in chosen:
        one = np.array([row])
        request = Requests(np.array([NOW]), np.array([-1], np.int32), people.segment_of(one), people.histories(one))
        found = retriever.candidates(request, RANKER_CANDIDATES)
        keep = np.sort(rng.permutation(len(found.rows))[:SHOWN])
        own = place.get(people.ids.ids[row].decode())
        user: tuple[dict[str, np.ndarray], UserCategory] = unpack(
            [None if own is None else stored.values[stored.indptr[own] : stored.indptr[own + 1]]]
        )
        assert set(user[0]) == set(USER_SNAPSHOT)
        pairs = Pairs(found.rows[keep], found.items[keep], found.scores[keep], found.ranks[keep])
        features.append(assemble(request, *user, table, pairs))
        taste = found.blend[keep] * 3 + rng.gumbel(size=len(keep)) + _taste(features[-1])
        gain.append((np.argsort(np.argsort(-taste)) < 3).astype(np.float32))
    rows = TrainingRows(
        np.concatenate(features), np.concatenate(gain), np.array([len(g) for g in gain]), np.ones(len(gain), np.float32)
    )
    names = feature_list(retriever.names)
    # The trees of a real shop are full: made-up groups are few, so that less must do for a split.
    booster = train_ranker(rows, names, RankerConfig(min_child_weight=0.5, threads=os.cpu_count() or 1))
    booster.save_model(folder / "booster.ubj")
    write_repository(folder / "booster.ubj", len(names), folder / "ranker")
    (folder / "booster.ubj").unlink()


def _taste(features: np.ndarray) -> np.ndarray:
    """A worth float32 [N] that takes some trees to learn."""
    known = np.nan_to_num(features[:, ::7], nan=0.0, posinf=0.0, neginf=0.0)
    spread = known.std(0)
    scaled = (known - known.mean(0)) / np.where(spread > 0, spread, 1)
    return 0.4 * np.sin(scaled).sum(1) + 0.2 * (scaled[:, :-1] * np.sign(scaled[:, 1:])).sum(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=2_000_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=PARTS, help="only this part, into a folder that holds those before it")
    args = parser.parse_args()
    if args.part == "retrieval":
        synthetic_retriever(args.folder / "retrieval", args.items, args.seed)
    elif args.part is not None:
        make = {"catalogue": make_catalogue, "ranker": make_ranker}[args.part]
        make(args.folder, args.items, args.users, args.seed)
    else:
        synthetic_bundle(args.folder, args.items, args.users, args.seed)


if __name__ == "__main__":
    main()
