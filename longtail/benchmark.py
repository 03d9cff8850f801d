"""Public protocols on the product's own path: readers, sources, two-tower, blend and ranker, one list for each case.

A protocol says which reader takes the folder, where training ends, who is asked, and how past requests are made.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from longtail.datasets.importing import import_shop
from longtail.engine.exposure import Exposure
from longtail.errors import InvalidInput
from longtail.events import Catalogue, Histories, Log, Requests, Shop
from longtail.events.log import histories_before
from longtail.identity.pseudonyms import Pseudonymiser, load_key
from longtail.ranking.ranker import RankerConfig
from longtail.reranking import ItemView, PersonView, Rules, rerank
from longtail.reranking.rules import LongTail
from longtail.retrieval.base import CandidateSource
from longtail.retrieval.sources import SourcesConfig
from longtail.retrieval.two_tower import TwoTowerConfig
from longtail.schema import DAY_US
from longtail.training import TrainingConfig, TrainingSet, learn, prepare, propose

LENGTH = 100  # items in every list
SHOWN = 20  # of which so many would be on show
ALL = 100_000  # events of a history: everything


@dataclass(frozen=True)
class Cases:
    """Who is asked after `until`: `ids` as the data set writes them, and their user ids or, for sessions, item ids."""

    ids: np.ndarray
    users: list[str] | None = None
    prefixes: list[list[str]] | None = None


@dataclass(frozen=True)
class Protocol:
    """`split(folder)` gives where training ends (microseconds, exclusive) and the cases after it.

    `long_tail` is the rule of that name for the first `SHOWN` places, with exposure counted from case to case.
    """

    reader: str
    split: Callable[[Path], tuple[int | None, Cases]]
    config: TrainingConfig
    retime: Callable[[Log], Log] | None = None
    long_tail: LongTail = LongTail()


def run(
    protocol: str, folder: Path, out: Path, without: tuple[str, ...] = (), two_tower: bool = True, seed: int = 0
) -> dict[str, Any]:
    """Train on the training part of `folder` and write `out`: `case`, and `items`, best first.

    `without` leaves out sources by name, `two_tower=False` the neural one, for ablations.

    Raises:
        InvalidInput: no such protocol, or the folder is not of its form.
    """
    if protocol not in PROTOCOLS:
        raise InvalidInput(f"there is no protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    p = PROTOCOLS[protocol]
    out.parent.mkdir(parents=True, exist_ok=True)  # now, not after an hour of training
    started = time.perf_counter()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.perf_counter() - started:6.0f} s  {line}\n")

    with tempfile.TemporaryDirectory() as scratch:
        shop, until, cases, names = load_training_part(p, Path(folder), Path(scratch))
        say(f"{len(shop.log):,} events, {shop.log.n_users:,} people, {shop.log.n_items:,} items")
        sources = replace(p.config.sources, without=(*p.config.sources.without, *without))
        config = replace(p.config, sources=sources, seed=seed, ranker=replace(p.config.ranker, seed=seed))
        data = prepare(shop, until, config)
        shared: list[CandidateSource] = []
        if two_tower and "two_tower" not in config.sources.without:
            shared = [train_tower(data, Path(scratch) / "tower")]
            say("two-tower trained")
        proposals = propose(data, shared, data.windows(), say)
        booster, blend = learn(proposals, config)
        say("ranker trained")
        from longtail.ranking.two_stage import recommend

        stage = data.stage(until, shared, blend)
        requests = _requests(cases, data.positives, shop, names, until)
        lists = with_long_tail(recommend(stage, booster, requests, LENGTH), shop.catalogue, p.long_tail)
    _write(out, cases.ids, lists, shop.catalogue.item_ids, Path(folder))
    say(f"{len(lists)} lists written to {out}")
    gain = booster.get_score(importance_type="total_gain")
    total = sum(gain.values())
    top = sorted(((round(v / total, 4), k) for k, v in gain.items()), reverse=True)[:15]
    return {
        "protocol": protocol, "cases": len(lists), "candidate_recall": proposals.recall,
        "seconds": round(time.perf_counter() - started), "blend": _rounded(proposals.sources, blend.weights),
        "importance": {name: share for share, name in top},
    }  # fmt: skip


def with_long_tail(lists: np.ndarray, catalogue: Catalogue, rule: LongTail) -> np.ndarray:
    """Lists int [B, n] of item indices (-1 behind their ends) with the rule applied to their first `SHOWN` places.

    What it moves out of them follows behind, in its order.
    """
    if rule.after is None:
        return lists
    n, out = len(catalogue), np.full_like(lists, -1)
    # The protocols judge items that are sold out by now.
    view = replace(
        ItemView.from_catalogue(catalogue), in_stock=np.ones(n, bool), min_age=np.zeros(n, np.int32),
        everywhere=np.ones(n, bool),
    )  # fmt: skip
    rules, exposure, rng = Rules(long_tail=rule).bind(catalogue), Exposure(n), np.random.default_rng(0)
    for b, row in enumerate(lists):
        items = row[row >= 0].astype(np.int64)
        worth = -np.arange(len(items), dtype=np.float32)
        shown = rerank(worth, items, view, PersonView(), rules, rng, 0, SHOWN, shown=exposure.counts).items
        exposure.add(shown, 0)
        out[b, : len(items)] = np.concatenate([shown, items[~np.isin(items, shown)]])
    return out


def _rounded(names: list[str], weights: np.ndarray) -> dict[str, float]:
    return {name: round(float(weight), 3) for name, weight in zip(names, weights, strict=True)}


def load_training_part(protocol: Protocol, folder: Path, scratch: Path) -> tuple[Shop, int, Cases, Pseudonymiser]:
    """Import what lies before the split: the shop, where training ends, the cases, and the names of their users."""
    until, cases = protocol.split(folder)
    key_file = known_key(scratch)
    import_shop(protocol.reader, folder, scratch / "shop", key_file=key_file, until=until, max_bad_share=0.5)
    shop = Shop.load(scratch / "shop")
    if protocol.retime:
        shop = replace(shop, log=protocol.retime(shop.log))
    return shop, until or int(shop.log.time.max()) + 1, cases, Pseudonymiser(load_key(key_file))


def known_key(folder: Path) -> Path:
    """A key file in `folder`, the same in every run: another key orders people anew, and so trains otherwise.

    For public data and simulated shops only: whoever knows the key knows the names behind pseudonyms.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "key"
    path.write_text("nobody lives in a simulated shop")
    path.chmod(0o600)
    return path


def train_tower(data: TrainingSet, folder: Path) -> CandidateSource:
    """The two-tower, trained on what lies before the first training window."""
    from longtail.retrieval.two_tower import TwoTower
    from longtail.retrieval.two_tower_training import train_two_tower

    past, importance = data.past(data.stamps[-1])
    shop, config = data.shop, data.config
    train_two_tower(past, shop.catalogue, shop.segment, config.two_tower, folder, config.seed, importance=importance)
    return TwoTower.load(folder)


def _requests(cases: Cases, positives: Log, shop: Shop, names: Pseudonymiser, until: int) -> Requests:
    n = len(cases.ids)
    now = np.full(n, until, np.int64)
    nobody = np.full(n, -1, np.int32)
    if cases.prefixes is not None:
        return Requests(now, nobody, nobody, _prefix_histories(cases.prefixes, shop, until))
    users = pd.Index(shop.user_ids).get_indexer(pd.Index(names.of_all(cases.users or []), dtype=object))
    segment = np.where(users >= 0, shop.segment[users], -1).astype(np.int32)
    return Requests(now, users.astype(np.int32), segment, histories_before(positives, users, now, last=ALL))


def _prefix_histories(prefixes: list[list[str]], shop: Shop, until: int) -> Histories:
    """Histories of clicks, one second apart, the newest a second before `until`; unknown items are left out."""
    lengths = np.array([len(p) for p in prefixes])
    codes = pd.Index(shop.catalogue.item_ids).get_indexer(pd.Index([i for p in prefixes for i in p], dtype=object))
    rows = np.repeat(np.arange(len(prefixes)), lengths)
    back = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(rows))
    known = codes >= 0
    rows, item, back = rows[known], codes[known].astype(np.int32), back[known]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(prefixes)))]).astype(np.int64)
    n = len(item)
    click = shop.log.kind[np.argmax(shop.log.strength > 0)] if len(shop.log) else np.int8(0)
    return Histories(
        indptr, item, until - back * 1_000_000, np.full(n, click, np.int8), np.ones(n, np.float32),
        np.ones(n, np.float32), rows.astype(np.int32),
    )  # fmt: skip


def _write(out: Path, cases: np.ndarray, lists: np.ndarray, ids: np.ndarray, folder: Path) -> None:
    whole = all(str(i).isdecimal() and str(int(i)) == str(i) for i in ids) and not (folder / "events.parquet").is_file()
    names = ids.astype(np.int64) if whole else ids
    frame = pd.DataFrame({"case": cases, "items": [names[row[row >= 0]].tolist() for row in lists]})
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    frame.to_parquet(beside, index=False)
    os.replace(beside, out)


def _retail_split(folder: Path) -> tuple[int, Cases]:
    frame = _read(
        folder / "events.parquet", ["event_type", "user_id", "quantity", "unit_price", "item_id", "timestamp"]
    )
    usable = (frame["event_type"] == "purchase") & frame["user_id"].notna() & (frame["quantity"] > 0)
    frame = frame[usable & (frame["unit_price"] > 0) & frame["item_id"].str.match(r"^\d{5}")]
    cut = frame["timestamp"].max() - pd.Timedelta(days=7)
    later, earlier = frame[frame["timestamp"] > cut], frame[frame["timestamp"] <= cut]
    users = np.intersect1d(later["user_id"].unique(), earlier["user_id"].unique()).astype(np.int64)
    return int(np.datetime64(cut, "us").astype(np.int64)) + 1, Cases(users, [str(u) for u in users])


def _last_item_split(folder: Path) -> tuple[int, Cases]:
    from longtail.datasets.movielens_ordered import END_US

    frame = _read(folder / "interactions_ordered.parquet", ["sas_user_id"])
    users = np.unique(frame["sas_user_id"].to_numpy()).astype(np.int64)
    return END_US, Cases(users, [str(u) for u in users])


def _temporal_split(folder: Path) -> tuple[int, Cases]:
    frame = _read(folder / "interactions.parquet", ["user_id", "item_id", "timestamp"])
    cut = int(frame["timestamp"].quantile(0.9))
    earlier, later = frame[frame["timestamp"] <= cut], frame[frame["timestamp"] > cut]
    users = np.intersect1d(later["user_id"].unique(), earlier["user_id"].unique()).astype(np.int64)
    # Events of one day are microseconds apart; the next day is far away.
    return cut * 1_000_000 + 1_000_000, Cases(users, [str(u) for u in users])


def _pairs_split(folder: Path) -> tuple[None, Cases]:
    users = np.unique(_read(folder / "test.parquet", ["user_id"])["user_id"].to_numpy()).astype(np.int64)
    return None, Cases(users, [str(u) for u in users])


def _sessions_split(folder: Path) -> tuple[None, Cases]:
    frame = _read(folder / "test_cases.parquet", ["prefix"])
    return None, Cases(np.arange(len(frame)), prefixes=[[str(i) for i in prefix] for prefix in frame["prefix"]])


def _shuffled(log: Log) -> Log:
    """Pairs come without a time: each person's are put in a random order over 100 days that end together."""
    order = np.lexsort((np.random.default_rng(0).random(len(log)), log.user))
    start = np.searchsorted(log.user, np.arange(log.n_users))
    size = np.bincount(log.user, minlength=log.n_users)
    place = np.arange(len(log)) - start[log.user]
    end = int(log.time.max())
    time = end - ((1 - (place + 1) / size[log.user]) * 100 * DAY_US).astype(np.int64)
    return replace(log.select(order), time=time)


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, columns=columns)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read for this protocol: {str(error).splitlines()[0]}") from error


_WINDOW = TrainingConfig(
    unit="window", objective="clicks", history=ALL, known_only=True, requests=ALL, propensity_weights=False,
    ranker=RankerConfig(rounds=300, eta=0.05, min_child_weight=20, pairs=12),
    two_tower=TwoTowerConfig(epochs=10, half_life_days=30),
)  # fmt: skip
_BROAD = RankerConfig(rounds=250, eta=0.08, min_child_weight=10, pairs=20)

_ORDERED = ("sessions", "next_1", "next_5_long", "next_20", "before_5", "copurchase", "copurchase_months",
            "popular_3d", "trending", "two_tower")  # fmt: skip

PROTOCOLS: Mapping[str, Protocol] = {
    # What somebody buys again and again is known soon: four of the twenty places are well spent on what few have seen.
    "repeat-week": Protocol(
        "online-retail", _retail_split, replace(_WINDOW, windows=8), long_tail=LongTail(after=SHOWN - 4)
    ),
    "new-week": Protocol("online-retail", _retail_split, replace(_WINDOW, windows=10, repeats=False)),
    "last-item": Protocol(
        "movielens-ordered", _last_item_split,
        replace(_WINDOW, windows=2, window_days=1, repeats=False, negatives=0.3, ranker=_BROAD,
                sources=SourcesConfig(neighbours=500), two_tower=TwoTowerConfig(epochs=12)),
    ),
    "temporal": Protocol(
        "amazon-5core", _temporal_split,
        replace(_WINDOW, windows=3, window_days=50, repeats=False, negatives=0.3, depth=100,
                ranker=RankerConfig(rounds=200, eta=0.05, max_depth=5, min_child_weight=20, pairs=20),
                two_tower=TwoTowerConfig(epochs=15, half_life_days=180)),
    ),
    "pairs": Protocol(
        "pairs", _pairs_split,
        # Pairs have no order and no time: what is made of either is left out, and the ranker reads the sources alone.
        replace(_WINDOW, windows=1, window_days=15, repeats=False, requests=8000,
                ranker=RankerConfig(rounds=150, eta=0.08, max_depth=4, min_child_weight=50, pairs=20,
                                    groups=("source",)),
                sources=SourcesConfig(without=_ORDERED)),
        _shuffled,
    ),
    "sessions": Protocol(
        "sessions", _sessions_split,
        replace(_WINDOW, unit="event", windows=1, window_days=7, requests=30_000, negatives=0.35, depth=80,
                ranker=_BROAD, two_tower=TwoTowerConfig(epochs=8)),
    ),
}  # fmt: skip
