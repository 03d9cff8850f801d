"""Everything that serving needs, in one immutable folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from longtail.events import Shop
from longtail.ranking.returns import return_rates
from longtail.steps.folders import REFERENCE, SLICES, Figures, end_of
from longtail.training import TrainingConfig


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
    about_it = (report, data, training, found)
    return model_card(*about_it), card_data(*about_it)
