"""The training pipeline: from raw events to a registered bundle."""

from typing import Any, NamedTuple

from kfp import dsl

from components.build_candidates.component import build_candidates
from components.build_features.component import build_features
from components.build_index.component import build_index
from components.evaluate.component import evaluate
from components.ingest.component import ingest
from components.off_policy.component import off_policy
from components.register.component import register
from components.train_ranker.component import train_ranker
from components.train_two_tower.component import train_two_tower


class Outputs(NamedTuple):
    """What a run leaves behind."""

    shop: dsl.Dataset
    index: dsl.Model
    candidates: dsl.Model
    ranker: dsl.Model
    evaluation: dsl.Artifact
    bundle: dsl.Model


def judge_and_register(
    shop: Any, features: Any, index: Any, candidates: Any, ranker: Any, config: str, registry: str, surfaces: str,
    metric: str, margin: float, impressions: str, off_policy_margin: float, gate: str, run: str,
) -> Outputs:  # fmt: skip
    """The end of every training: what was trained, however it was, is judged, asked of the log, and registered."""
    judged = evaluate(shop=shop, index=index, candidates=candidates, ranker=ranker, config=config)
    verdict = off_policy(
        shop=shop,
        features=features,
        candidates=candidates,
        ranker=ranker,
        evaluation=judged.outputs["evaluation"],
        config=config,
        registry=registry,
        surfaces=surfaces,
        impressions=impressions,
        margin=off_policy_margin,
    )
    verdict.set_caching_options(False)  # the log grows, and the champion changes
    registered = register(
        shop=shop,
        features=features,
        index=index,
        candidates=candidates,
        ranker=ranker,
        evaluation=judged.outputs["evaluation"],
        verdict=verdict.outputs["verdict"],
        config=config,
        registry=registry,
        surfaces=surfaces,
        metric=metric,
        margin=margin,
        gate=gate,
        run=run,
    )
    registered.set_caching_options(False)  # it writes to the registry
    return Outputs(
        shop=shop,
        index=index,
        candidates=candidates,
        ranker=ranker,
        evaluation=judged.outputs["evaluation"],
        bundle=registered.outputs["bundle"],
    )


@dsl.pipeline(name="longtail-training", description="From raw events to a registered two-stage recommender.")
def training(
    reader: str,
    source: str,
    registry: str,
    key_file: str = "",
    mapping: str = "",
    max_bad_share: float = 0.05,
    config: str = "{}",
    surfaces: str = "",
    metric: str = "ndcg@10",
    margin: float = 0.0,
    impressions: str = "",
    off_policy_margin: float = 0.05,
    gate: str = "{}",
    run: str = "",
) -> Outputs:
    """Train, judge and register one recommender.

    Args:
        reader: form of the data; `shop` for a shop that is imported already.
        source: folder or file of the data.
        registry: folder of the registry, or address of an MLflow server.
        key_file: file with the key of the pseudonyms.
        mapping: YAML mapping file of the reader `mapped`.
        max_bad_share: stop when more than this share of the rows is bad.
        config: training configuration, JSON.
        surfaces: YAML file of the surfaces and their rules.
        metric: figure that decides who is champion.
        margin: lead over the champion that is needed, in units of the metric.
        impressions: folder of the champion's impression log, empty for none.
        off_policy_margin: how much worse than the champion the bundle may be by that log, as a share.
        gate: what else the bundle must hold to become champion or to get traffic, JSON.
        run: name of the run that the registered version carries.
    """
    shop = ingest(reader=reader, source=source, key_file=key_file, mapping=mapping, max_bad_share=max_bad_share)
    shop.set_caching_options(False)  # a folder's content is not part of a task's identity
    imported = shop.outputs["shop"]
    features = build_features(shop=imported, config=config).outputs["features"]
    tower = train_two_tower(shop=imported, config=config).outputs["two_tower"]
    index = build_index(two_tower=tower, config=config).outputs["index"]
    candidates = build_candidates(shop=imported, index=index, config=config).outputs["candidates"]
    ranker = train_ranker(candidates=candidates, config=config).outputs["ranker"]
    return judge_and_register(
        imported, features, index, candidates, ranker, config, registry, surfaces, metric, margin, impressions,
        off_policy_margin, gate, run,
    )  # fmt: skip
