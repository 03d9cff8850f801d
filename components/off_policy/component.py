"""Estimate from the champion's impression log whether this run's bundle may be worse than it by more than a margin."""

from kfp import dsl

from components.step import step


@step
def off_policy(
    shop: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Dataset],
    candidates: dsl.Input[dsl.Model],
    ranker: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    config: str,
    registry: str,
    surfaces: str,
    impressions: str,
    margin: float,
    verdict: dsl.Output[dsl.Artifact],
):
    """Estimate from the champion's impression log whether this run's bundle may be worse than it by more than a margin.

    Args:
        shop: the imported shop, with what came of the logged lists.
        features: the daily snapshots.
        candidates: the candidate sources.
        ranker: the trained ranker.
        evaluation: the evaluation.
        config: training configuration, JSON; what it leaves out keeps its default.
        registry: folder of the registry, or address of an MLflow server.
        surfaces: YAML file of the surfaces and their rules; empty for none.
        impressions: folder of the impression log; empty for none, and everything passes.
        margin: how much worse a bundle may be, as a share of what the champion's lists earn.
        verdict: whether the bundle may get traffic, why, and the figures behind it.
    """
    from pathlib import Path

    from longtail import steps
    from longtail.training import TrainingConfig

    inputs = [Path(a.path) for a in (shop, features, candidates, ranker, evaluation)]
    parsed = TrainingConfig.parse(config)
    out = Path(verdict.path)
    verdict.metadata.update(steps.off_policy(*inputs, out, registry, parsed, surfaces, impressions, margin))
