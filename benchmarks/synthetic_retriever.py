"""A retriever of any size, made up in a minute or two: the shape of a large shop without its data.

    python -m benchmarks.synthetic_retriever FOLDER --items 2000000

Items live in clusters and have a Zipf-like popularity; tables, lists, vectors and histories follow both. A popular item
has 300 neighbours, the median one 40, as in tables that were fitted on sessions. The two-tower's user tower is a real
one, exported by torch, with weights that return the newest item's surroundings.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longtail.compiled import compiled, frozen
from longtail.events import Histories, Requests
from longtail.retrieval.base import CandidateSource
from longtail.retrieval.blend import Blend
from longtail.retrieval.index import VectorIndex
from longtail.retrieval.lists import ListSource, RepeatSource, Segments
from longtail.retrieval.neighbours import NeighbourSource
from longtail.retrieval.retriever import save_retriever
from longtail.retrieval.session_knn import SessionNeighbours
from longtail.retrieval.sources import MONTHS, SESSION, STEPS, SourcesConfig
from longtail.retrieval.table import Table
from longtail.retrieval.two_tower import TwoTower, TwoTowerConfig
from longtail.retrieval.vectors import SpectralSource
from longtail.retrieval.weighting import Weighting
from longtail.schema import DAY_US, EVENT_CODE

NOW = 20_000 * DAY_US
SEGMENTS = 12
SESSIONS = 200_000


@dataclass(frozen=True)
class Shop:
    """Who is popular and who belongs together: `popular` int32 [I] best first, `members` int32 [I] cluster by cluster
    (each best first), `start` int64 [C + 1], `cluster` int32 [I], `rank` int32 [I] place in `popular`.
    """

    popular: np.ndarray
    members: np.ndarray
    start: np.ndarray
    cluster: np.ndarray
    rank: np.ndarray

    @staticmethod
    def make(n_items: int, seed: int) -> Shop:
        """A shop of `n_items`; a cluster holds about 300 of them."""
        rng = np.random.default_rng(seed)
        popular = rng.permutation(n_items).astype(np.int32)
        rank = np.empty(n_items, np.int32)
        rank[popular] = np.arange(n_items)
        n_clusters = max(4, min(n_items // 300, 6000))
        cluster = rng.integers(0, n_clusters, n_items).astype(np.int32)
        members = np.lexsort((rank, cluster)).astype(np.int32)
        start = np.searchsorted(cluster[members], np.arange(n_clusters + 1))
        return Shop(popular, members, start.astype(np.int64), cluster, rank)


def synthetic_retriever(folder: Path, n_items: int, seed: int = 0) -> None:
    """Write a `retrieval/` folder that `Retriever.load` reads, with the sources that a shop of this size gets.

    Needs torch (for the user tower). Two million items take about three minutes on two cores and 7 GB of disk.
    """
    shop = Shop.make(n_items, seed)
    scratch = folder.parent / f".{folder.name}.two_tower"
    names = []

    def noted() -> Iterator[CandidateSource]:
        for source in _sources(shop, np.random.default_rng(seed + 1), scratch):
            names.append(source.name)
            yield source

    save_retriever(folder, noted(), Blend.equal(0))
    weights = np.random.default_rng(seed + 2).gamma(1.0, 0.5, len(names)).astype(np.float32)
    Blend(weights, -3.0).save(folder / "blend.json")
    shutil.rmtree(scratch)


def synthetic_requests(n: int, n_items: int, seed: int = 0) -> Requests:
    """n people of the shop that `synthetic_retriever` makes of the same size and seed.

    A history has 20 events in the middle, 100 at the 95th percentile, in sessions of about four, mostly from three
    clusters; one person in twenty is new.
    """
    shop = Shop.make(n_items, seed)
    rng = np.random.default_rng(seed + 3)
    length = np.clip(rng.lognormal(3.0, 1.0, n), 1, 500).astype(np.int64)
    length[rng.random(n) < 0.05] = 0
    total = int(length.sum())
    row = np.repeat(np.arange(n), length)
    taste = rng.integers(0, len(shop.start) - 1, (n, 3))
    group = taste[row, rng.integers(0, 3, total)]
    size = np.maximum(shop.start[group + 1] - shop.start[group], 1)
    near = shop.members[np.minimum(shop.start[group] + (size * rng.random(total) ** 3).astype(np.int64), n_items - 1)]
    wide = shop.popular[(n_items * rng.random(total) ** 4).astype(np.int64)]
    item = np.where(rng.random(total) < 0.7, near, wide)
    new_session = rng.random(total) < 0.25
    session = np.cumsum(new_session | np.concatenate([[True], row[1:] != row[:-1]]) if total else new_session)
    gap = np.where(new_session, rng.exponential(6 * DAY_US, total), rng.exponential(DAY_US / 1440, total))
    age = np.cumsum(gap[::-1])[::-1]
    last = np.cumsum(length) - 1
    age -= np.repeat(age[np.maximum(last, 0)] if total else np.zeros(n), length) - DAY_US / 24
    one = np.ones(total, np.float32)
    history = Histories(
        np.append(0, np.cumsum(length)), item.astype(np.int32), (NOW - age).astype(np.int64),
        np.full(total, EVENT_CODE["click"], np.int8), one, one, session.astype(np.int32),
    )  # fmt: skip
    segment = rng.integers(-1, SEGMENTS, n).astype(np.int32)
    return Requests(np.full(n, NOW), np.full(n, -1, np.int32), segment, history)


def _sources(shop: Shop, rng: np.random.Generator, scratch: Path) -> Iterator[CandidateSource]:
    n, k = len(shop.popular), SourcesConfig.neighbours
    distinct = Weighting(last=1000, distinct=True)
    if n <= SourcesConfig.ease_items:
        ease = Table.of(_dense_links(shop, rng))
        yield NeighbourSource("ease", "ease", ease, distinct)
        yield NeighbourSource("ease_recent", "ease", ease, MONTHS)
        yield NeighbourSource("ease_steps", "ease", ease, STEPS)
    else:
        vectors = clustered_vectors(shop, 64, rng)
        index = VectorIndex.build(vectors, queries=mixed_queries(vectors, shop, rng))
        inverse = (1 / (1 + 1e4 / (1 + shop.rank))).astype(np.float32)
        yield SpectralSource("spectral", "spectral", vectors, inverse, index, distinct)
        yield NeighbourSource("graph", "graph", _table(shop, k, rng), distinct)
    yield NeighbourSource("item_knn", "item_knn", _table(shop, k, rng), STEPS)
    bought = _table(shop, k, rng)
    yield NeighbourSource("copurchase", "copurchase", bought, SESSION)
    yield NeighbourSource("copurchase_months", "copurchase", bought, MONTHS)
    yield NeighbourSource("next_1", "next", _table(shop, k // 3, rng), Weighting(last=1))
    near = _table(shop, k, rng)
    yield NeighbourSource("next_5", "next", near, Weighting(last=5, decay=0.6))
    yield NeighbourSource("next_5_long", "next", near, Weighting(last=10, decay=0.8))
    yield NeighbourSource("next_20", "next", _table(shop, k, rng), Weighting(last=20, decay=0.9))
    yield NeighbourSource("before_5", "before", _table(shop, k, rng), Weighting(last=5, decay=0.6))
    yield _sessions(shop, rng)
    yield from _lists(shop, rng)
    yield RepeatSource("repeats", "repeats", n, MONTHS)
    yield NeighbourSource("content", "content", _table(shop, k // 3, rng), STEPS)
    yield _two_tower(shop, rng, scratch)


def _table(shop: Shop, most: int, rng: np.random.Generator) -> Table:
    """Links mostly within clusters, to popular items more than to others; popular items have `most` of them."""
    n = len(shop.popular)
    length = most / np.sqrt(1 + 100 * shop.rank / n) * rng.uniform(0.7, 1.0, n)
    indptr = np.append(0, np.cumsum(np.maximum(length.astype(np.int64), 1)))
    items, weights = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    n_left = _fill(
        shop.popular, shop.members, shop.start, shop.cluster, indptr, items, weights, np.uint64(rng.integers(1 << 62))
    )
    return Table((n, n), frozen(indptr, np.int64), items[:n_left], weights[:n_left], np.empty((0, 0), np.float32))


@compiled
def _fill(popular, members, start, cluster, indptr, items, weights, state):
    """Rows of ascending, distinct items; shortens `indptr` by what was drawn twice and returns the links left."""
    n, out = len(popular), 0
    first = indptr[0]
    for i in range(n):
        size = indptr[i + 1] - first
        first = indptr[i + 1]
        low, high = start[cluster[i]], start[cluster[i] + 1]
        row = items[out : out + size]
        for j in range(size):
            state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
            u = np.float64(state >> np.uint64(40)) / 16777216.0
            if (state >> np.uint64(33)) % np.uint64(10) < np.uint64(7):
                row[j] = members[low + np.int64((high - low) * u * u)]
            else:
                row[j] = popular[np.int64(n * u * u * u)]
        row.sort()
        kept = 0
        for j in range(size):
            if row[j] != i and (kept == 0 or row[j] != row[kept - 1]):
                row[kept] = row[j]
                state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
                weights[out + kept] = np.float32(1e-3) + np.float32(state >> np.uint64(40)) / np.float32(1 << 25)
                kept += 1
        out += kept
        indptr[i + 1] = out
    return out


def _dense_links(shop: Shop, rng: np.random.Generator):
    import scipy.sparse as sp

    n = len(shop.popular)
    same = shop.cluster[:, None] == shop.cluster[None, :]
    weights = rng.normal(0, 0.01, (n, n)).astype(np.float32) + same * rng.random((n, n), dtype=np.float32) * 0.1
    weights *= (1 / np.sqrt(1 + shop.rank)).astype(np.float32)[None]
    np.fill_diagonal(weights, 0)
    return sp.csr_matrix(weights)


def _sessions(shop: Shop, rng: np.random.Generator) -> SessionNeighbours:
    import scipy.sparse as sp

    n, count = len(shop.popular), min(SESSIONS, 40 * len(shop.popular))
    length = np.clip(rng.geometric(0.2, count) + 1, 2, 40)
    row = np.repeat(np.arange(count), length)
    group = rng.integers(0, len(shop.start) - 1, count)[row]
    size = np.maximum(shop.start[group + 1] - shop.start[group], 1)
    near = shop.members[np.minimum(shop.start[group] + (size * rng.random(len(row)) ** 3).astype(np.int64), n - 1)]
    wide = shop.popular[(n * rng.random(len(row)) ** 4).astype(np.int64)]
    item = np.where(rng.random(len(row)) < 0.7, near, wide)
    x = sp.csr_matrix((np.ones(len(row), np.float32), (row, item)), shape=(count, n))
    x.sum_duplicates()
    x.data[:] = 1
    idf = np.log(count / np.maximum(np.asarray(x.sum(0)).ravel(), 1)).astype(np.float32)
    to_sessions = (sp.diags((length**-0.5).astype(np.float32)) @ x).T.tocsr().astype(np.float32)
    weighting = Weighting(last=20, decay=0.8)
    return SessionNeighbours("sessions", "sessions", Table.of(to_sessions), Table.of(x), idf, 500, weighting)


def _lists(shop: Shop, rng: np.random.Generator) -> Iterator[ListSource]:
    n = len(shop.popular)
    counts = (1e6 / (20 + shop.rank) ** 0.9).astype(np.float32)
    for name in ("popular_3d", "popular_7d", "popular_30d", "popular", "trending"):
        yield ListSource(name, name, counts * rng.gamma(2.0, 0.5, n).astype(np.float32))
    share = counts / counts.sum()
    own = [np.sort(rng.choice(n, max(1, n // 20), replace=False)) for _ in range(SEGMENTS)]
    scores = [share[items] * rng.gamma(2.0, 0.5, len(items)) for items in own]
    segments = Segments(
        frozen(np.full(SEGMENTS, 0.3), np.float32), frozen(np.cumsum([0, *map(len, own)]), np.int64),
        frozen(np.concatenate(own), np.int32), frozen(np.concatenate(scores), np.float32),
    )  # fmt: skip
    yield ListSource("popular_segment", "popular_segment", share, segments)


def clustered_vectors(shop: Shop, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors around their cluster's, of fewer effective dimensions than `dim`, as learned ones are."""
    spectrum = (np.arange(1, dim + 1) ** -0.5).astype(np.float32)
    groups = rng.normal(size=(50, dim)).astype(np.float32)
    centres = groups[rng.integers(0, 50, len(shop.start) - 1)] + 0.8 * rng.normal(size=(len(shop.start) - 1, dim))
    out = np.empty((len(shop.popular), dim), np.float32)
    for a in range(0, len(out), 100_000):
        part = shop.cluster[a : a + 100_000]
        noise = rng.standard_normal((len(part), dim), dtype=np.float32)
        block = (centres[part].astype(np.float32) + 0.8 * noise) * spectrum
        out[a : a + len(part)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return out


def mixed_queries(vectors: np.ndarray, shop: Shop, rng: np.random.Generator, n: int = 500) -> np.ndarray:
    """What the index will be asked: mixtures of three popular items."""
    picked = shop.popular[(len(vectors) * rng.random((n, 3)) ** 4).astype(np.int64)]
    return np.einsum("nid,i->nd", vectors[picked], np.array([1.0, 0.6, 0.3])).astype(np.float32)


def _two_tower(shop: Shop, rng: np.random.Generator, folder: Path) -> TwoTower:
    import torch

    from longtail.retrieval.two_tower_model import UserTower, export_user_tower

    config = TwoTowerConfig()
    folder.mkdir(parents=True, exist_ok=True)
    vectors = clustered_vectors(shop, config.dim, rng)
    VectorIndex.build(vectors, queries=mixed_queries(vectors, shop, rng)).save(folder)
    np.save(folder / "item_vectors.npy", vectors)
    np.save(folder / "content_table.npy", rng.normal(size=(1, config.dim)).astype(np.float32))
    np.save(folder / "content_tokens.npy", np.zeros(1, np.int64))
    torch.manual_seed(0)
    tower = UserTower(config, SEGMENTS)
    with torch.no_grad():  # what the layers add to the newest item's vector stays small
        tower.enter.weight.copy_(torch.eye(config.dim))
        for layer in (tower.head[2], *(m for b in tower.blocks for m in (b.out, b.down))):
            layer.weight.mul_(0.1)
    export_user_tower(tower, folder / "user_tower.onnx")
    meta = {"dim": config.dim, "last": config.last, "segments": SEGMENTS, "content": {"price_edges": []}, "as_of": NOW}
    (folder / "config.json").write_text(json.dumps(meta))
    return TwoTower.load(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    synthetic_retriever(args.folder, args.items, args.seed)


if __name__ == "__main__":
    main()
