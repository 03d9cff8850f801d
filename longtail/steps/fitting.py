"""Raw data to a shop, features, two-tower, index, candidates and ranker."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from longtail.datasets.remote import fetching
from longtail.events import Shop
from longtail.steps.folders import Figures, end_of, fresh, load, read_proposals, say
from longtail.training import TrainingConfig, learn_blend, propose

if TYPE_CHECKING:
    import xgboost as xgb


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
