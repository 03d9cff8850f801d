"""The steps of a training run: each reads folders, writes one folder and returns its figures.

The pipeline's components call these and nothing else. A step writes into a folder that it may find half-filled by a run
that was killed: it starts over, except the two-tower, which goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from longtail.champion import WARM, champion_lists
from longtail.datasets.remote import fetching
from longtail.errors import InvalidInput
from longtail.evaluation.gate import Finding, GateConfig, fallen, slices, within
from longtail.events import Requests, Shop
from longtail.ranking.returns import return_rates
from longtail.training import Proposals, TrainingConfig, TrainingSet, learn_blend, prepare, propose

if TYPE_CHECKING:
    import xgboost as xgb

    from longtail.evaluation.bias import BiasReport
    from longtail.evaluation.frontier import Frontier
    from longtail.evaluation.metrics import Truth
    from longtail.ranking.two_stage import Stage
    from longtail.registry import Registry

Figures = dict[str, Any]
VERDICT = "verdict.json"
SLICES = "slices.npz"  # of each case the deciding metric, by part of people and items
RANKED = 500  # candidates that are scored to time the ranker
JUDGED = 3_000  # requests of the newest window that the evaluation answers
REFERENCED, PLACES = 2_000, 10  # requests and places whose features monitoring compares with
REFERENCE = "reference"


def say(line: str) -> None:
    """A line of progress; a step's output is its log."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@fetching("source", "mapping")
def ingest(
    reader: str, source: str, out: Path, key_file: str = "", mapping: str = "", max_bad_share: float = 0.05
) -> Figures:
    """Raw events to an imported shop; the reader `shop` takes a folder that is one already."""
    from longtail.datasets.importing import import_shop

    if reader == "shop":
        Shop.load(source)
        with fresh(out) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("truth"))
        return json.loads((out / "import.json").read_text())
    keys = Path(key_file) if key_file else None
    shutil.rmtree(out, ignore_errors=True)
    return import_shop(
        reader, Path(source), out, key_file=keys, mapping=Path(mapping) if mapping else None,
        max_bad_share=max_bad_share, progress=lambda what, done, _: None if done else say(what),
    )  # fmt: skip


def build_features(shop: Path, out: Path, config: TrainingConfig) -> Figures:
    """Daily snapshots of the last training window, as Feast reads them."""
    from longtail.features.batch import snapshots
    from longtail.features.offline import write_snapshots
    from longtail.schema import DAY_US

    loaded = Shop.load(shop)
    until = end_of(loaded)
    first = int(loaded.log.time.min())
    days = [until - d * DAY_US for d in range(config.window_days + 1) if until - d * DAY_US > first] or [until]
    taken = snapshots(loaded.log, loaded.catalogue, days)
    with fresh(out) as folder:
        write_snapshots(taken, folder, loaded.user_ids, loaded.catalogue)
    say(f"{len(days)} daily snapshots of {loaded.log.n_users} users and {loaded.log.n_items} items")
    return {"days": len(days), "users": loaded.log.n_users, "items": loaded.log.n_items}


def train_two_tower(shop: Path, out: Path, config: TrainingConfig) -> Figures:
    """The two-tower, trained on what lies before the first training window."""
    from longtail.retrieval.two_tower_training import train_two_tower as train

    data = load(shop, config)
    past, importance = data.past(data.stamps[-1])
    names = data.shop.segments.tolist()
    figures = train(
        past, data.shop.catalogue, data.shop.segment, config.two_tower, out, config.seed, names, importance=importance
    )
    if figures:  # of several processes, the first one tells
        say(f"two-tower: {figures['epochs']} epochs, validation ndcg {figures['validation_ndcg']:.4f}")
    return figures


def build_index(tower: Path, out: Path, config: TrainingConfig) -> Figures:
    """The FAISS index over the item vectors, its recall measured against brute force."""
    from longtail.retrieval.index import VectorIndex

    with fresh(out) as folder:
        shutil.copytree(tower, folder, dirs_exist_ok=True)
        vectors = np.load(folder / "item_vectors.npy")
        index = VectorIndex.build(vectors, kind=config.two_tower.index_kind, seed=config.seed)
        index.save(folder)
    say(f"{index.figures.kind} index of {len(vectors)} items, recall@100 {index.figures.recall_at_100:.3f}")
    return asdict(index.figures)


def build_candidates(shop: Path, index: Path, out: Path, config: TrainingConfig) -> Figures:
    """Past requests with what retrieval would have proposed then (`training.npz`), and today's sources (`retrieval/`).

    The newest window is left to the evaluation, unless it is the only one.
    """
    from longtail.retrieval.two_tower import TwoTower

    data = load(shop, config)
    shared = [TwoTower.load(index)]
    windows = data.windows(skip=1) or data.windows()
    if not windows:
        raise InvalidInput("the log is too short for a training window: import a longer log, or shorten window_days")
    if len(data.windows()) == 1:
        say("only one window fits into the log: the ranker learns from what it is judged by, so its figures flatter it")
    proposals = propose(data, list(shared), windows, say)
    blend = learn_blend(proposals)
    stage = data.stage(data.until, list(shared), blend)
    with fresh(out) as folder:
        stage.retriever.save(folder / "retrieval")
        np.savez(folder / "training.npz", **asdict(proposals.rows), scores=proposals.scores, ranks=proposals.ranks)
        about = {"sources": proposals.sources, "recall": proposals.recall, "windows": windows}
        (folder / "about.json").write_text(json.dumps(about))
    return {
        "requests": len(proposals.rows.sizes),
        "rows": len(proposals.rows.gain),
        "candidate_recall": proposals.recall,
    }


def train_ranker(candidates: Path, out: Path, config: TrainingConfig) -> Figures:
    """LambdaMART over the proposed candidates, as a Triton model repository."""
    from longtail.features.request import feature_list
    from longtail.ranking.ranker import train_ranker as train

    proposals = read_proposals(candidates)
    features = feature_list(proposals.sources)
    write_ranker(train(proposals.rows, features, config.ranker), proposals.sources, out)
    say(f"ranker: {config.ranker.rounds} trees over {len(features)} features, {len(proposals.rows.gain)} rows")
    return {"trees": config.ranker.rounds, "features": len(features), "rows": len(proposals.rows.gain)}


def write_ranker(booster: xgb.Booster, sources: list[str], out: Path) -> None:
    """The booster as a Triton model repository, its features and what it looks at, into the folder `out`."""
    from longtail.engine.ranker_repository import write_repository
    from longtail.features.request import feature_list

    features = feature_list(sources)
    gain = booster.get_score(importance_type="total_gain")
    importance = {name: value / sum(gain.values()) for name, value in gain.items()}
    with fresh(out) as folder:
        booster.save_model(folder / "booster.ubj")
        write_repository(folder / "booster.ubj", len(features), folder / "ranker")
        (folder / "features.json").write_text(json.dumps([asdict(f) for f in features], indent=1))
        (folder / "importance.json").write_text(json.dumps(importance, indent=1))


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
    parts = _slices(data, requests, truth, popularity, shop, lists["longtail"])
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


def _slices(
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


@fetching("surfaces", "impressions")
def off_policy(
    shop: Path, features: Path, candidates: Path, ranker: Path, evaluation: Path, out: Path, registry: str,
    config: TrainingConfig, surfaces: str = "", impressions: str = "", margin: float = 0.05,
) -> Figures:  # fmt: skip
    """Whether this run's bundle may get traffic, by the champion's impression log; writes `verdict.json`.

    Both re-rank the logged candidates by the champion's surfaces, so that they explore alike. A bundle that the log
    cannot judge is held back; without a log or a champion everything passes.
    """
    from longtail.registry import Registry

    champion = Registry(registry).champion()
    if not impressions or champion is None:
        lacks = (
            "no impression log was given" if not impressions else "there is no champion that could have written a log"
        )
        verdict: Figures = {"passed": True, "reason": f"{lacks}: nothing was estimated"}
    else:
        from longtail.offpolicy.gate import judge_bundles

        loaded, figures = Shop.load(shop), json.loads((evaluation / "figures.json").read_text())
        about = json.loads((shop / "import.json").read_text())
        with tempfile.TemporaryDirectory() as scratch:
            bundle = Path(scratch) / "bundle"
            write_bundle(loaded, about, features, candidates, ranker, evaluation, bundle, figures, config, surfaces)
            verdict = judge_bundles(
                Path(impressions),
                shop,
                Registry(registry).resolve(champion.number),
                bundle,
                margin,
                config.seed,
                Path(surfaces) if surfaces else None,
            )
    with fresh(out) as folder:
        (folder / VERDICT).write_text(json.dumps(verdict, indent=1))
    say(verdict["reason"])
    return {"passed": verdict["passed"], "reason": verdict["reason"]}


@fetching("surfaces")
def register(
    shop: Path, features: Path, index: Path, candidates: Path, ranker: Path, evaluation: Path, out: Path,
    registry: str, config: TrainingConfig, surfaces: str = "", metric: str = "ndcg@10", margin: float = 0.0,
    verdict: Path | None = None, gate: GateConfig | None = None,
) -> Figures:  # fmt: skip
    """Put the bundle together and register it; the gate decides which role it takes, and why is kept with the version.

    It becomes champion if it beats the champion by `margin` on the same requests (or, where `gate` says so, is not
    worse). What was judged by a window that the ranker had learned from beats nobody. It takes no role at all where
    the `verdict` of `off_policy` holds it back, a part of the people or items surely loses, the ranker is too slow or
    the bundle too large.
    """
    from longtail.evaluation.system import Report
    from longtail.registry import Registry
    from longtail.surfaces import Surfaces

    if surfaces:
        Surfaces.load(Path(surfaces))
    loaded = Shop.load(shop)
    about = json.loads((shop / "import.json").read_text()) | {"fingerprint": fingerprint(shop)}
    figures = json.loads((evaluation / "figures.json").read_text())
    shutil.rmtree(out, ignore_errors=True)
    manifest, card = write_bundle(
        loaded, about, features, candidates, ranker, evaluation, out, figures, config, surfaces
    )
    kept = (index / "weights.pt", candidates / "about.json", evaluation / SLICES)
    warm = [path for path in kept if path.is_file()]
    judged: Figures = {"passed": True} if verdict is None else json.loads((verdict / VERDICT).read_text())
    gate = gate or GateConfig()
    findings = [Finding("off_policy", judged["passed"], judged["reason"])] if verdict is not None else []
    findings += _limits(ranker, out, gate)
    compared, against = _against_champion(shop, evaluation, Registry(registry), config, gate, figures, metric)
    version = Registry(registry).register(
        out, figures, {"config": json.dumps(asdict(config))}, card, manifest.data_fingerprint, metric=metric,
        margin=margin, cases=np.load(evaluation / "cases.npy"),
        unseen=Report.from_json((evaluation / "report.json").read_text()).unseen,
        findings=[*findings, *compared], against=against, gate=gate, kept={WARM: warm} if warm else None,
    )  # fmt: skip
    say(f"version {version.number}, {version.decision}")
    return {"version": version.number, "aliases": list(version.aliases), "bundle": manifest.version}


def _limits(ranker: Path, bundle: Path, gate: GateConfig) -> list[Finding]:
    """The ranker's time and the bundle's size against their limits."""
    import time

    import xgboost as xgb

    from longtail.ranking.forest import Forest

    booster = xgb.Booster(model_file=ranker / "booster.ubj")
    booster.set_param({"nthread": 1})
    forest = Forest.of(booster)
    score: Any = booster.inplace_predict if forest is None else forest.scores
    rows = np.random.default_rng(0).standard_normal((RANKED, booster.num_features())).astype(np.float32)
    score(rows)  # what is compiled at the first call is no part of a request
    spent = []
    for _ in range(20):
        began = time.thread_time()
        score(rows)
        spent.append(time.thread_time() - began)
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    return [
        within("latency", 1000 * float(np.median(spent)), gate.latency_ms, "ms", f"{RANKED} candidates are scored in"),
        within("size", size / 1e6, gate.bundle_mb, "MB", "the bundle has"),
    ]


def _against_champion(
    shop: Path, evaluation: Path, registry: Registry, config: TrainingConfig, gate: GateConfig, figures: Figures,
    metric: str,
) -> tuple[list[Finding], np.ndarray | None]:  # fmt: skip
    """What the gate finds beside the champion, and the champion's `metric` of each judged request, None if unknown."""
    from longtail.evaluation import baselines
    from longtail.evaluation.metrics import Truth

    champion = registry.champion()
    if champion is None or not (evaluation / SLICES).is_file():
        return [], None
    with np.load(evaluation / SLICES) as stored:
        ours = dict(zip(stored["names"].tolist(), stored["values"], strict=True))
    findings = []
    if champion.data_fingerprint != fingerprint(shop):
        if champion.metric == metric:
            findings.append(fallen(figures[metric], champion.value, gate, metric))
    elif (past := registry.kept(champion.number, WARM)) is not None and (past / SLICES).is_file():
        # It was judged on this very data: what it reached then need not be worked out again.
        with np.load(past / SLICES) as stored:
            theirs = dict(zip(stored["names"].tolist(), stored["values"], strict=True))
        if metric == "ndcg@10" and theirs["overall"].shape == ours["overall"].shape:
            return [slices(ours, theirs, gate, metric)], theirs["overall"]
    if metric != "ndcg@10":
        return findings, None
    data = load(shop, config)
    start, stop = data.windows()[0]
    requests, wanted = data.requests(start, stop, limit=JUDGED)
    try:
        if len(requests) != len(ours["overall"]):
            raise InvalidInput("the evaluation is of other requests than this shop's newest window")
        lists = champion_lists(data, (start, stop), requests, registry, champion.number, 10)
    except InvalidInput as error:
        why = f"version {champion.number} could not be judged on the same requests: {error}"
        return [*findings, Finding("slices", True, why)], None
    popularity = baselines.popularity(data.positives.before(start))
    theirs = _slices(data, requests, Truth(wanted.indptr, wanted.item, wanted.gain), popularity, shop, lists)
    return [*findings, slices(ours, theirs, gate, metric)], theirs["overall"]


def monitor(log: str, state: str, registry: str, day: str, watch: str, out: Path) -> Figures:
    """Check a day of what the champion's servers wrote; `state` keeps the history, `out` gets the report."""
    from longtail.monitoring.config import Watch
    from longtail.monitoring.log import yesterday
    from longtail.monitoring.report import sentence
    from longtail.monitoring.run import monitor as run
    from longtail.registry import Registry

    bundle = Registry(registry).resolve("champion")
    signals = run(log, bundle, state, [day or yesterday()], Watch.load(watch or None))
    with fresh(out) as folder:
        for name in ("report.html", "report.json", "monitor.prom"):
            shutil.copyfile(Path(state) / name, folder / name)
    say(sentence(signals))
    critical = sorted({s.name for s in signals if s.fired and s.severity == "critical"})
    return {"sentence": sentence(signals), "critical": critical, "fired": sum(s.fired for s in signals)}


def write_bundle(
    shop: Shop, about: Figures, features: Path, candidates: Path, ranker: Path, evaluation: Path, out: Path,
    figures: Figures, config: TrainingConfig, surfaces: str,
) -> tuple[Any, str]:  # fmt: skip
    """Everything that serving needs, in one immutable folder; returns its manifest and its model card."""
    from longtail.engine.bundle import publishing, write_manifest
    from longtail.engine.online import write_people
    from longtail.engine.parts import SURFACES_FILE, write_catalogue, write_fallback
    from longtail.evaluation.card import card_page
    from longtail.features.batch import snapshots
    from longtail.features.offline import USER_CATEGORY_FILE, USER_FILE
    from longtail.retrieval.content import content_matrix
    from longtail.retrieval.lists import popular, popular_in_segment

    until = end_of(shop)
    item = snapshots(shop.log, shop.catalogue, [until]).item(until)
    positives = shop.log.positives
    catalogue = shop.catalogue.with_return_rate(return_rates(shop.log, shop.catalogue.category))
    everyone = popular(positives, until, 30.0, "popular", "")
    segments = popular_in_segment(positives, shop.segment, len(shop.segments), until, "segment", "")
    with publishing(out) as folder:
        write_catalogue(folder, catalogue, item, until, content_matrix(catalogue))
        shutil.copytree(candidates / "retrieval", folder / "retrieval")
        shutil.copytree(ranker / "ranker", folder / "ranker")
        shutil.copyfile(ranker / "features.json", folder / "ranker" / "features.json")
        shutil.copytree(evaluation, folder / "evaluation", ignore=shutil.ignore_patterns(SLICES, REFERENCE))
        if (evaluation / REFERENCE).is_dir():
            shutil.copytree(evaluation / REFERENCE, folder / REFERENCE)
        by_segment = {str(n): segments.best(s + 1)[:200] for s, n in enumerate(shop.segments)}
        write_fallback(folder, shop.catalogue.item_ids, everyone.best(0)[:500], by_segment)
        write_people(folder, shop.log, shop.user_ids, shop.segment, shop.segments, config.history)
        for name in (USER_FILE, USER_CATEGORY_FILE):
            shutil.copyfile(features / name, folder / name)
        if surfaces:
            shutil.copyfile(surfaces, folder / SURFACES_FILE)
        card, told = _card(folder, shop, about, config)
        (folder / "MODEL_CARD.md").write_text(card)
        (folder / "MODEL_CARD.html").write_text(card_page(card, "Model card"))
        (folder / "model_card.json").write_text(told)
        manifest = write_manifest(folder, figures, str(about.get("fingerprint", "")))
    return manifest, card


def _card(folder: Path, shop: Shop, about: Figures, config: TrainingConfig) -> tuple[str, str]:
    """The model card as Markdown, and as JSON."""
    from longtail.evaluation.bias import BiasReport
    from longtail.evaluation.card import Data, Training, card_data, model_card
    from longtail.evaluation.system import Report
    from longtail.features.request import feature_list, schema_hash

    report = Report.from_json((folder / "evaluation" / "report.json").read_text())
    names = [s["name"] for s in json.loads((folder / "retrieval" / "config.json").read_text())["sources"]]
    first, last = (str(np.datetime64(int(t), "us"))[:19] for t in (shop.log.time.min(), shop.log.time.max()))
    data = Data(str(about.get("reader", "shop")), str(about.get("fingerprint", "")), len(shop.log), shop.log.n_users,
                shop.log.n_items, first, last)  # fmt: skip
    params = {k: v for k, v in asdict(config).items() if k == "objective" or not isinstance(v, dict)}
    training = Training(params, names, len(feature_list(names)), schema_hash(names), seed=config.seed)
    bias = folder / "evaluation" / "bias.json"
    found = BiasReport.from_json(bias.read_text()) if bias.is_file() else None
    about_it = (last, last, report, data, training, found)
    return model_card(*about_it), card_data(*about_it)


def _evenly(n: int, most: int) -> np.ndarray:
    """bool [n]: at most so many of n, spread evenly."""
    out = np.zeros(n, bool)
    out[np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))] = True
    return out


def end_of(shop: Shop) -> int:
    """Just after the newest event, microseconds."""
    return int(shop.log.time.max()) + 1


def fingerprint(shop: Path) -> str:
    """Identifies the events and items of an imported shop: equal data, equal fingerprint."""
    digest = hashlib.sha256()
    for name in ("events.parquet", "items.parquet"):
        with (shop / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def load(shop: Path, config: TrainingConfig) -> TrainingSet:
    """The training set of an imported shop; its windows end with the log."""
    loaded = Shop.load(shop)
    return prepare(loaded, end_of(loaded), config)


def learned_windows(candidates: Path) -> list[tuple[int, int]]:
    """(start, stop) microseconds of the windows that the ranker learns from, as `build_candidates` chose them."""
    about = json.loads((candidates / "about.json").read_text())
    return [(int(start), int(stop)) for start, stop in about["windows"]]


def read_proposals(candidates: Path) -> Proposals:
    """What `build_candidates` wrote."""
    from longtail.ranking.ranker import TrainingRows

    about = json.loads((candidates / "about.json").read_text())
    with np.load(candidates / "training.npz") as stored:
        rows = TrainingRows(*(stored[name] for name in ("features", "gain", "sizes", "weight")))
        return Proposals(rows, stored["scores"], stored["ranks"], about["sources"], about["recall"])


@contextmanager
def fresh(out: Path) -> Iterator[Path]:
    """A folder to fill beside `out`, put in its place at the end."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.parent / f".{out.name}.{os.getpid()}.part"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        shutil.rmtree(out, ignore_errors=True)
        os.rename(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
