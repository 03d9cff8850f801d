"""How good the trained parts are on the newest window, and what monitoring will compare with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from longtail.errors import InvalidInput
from longtail.events import Requests, Shop
from longtail.ranking.returns import return_rates
from longtail.steps.folders import JUDGED, REFERENCE, SLICES, Figures, fresh, learned_windows, load, say
from longtail.training import TrainingConfig, TrainingSet

if TYPE_CHECKING:
    import xgboost as xgb

    from longtail.evaluation.bias import BiasReport
    from longtail.evaluation.frontier import Frontier
    from longtail.evaluation.metrics import Truth
    from longtail.ranking.two_stage import Stage

REFERENCED, PLACES = 2_000, 10  # requests and places whose features monitoring compares with


def evaluate(shop: Path, index: Path, candidates: Path, ranker: Path, out: Path, config: TrainingConfig) -> Figures:
    """Judge both stages as one system on the newest window, which neither the sources nor the ranker saw.

    A log with room for one window only is the exception: the ranker saw that one, and the report says so.
    """
    import xgboost as xgb

    from longtail.evaluation import baselines
    from longtail.evaluation.bias import write_bias
    from longtail.evaluation.metrics import Truth, per_case
    from longtail.evaluation.report import write_report
    from longtail.evaluation.system import judge
    from longtail.monitoring.reference import write_reference
    from longtail.ranking.two_stage import recommend, recommend_shown, source_lists
    from longtail.retrieval.blend import Blend
    from longtail.retrieval.two_tower import TwoTower

    data = load(shop, config)
    start, stop = data.windows()[0]
    stage = data.stage(start, [TwoTower.load(index)], Blend.load(candidates / "retrieval" / "blend.json"))
    requests, wanted = data.requests(start, stop, limit=JUDGED)
    if not len(requests):
        raise InvalidInput("nobody wanted anything in the newest window: nothing can be judged, import a longer log")
    booster = xgb.Booster(model_file=ranker / "booster.ubj")
    known = data.positives.before(start)
    popularity = baselines.popularity(known)
    had = None if config.repeats else requests.history
    unseen = not any(a < stop and start < b for a, b in learned_windows(candidates))
    k = 20
    longtail, shown = recommend_shown(stage, booster, requests, k, _evenly(len(requests), REFERENCED), PLACES)
    lists = {
        "longtail": longtail,
        "unranked blend": recommend(stage, None, requests, k),
        "popular": baselines.popular_lists(popularity, len(requests), k, had),
        "repeats": baselines.repeat_lists(requests.history, k),
        "item-kNN": baselines.item_knn_lists(known, requests.history, k, exclude_history=not config.repeats),
    }
    alone = source_lists(stage, requests, k)
    roles: dict[str, Any] = dict.fromkeys(list(lists)[1:], "baseline") | {f"source {n}": "source" for n in alone}
    lists |= {f"source {name}": found for name, found in alone.items()}
    truth = Truth(wanted.indptr, wanted.item, wanted.gain)
    report = judge(
        lists, truth, main="longtail", n_items=len(data.shop.catalogue), item_popularity=popularity,
        cold_user=requests.history.lengths == 0, groups=data.shop.catalogue.category, roles=roles,
        importance=json.loads((ranker / "importance.json").read_text()), unseen=unseen, seed=config.seed,
    )  # fmt: skip
    parts = sliced(data, requests, truth, popularity, shop, lists["longtail"])
    report = replace(report, frontiers=_frontiers(data, stage, booster, start, stop))
    cases = per_case(lists["longtail"], truth, (10, 20))
    # What is judged is left out of learning: a ranker is as old as the end of the window behind its last.
    learned = min(max(b for _, b in learned_windows(candidates)) + stop - start, data.until)
    with fresh(out) as folder:
        write_report(report, folder, title="How well does it recommend?")
        write_reference(
            folder / REFERENCE, shop, shown, longtail[:, :PLACES], data.shop.catalogue, stage.retriever.names,
            data.until, start, learned,
        )  # fmt: skip
        np.save(folder / "cases.npy", cases["ndcg@10"])
        write_bias(_bias(data, start, lists["longtail"], parts), folder)
        np.savez(folder / SLICES, names=np.array(list(parts), str), values=np.stack(list(parts.values())))
        (folder / "figures.json").write_text(json.dumps(report.figures(), indent=1))
    say(f"ndcg@10 {report.figures()['ndcg@10']:.4f} on {len(requests)} requests of the newest window"
        + ("" if unseen else ", which the ranker learned from"))  # fmt: skip
    return report.figures()


def sliced(
    data: TrainingSet, requests: Requests, truth: Truth, popularity: np.ndarray, shop: Path, lists: np.ndarray
) -> dict[str, np.ndarray]:  # fmt: skip
    """The deciding metric of each case by part of people and items, float64 [B], NaN outside of it."""
    from longtail.evaluation.segments import slice_cases, user_segments

    device, devices = devices_of(shop, data.shop)
    segments = user_segments(
        requests.history.lengths, requests.segment, data.shop.segments.tolist(),
        np.where(requests.user >= 0, device[requests.user], -1), devices,
    )  # fmt: skip
    return slice_cases(lists, truth, popularity, requests.history.lengths == 0, segments, "ndcg@10")


def _bias(data: TrainingSet, start: int, lists: np.ndarray, parts: dict[str, np.ndarray]) -> BiasReport:
    """Who is shown in the judged lists, against the catalogue and what people bought before them (or else chose)."""
    from longtail.evaluation.bias import bias_report, item_groups
    from longtail.schema import EVENT_CODE

    known = data.positives.before(start)
    bought = known.item[known.kind == EVENT_CODE["purchase"]]
    chosen = np.bincount(bought if len(bought) else known.item, minlength=known.n_items)
    chose = "what people bought before" if len(bought) else "what people chose before"
    groups = item_groups(data.shop.catalogue, chosen, start)
    return bias_report(lists, chosen, groups, parts, "ndcg@10", chose, seed=data.config.seed)


def devices_of(folder: Path, shop: Shop) -> tuple[np.ndarray, list[str]]:
    """The device int [n_users] that each person was last seen with, -1 unknown, and the names."""
    import pandas as pd
    import pyarrow.parquet as pq

    unknown = np.full(len(shop.user_ids), -1)
    if "device" not in pq.read_schema(folder / "events.parquet").names:
        return unknown, []
    table = pd.read_parquet(folder / "events.parquet", columns=["user_id", "device"]).dropna()
    last = table.groupby("user_id", sort=False, observed=True)["device"].last()  # events lie by time
    codes, names = pd.factorize(last.astype(object), sort=True)
    place = pd.Index(last.index.astype(object)).get_indexer(shop.user_ids)
    return np.where(place >= 0, codes[np.maximum(place, 0)], -1) if len(codes) else unknown, list(map(str, names))


def _frontiers(data: TrainingSet, stage: Stage, booster: xgb.Booster, start: int, stop: int) -> list[Frontier]:
    """What each goal of money brings and costs on the window that is judged, where the catalogue knows the money."""
    from longtail.evaluation.frontier import SHARES, frontier
    from longtail.evaluation.metrics import Truth
    from longtail.ranking.objective import MONEY, gains, money
    from longtail.ranking.two_stage import recommend_tilted
    from longtail.reranking.binding import tilt

    shop, past = data.shop, data.shop.log.before(start)
    items = shop.catalogue.with_return_rate(return_rates(past, shop.catalogue.category))
    nothing = np.full(len(items), np.nan)
    converted = gains(data.positives, "conversion", nothing, nothing)
    requests, wanted = replace(data, gain=converted).requests(start, stop, limit=JUDGED)
    brings = {goal: money(goal, items.price, items.margin, items.return_rate) for goal in MONEY}
    brings = {goal: each for goal, each in brings.items() if np.nansum(each) > 0}
    if not items.return_rate.any():
        brings.pop("net_revenue", None)
    mixes = [(goal, share) for goal in brings for share in SHARES]
    tilts = [tilt({"conversion": 1 - share, goal: share}, 1.0, items) for goal, share in mixes]
    lists = dict(zip(mixes, recommend_tilted(stage, booster, requests, 10, tilts), strict=True))
    truth = Truth(wanted.indptr, wanted.item, wanted.gain)
    return [
        frontier(goal, {share: lists[goal, share] for share in SHARES}, truth, each, seed=data.config.seed)
        for goal, each in brings.items()
    ]


def _evenly(n: int, most: int) -> np.ndarray:
    """bool [n]: at most so many of n, spread evenly."""
    out = np.zeros(n, bool)
    out[np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))] = True
    return out
