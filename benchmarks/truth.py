"""How near the lists of a simulated shop come to what people TRULY like, which no log of a real shop can tell.

    python -m benchmarks.truth --users 2000 --items 1000 --days 75 --events 300000 --seed 7 [--best-first]

With `--best-first` the logging policy shows what it likes best first, as shops do; without, an item's place says next
to nothing about taste, and there is no position bias that weights could correct. Each ranker is trained `--repeats`
times: intervals are over people, and know nothing of the luck of one training.

The gain of an item is the chance that its true utility turns a look into a click, over everything that is on sale in
the person's region when the log ends. All systems answer the same people; the same filter drops what cannot be bought.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from longtail.benchmark import known_key
from longtail.datasets.importing import simulate_shop
from longtail.datasets.simulated_world import Truth, available, true_utility
from longtail.datasets.simulator import SimulatorConfig
from longtail.evaluation.baselines import item_knn_lists, popular_lists, popularity
from longtail.evaluation.bootstrap import Interval, intervals, paired_difference
from longtail.events import Requests, Shop
from longtail.events.log import histories_before
from longtail.features.request import feature_list
from longtail.ranking.propensity import examination
from longtail.ranking.ranker import RankerConfig, train_ranker
from longtail.ranking.two_stage import recommend
from longtail.retrieval.base import CandidateSource
from longtail.steps.folders import end_of
from longtail.training import TrainingConfig, learn_blend, prepare, propose

KS = (10, 20)
LONG = 400  # lists before the filter: enough to fill 20 places from what is on sale
MAIN = "system"


@dataclass(frozen=True)
class Judge:
    """The chance of a click of every (person, item), float64 [B, I]; 0 for what is not on sale to the person."""

    gain: np.ndarray

    def buyable(self, lists: np.ndarray) -> np.ndarray:
        """Lists int64 [B, k] without what is not on sale, the rest moved up."""
        row = np.arange(len(lists))[:, None]
        keep = (lists >= 0) & (self.gain[row, np.maximum(lists, 0)] > 0)
        order = np.argsort(~keep, axis=1, kind="stable")
        return np.where(np.take_along_axis(keep, order, 1), np.take_along_axis(lists, order, 1), -1)

    def ndcg(self, lists: np.ndarray, k: int) -> np.ndarray:
        """Discounted gain of the first k over that of the best possible list, float64 [B]."""
        discount = 1 / np.log2(np.arange(2, 2 + k))
        lists = lists[:, :k]
        own = np.where(lists >= 0, self.gain[np.arange(len(lists))[:, None], np.maximum(lists, 0)], 0)
        best = -np.sort(-self.gain, axis=1)[:, :k]
        return (own @ discount[: lists.shape[1]]) / np.maximum(best @ discount[: best.shape[1]], 1e-12)


def judge_of(truth: Truth, shop: Shop, user_ids: np.ndarray, now: int) -> Judge:
    """The truth about the given people at `now` (microseconds), in the shop's item order."""
    person = pd.Index(truth.user_ids).get_indexer(pd.Index(user_ids))
    item = pd.Index(truth.item_ids).get_indexer(pd.Index(shop.catalogue.item_ids))
    want = true_utility(truth, person, item, now).astype(np.float64)
    on_sale = available(truth, person, now)[:, item] & shop.catalogue.frame["in_stock"].to_numpy(bool)
    return Judge(np.where(on_sale, 1 / (1 + np.exp(-1.5 * (want - 2.7))), 0.0))


def requests_at_end(shop: Shop, truth: Truth, limit: int, seed: int, history: int) -> Requests:
    """At most `limit` signed-in people with a history ask for a list just after the log ends."""
    positives = shop.log.positives
    known = np.isin(shop.user_ids.astype(str), truth.user_ids) & (np.diff(positives.indptr()) > 0)
    users = np.flatnonzero(known).astype(np.int32)
    if len(users) > limit:
        users = np.sort(np.random.default_rng(seed).choice(users, limit, replace=False))
    now = np.full(len(users), end_of(shop), np.int64)
    return Requests(now, users, shop.segment[users], histories_before(positives, users, now, last=history))


def systems(
    shop: Shop, config: TrainingConfig, requests: Requests, tower: Path | None, repeats: int, say: Callable[[str], None]
) -> dict[str, list[np.ndarray]]:
    """The lists of every system before the filter, int64 [B, LONG], of each training."""
    until = end_of(shop)
    positives = shop.log.positives
    data = prepare(shop, until, replace(config, propensity_weights=True))
    shared: list[CandidateSource] = []
    if tower is not None:
        from longtail.benchmark import train_tower

        shared = [train_tower(data, tower)]
    proposals = propose(data, shared, data.windows(), say)
    stage = data.stage(until, shared, learn_blend(proposals))
    features = feature_list(proposals.sources)
    lists = {"blend, unranked": [recommend(stage, None, requests, LONG)]}
    even = replace(proposals.rows, weight=np.ones_like(proposals.rows.weight))
    for name, rows in ((MAIN, proposals.rows), ("system, no propensity weights", even)):
        seeds = (config.seed + r for r in range(repeats))
        rankers = (train_ranker(rows, features, replace(config.ranker, seed=seed)) for seed in seeds)
        lists[name] = [recommend(stage, ranker, requests, LONG) for ranker in rankers]
        say(f"trained: {name}")
    lists["item-kNN"] = [item_knn_lists(positives, requests.history, LONG)]
    lists["popularity"] = [popular_lists(popularity(positives), len(requests), LONG)]
    return {MAIN: lists.pop(MAIN)} | lists


def examination_error(shop: Shop, truth: Truth) -> dict[str, list[float] | float]:
    """The examination curve that the log teaches, beside the true one."""
    learned = examination(shop.log)
    true = truth.examination[: len(learned)] / truth.examination[0]
    off = np.abs(learned - true)
    return {
        "learned": np.round(learned, 4).tolist(), "true": np.round(true, 4).tolist(),
        "mean_error": float(off.mean()), "largest_error": float(off.max()),
    }  # fmt: skip


def run(simulated: SimulatorConfig, config: TrainingConfig, limit: int, tower: bool, repeats: int) -> dict:
    """Simulate, train, judge; the figures as plain data."""
    started = time.perf_counter()

    def say(line: str) -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {line}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "shop"
        simulate_shop(folder, simulated, key_file=known_key(Path(scratch)))
        shop, truth = Shop.load(folder), Truth.load(folder / "truth")
        say(f"{len(shop.log):,} events, {shop.log.n_users:,} people, {shop.log.n_items:,} items")
        requests = requests_at_end(shop, truth, limit, simulated.seed, config.history)
        lists = systems(shop, config, requests, Path(scratch) / "tower" if tower else None, repeats, say)
        judge = judge_of(truth, shop, shop.user_ids[requests.user].astype(str), end_of(shop))
        curve = examination_error(shop, truth)
    cases = {
        name: {k: np.mean([judge.ndcg(judge.buyable(one), k) for one in found], axis=0) for k in KS}
        for name, found in lists.items()
    }  # fmt: skip
    figures = {
        name: {
            f"ndcg@{k}": asdict(intervals(found[k])[0]) for k in KS
        } | {f"system minus it @{k}": asdict(paired_difference(cases[MAIN][k], found[k])) for k in KS if name != MAIN}
        for name, found in cases.items()
    }  # fmt: skip
    return {
        "seed": simulated.seed, "best first": simulated.best_first, "trainings": repeats, "events": len(shop.log),
        "people judged": len(requests), "systems": figures, "examination": curve,
        "seconds": round(time.perf_counter() - started),
    }  # fmt: skip


def table(figures: dict) -> str:
    """The figures as a Markdown table."""
    rows = [
        "| system | ndcg@10 | ndcg@20 | system minus it, ndcg@10 | system minus it, ndcg@20 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, found in figures["systems"].items():
        cells = [_cell(found.get(key)) for key in ("ndcg@10", "ndcg@20")]
        cells += [_cell(found.get(f"system minus it @{k}"), "+") for k in KS]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    curve = figures["examination"]
    rows += ["", f"examination: mean error {curve['mean_error']:.4f}, largest {curve['largest_error']:.4f}"]
    return "\n".join(rows)


def _cell(found: dict | None, sign: str = "") -> str:
    if found is None:
        return "-"
    i = Interval(**found)
    return f"{i.mean:{sign}.4f} ({i.low:{sign}.4f} .. {i.high:{sign}.4f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--days", type=int, default=75)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--requests", type=int, default=1500, help="training requests of a window, at most")
    parser.add_argument("--judged", type=int, default=2000, help="people who are asked, at most")
    parser.add_argument("--objective", default="conversion")
    parser.add_argument("--two-tower", action="store_true")
    parser.add_argument("--best-first", action="store_true")
    parser.add_argument("--repeats", type=int, default=1, help="trainings of each ranker")
    parser.add_argument("--rounds", type=int, default=RankerConfig().rounds, help="trees of a ranker")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    simulated = SimulatorConfig(
        given.users, given.items, given.days, given.events, given.seed, best_first=given.best_first
    )
    config = TrainingConfig(
        windows=given.windows,
        requests=given.requests,
        objective=given.objective,
        seed=given.seed,
        ranker=RankerConfig(rounds=given.rounds),
    )
    figures = run(simulated, config, given.judged, given.two_tower, given.repeats)
    print(table(figures))
    if given.out:
        given.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
