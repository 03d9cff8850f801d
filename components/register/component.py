"""Put the bundle together and register it; it becomes champion if it beats the champion."""

from kfp import dsl

from components.step import step


@step
def register(
    shop: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Dataset],
    index: dsl.Input[dsl.Model],
    candidates: dsl.Input[dsl.Model],
    ranker: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
    config: str,
    registry: str,
    surfaces: str,
    metric: str,
    margin: float,
    gate: str,
    run: str,
    bundle: dsl.Output[dsl.Model],
):
    """Put the bundle together and register it; it becomes champion if it beats the champion.

    Args:
        shop: the imported shop.
        features: the daily snapshots.
        index: the two-tower with its index.
        candidates: the candidate sources.
        ranker: the trained ranker.
        evaluation: the evaluation.
        verdict: what the champion's impression log says of the bundle.
        config: training configuration, JSON; what it leaves out keeps its default.
        registry: folder of the registry, or address of an MLflow server.
        surfaces: YAML file of the surfaces and their rules; empty for none.
        metric: figure that decides who is champion.
        margin: lead over the champion that is needed, in units of the metric.
        gate: what else the bundle must hold, JSON; what it leaves out keeps its default.
        run: name of the run, kept with the version; empty for none.
        bundle: the bundle; its metadata carry version and aliases.
    """
    from pathlib import Path

    from longtail import steps
    from longtail.evaluation.gate import GateConfig
    from longtail.training import TrainingConfig

    inputs = [Path(a.path) for a in (shop, features, index, candidates, ranker, evaluation)]
    parsed = TrainingConfig.parse(config)
    judged, out = Path(verdict.path), Path(bundle.path)
    limits = GateConfig.parse(gate)
    figures = steps.register(*inputs, out, registry, parsed, surfaces, metric, margin, judged, limits, run)
    bundle.metadata.update(figures)
