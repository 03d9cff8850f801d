"""Take the champion's ranker, and for an incremental training grow trees on top of it."""

from kfp import dsl

from components.step import step


@step
def warm_ranker(
    champion: dsl.Input[dsl.Model],
    candidates: dsl.Input[dsl.Model],
    config: str,
    action: str,
    ranker: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Take the champion's ranker, and for an incremental training grow trees on top of it.

    Args:
        champion: what fetch_champion fetched.
        candidates: the candidates of warm_candidates.
        config: training configuration, JSON; what it leaves out keeps its default.
        action: refresh or incremental.
        ranker: the booster and its Triton model repository.
        metrics: trees, new trees, features.
    """
    import json
    from pathlib import Path

    from longtail import steps
    from longtail.training import TrainingConfig

    parsed = TrainingConfig.parse(config)
    figures = steps.warm_ranker(Path(champion.path), Path(candidates.path), Path(ranker.path), parsed, action)
    metrics.metadata.update({name: value for name, value in figures.items() if isinstance(value, int | float)})
    Path(metrics.path).write_text(json.dumps(figures))  # without the file, kfp reuses no finished step locally
