"""Fit the candidate sources anew, and for an incremental training propose for the newest windows."""

from kfp import dsl

from components.step import step


@step
def warm_candidates(
    shop: dsl.Input[dsl.Dataset],
    champion: dsl.Input[dsl.Model],
    index: dsl.Input[dsl.Model],
    config: str,
    action: str,
    candidates: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Fit the candidate sources anew, and for an incremental training propose for the newest windows.

    Args:
        shop: the imported shop.
        champion: what fetch_champion fetched.
        index: the two-tower with its index.
        config: training configuration, JSON; what it leaves out keeps its default.
        action: refresh or incremental.
        candidates: today's sources, and what the ranker goes on with.
        metrics: requests, rows and recall of an incremental training.
    """
    import json
    from pathlib import Path

    from longtail import steps
    from longtail.training import TrainingConfig

    inputs = [Path(a.path) for a in (shop, champion, index)]
    parsed = TrainingConfig.parse(config)
    figures = steps.warm_candidates(*inputs, Path(candidates.path), parsed, action)
    metrics.metadata.update({name: value for name, value in figures.items() if isinstance(value, int | float)})
    Path(metrics.path).write_text(json.dumps(figures))  # without the file, kfp reuses no finished step locally
