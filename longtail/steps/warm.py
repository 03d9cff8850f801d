"""The steps of a training that goes on from the champion: `refresh` and `incremental`, where `full` starts anew.

A refresh keeps the two-tower's weights, the ranker and the blend, and fits everything that follows the data to it:
neighbour tables, lists, item vectors and index, item and user features, people. An incremental training lets the
two-tower go on for few epochs on what is new, proposes candidates for few new windows, and grows trees on top of the
champion's. Both write what the steps of a training in full write, so that evaluation, off-policy check, bundle and gate
are the same.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from longtail.champion import ABOUT, WARM
from longtail.errors import InvalidInput
from longtail.steps.fitting import write_ranker
from longtail.steps.folders import Figures, fresh, load, read_proposals, say
from longtail.training import Proposals, TrainingConfig, TrainingSet, learn_blend, propose

Action = Literal["refresh", "incremental"]
BOOSTER, BLEND = "booster.ubj", "blend.json"


def fetch_champion(registry: str, out: Path) -> Figures:
    """What a warm start needs of the registry's champion: ranker, blend, two-tower weights, and its windows.

    Raises:
        InvalidInput: there is no champion, or it was trained by a version that kept no weights.
    """
    from longtail.engine.bundle import ranker_name, sources_of
    from longtail.engine.ranker_repository import BOOSTER_FILE
    from longtail.registry import Registry

    found = Registry(registry)
    champion = found.champion()
    if champion is None:
        raise InvalidInput(f"the registry {registry} has no champion to go on from: train in full first")
    bundle, warm = found.resolve(champion.number), found.kept(champion.number, WARM)
    if warm is None:
        raise InvalidInput(f"version {champion.number} was registered without weights to go on from: train in full")
    with fresh(out) as folder:
        shutil.copytree(warm, folder, dirs_exist_ok=True)
        shutil.copyfile(bundle / "ranker" / ranker_name(bundle) / "1" / BOOSTER_FILE, folder / BOOSTER)
        shutil.copyfile(bundle / "retrieval" / BLEND, folder / BLEND)
        about = json.loads((folder / ABOUT).read_text())
        about |= {"sources": [s["name"] for s in sources_of(bundle)], "version": champion.number}
        (folder / ABOUT).write_text(json.dumps(about))
    say(f"goes on from version {champion.number}")
    return {"version": champion.number}


def warm_two_tower(shop: Path, champion: Path, out: Path, config: TrainingConfig, action: str) -> Figures:
    """The champion's two-tower on this catalogue; an incremental training learns from what happened since.

    Raises:
        InvalidInput: the champion's has other sizes than the configuration asks for, or the log is too short.
    """
    from longtail.retrieval.two_tower_training import train_two_tower as train
    from longtail.retrieval.two_tower_warm import WarmStart

    settings, warm = _settings(config, _checked(action)), WarmStart.load(champion)
    data = _data(shop, settings, action)
    past, importance = data.past(data.stamps[-1])
    more = settings.incremental
    epochs = more.tower_epochs if action == "incremental" else 0
    tower = replace(settings.two_tower, epochs=epochs, learning_rate=settings.two_tower.learning_rate * more.tower_rate)
    names = data.shop.segments.tolist()
    figures = train(past, data.shop.catalogue, data.shop.segment, tower, out, settings.seed, names, warm, importance)
    if not epochs:
        say(f"two-tower: the champion's, for {figures['items']} items")
    else:
        say(f"two-tower: {figures['epochs']} epochs more, validation ndcg {figures['validation_ndcg']:.4f}")
    return figures


def warm_candidates(
    shop: Path, champion: Path, index: Path, out: Path, config: TrainingConfig, action: str
) -> Figures:  # fmt: skip
    """Today's sources (`retrieval/`), and for an incremental training the newest windows to learn from.

    Raises:
        InvalidInput: the shop has other sources than the champion's ranker reads, or too short a log.
    """
    from longtail.retrieval.blend import Blend
    from longtail.retrieval.two_tower import TwoTower

    settings, about = _settings(config, _checked(action)), json.loads((champion / ABOUT).read_text())
    data = _data(shop, settings, action)
    shared = [TwoTower.load(index)]
    proposals: Proposals | None = None
    learned, blend = [], Blend.load(champion / BLEND)
    if action == "incremental":
        learned = data.windows(skip=1)[: settings.incremental.windows]
        proposals = propose(data, list(shared), learned, say)
        blend = learn_blend(proposals)
    stage = data.stage(data.until, list(shared), blend)
    if stage.retriever.names != about["sources"]:
        raise InvalidInput(
            f"the ranker of version {about['version']} reads the sources {', '.join(about['sources'])} and this shop "
            f"has {', '.join(stage.retriever.names)}: train in full"
        )
    windows = [tuple(w) for w in about["windows"]]
    with fresh(out) as folder:
        stage.retriever.save(folder / "retrieval")
        found = {"sources": about["sources"], "windows": windows + [w for w in learned if w not in windows]}
        if proposals is not None:
            np.savez(folder / "training.npz", **asdict(proposals.rows), scores=proposals.scores, ranks=proposals.ranks)
            found["recall"] = proposals.recall
        (folder / ABOUT).write_text(json.dumps(found))
    if proposals is None:
        say(f"{len(about['sources'])} sources fitted anew")
        return {"sources": len(about["sources"])}
    return {
        "requests": len(proposals.rows.sizes),
        "rows": len(proposals.rows.gain),
        "candidate_recall": proposals.recall,
    }


def warm_ranker(champion: Path, candidates: Path, out: Path, config: TrainingConfig, action: str) -> Figures:
    """The champion's ranker; an incremental training adds trees, or grows all anew once they are too many."""
    import xgboost as xgb

    from longtail.features.request import feature_list
    from longtail.ranking.ranker import train_ranker as train

    settings = _settings(config, _checked(action))
    sources = json.loads((candidates / ABOUT).read_text())["sources"]
    booster = xgb.Booster(model_file=champion / BOOSTER)
    before = booster.num_boosted_rounds()
    features = feature_list(sources)
    if action == "incremental":
        more = settings.incremental
        rows = read_proposals(candidates).rows
        if before + more.rounds > more.most_rounds:
            before, booster = 0, train(rows, features, settings.ranker)
        else:
            booster = train(rows, features, replace(settings.ranker, rounds=more.rounds), booster)
    write_ranker(booster, sources, out)
    trees = booster.num_boosted_rounds()
    say(f"ranker: {trees} trees, {trees - before} of them new")
    return {"trees": trees, "new_trees": trees - before, "features": len(features)}


def _settings(config: TrainingConfig, action: Action) -> TrainingConfig:
    """The windows that the action needs: the newest is for the evaluation."""
    windows = config.incremental.windows + 1 if action == "incremental" else 1
    return replace(config, windows=min(config.windows, windows))


def _data(shop: Path, settings: TrainingConfig, action: str) -> TrainingSet:
    data = load(shop, settings)
    if action == "incremental" and not data.windows(skip=1):
        raise InvalidInput("the log is too short to go on with a new window: import a longer log, or refresh")
    return data


def _checked(action: str) -> Action:
    known: dict[str, Action] = {name: name for name in get_args(Action)}
    if action not in known:
        raise InvalidInput(f"no action {action!r}: choose one of {', '.join(known)}")
    return known[action]
