"""The pipeline that goes on from the champion: a refresh of what follows the data, or an incremental training."""

from kfp import dsl

from components.build_features.component import build_features
from components.build_index.component import build_index
from components.fetch_champion.component import fetch_champion
from components.ingest.component import ingest
from components.warm_candidates.component import warm_candidates
from components.warm_ranker.component import warm_ranker
from components.warm_two_tower.component import warm_two_tower
from pipelines.training import Outputs, judge_and_register


@dsl.pipeline(
    name="longtail-incremental",
    description="From raw events to a registered recommender that goes on from the champion.",
)
def incremental(
    reader: str,
    source: str,
    registry: str,
    action: str = "incremental",
    key_file: str = "",
    mapping: str = "",
    max_bad_share: float = 0.05,
    config: str = "{}",
    surfaces: str = "",
    metric: str = "ndcg@10",
    margin: float = 0.0,
    impressions: str = "",
    off_policy_margin: float = 0.05,
    gate: str = '{"promote": "not_worse"}',
    run: str = "",
) -> Outputs:
    """Refresh the champion or train it further, judge the outcome and register it.

    Args:
        reader: form of the data; `shop` for a shop that is imported already.
        source: folder or file of the data.
        registry: folder of the registry, or address of an MLflow server.
        action: `refresh` keeps what was learned and fits the rest to the data, `incremental` learns on as well.
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
    champion = fetch_champion(registry=registry)
    champion.set_caching_options(False)  # it changes
    fetched = champion.outputs["champion"]
    tower = warm_two_tower(shop=imported, champion=fetched, config=config, action=action).outputs["two_tower"]
    index = build_index(two_tower=tower, config=config).outputs["index"]
    candidates = warm_candidates(shop=imported, champion=fetched, index=index, config=config, action=action).outputs[
        "candidates"
    ]
    ranker = warm_ranker(champion=fetched, candidates=candidates, config=config, action=action).outputs["ranker"]
    return judge_and_register(
        imported, features, index, candidates, ranker, config, registry, surfaces, metric, margin, impressions,
        off_policy_margin, gate, run,
    )  # fmt: skip
