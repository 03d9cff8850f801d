"""The champion judged on the requests that a new bundle is judged on: its ranker and two-tower, over today's data."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from longtail.engine.bundle import ranker_name, sources_of
from longtail.engine.ranker_repository import BOOSTER_FILE
from longtail.errors import InvalidInput
from longtail.events import Requests
from longtail.ranking.two_stage import recommend
from longtail.registry import Registry
from longtail.retrieval.blend import Blend
from longtail.training import TrainingSet

WARM = "warm"  # what a later training goes on from, kept with a version beside its bundle
ABOUT = "about.json"


def champion_lists(data: TrainingSet, window: tuple[int, int], requests: Requests, registry: Registry, number: int,
                   k: int) -> np.ndarray:  # fmt: skip
    """What version `number` would have shown for the requests of a window, int64 [B, k] padded with -1.

    Its sources are fitted on what was before the window, as the new bundle's are; its ranker, blend and two-tower are
    what it was registered with: so the two differ in what they learned, and in nothing else.

    Raises:
        InvalidInput: it kept no weights, reads other sources, or has learned from the window.
    """
    import xgboost as xgb

    from longtail.retrieval.two_tower import TwoTower
    from longtail.retrieval.two_tower_training import train_two_tower
    from longtail.retrieval.two_tower_warm import WarmStart

    start, stop = window
    bundle, kept = registry.resolve(number), registry.kept(number, WARM)
    if kept is None:
        raise InvalidInput("it was registered without its weights")
    warm, about = WarmStart.load(kept), json.loads((kept / ABOUT).read_text())
    if warm.until > start or any(a < stop and start < b for a, b in about["windows"]):
        raise InvalidInput("it has learned from the newest window")
    past, shop = data.positives.before(start), data.shop  # items are as old as a warm start's are
    with tempfile.TemporaryDirectory() as folder:
        kept_as_it_is = replace(data.config.two_tower, epochs=0)
        names = shop.segments.tolist()
        train_two_tower(past, shop.catalogue, shop.segment, kept_as_it_is, Path(folder), data.config.seed, names, warm)
        blend = Blend.load(bundle / "retrieval" / "blend.json")
        stage = data.stage(start, [TwoTower.load(Path(folder))], blend)
        if stage.retriever.names != [source["name"] for source in sources_of(bundle)]:
            raise InvalidInput("it reads other sources")
        booster = xgb.Booster(model_file=bundle / "ranker" / ranker_name(bundle) / "1" / BOOSTER_FILE)
        return recommend(stage, booster, requests, k)
