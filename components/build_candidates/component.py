"""Fit the candidate sources before each training window, and collect what they would have proposed in it."""

from kfp import dsl

from components.step import step


@step
def build_candidates(
    shop: dsl.Input[dsl.Dataset],
    index: dsl.Input[dsl.Model],
    config: str,
    candidates: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Fit the candidate sources before each training window, and collect what they would have proposed in it.

    Args:
        shop: the imported shop.
        index: the two-tower with its index.
        config: training configuration, JSON; what it leaves out keeps its default.
        candidates: the sources fitted on everything, and the ranker's training set.
        metrics: requests, rows, candidate recall.
    """
    import json
    from pathlib import Path

    from longtail import steps
    from longtail.training import TrainingConfig

    figures = steps.build_candidates(
        Path(shop.path), Path(index.path), Path(candidates.path), TrainingConfig.parse(config)
    )
    metrics.metadata.update({name: value for name, value in figures.items() if isinstance(value, int | float)})
    Path(metrics.path).write_text(json.dumps(figures))  # without the file, kfp reuses no finished step locally
