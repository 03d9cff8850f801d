"""Train the ranker on the proposed candidates and write it as a Triton model repository."""

from kfp import dsl

from components.step import step


@step
def train_ranker(
    candidates: dsl.Input[dsl.Model],
    config: str,
    ranker: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Train the ranker on the proposed candidates and write it as a Triton model repository.

    Args:
        candidates: the ranker's training set.
        config: training configuration, JSON; what it leaves out keeps its default.
        ranker: the booster and its Triton model repository.
        metrics: trees, features, rows.
    """
    import json
    from pathlib import Path

    from longtail import steps
    from longtail.training import TrainingConfig

    figures = steps.train_ranker(Path(candidates.path), Path(ranker.path), TrainingConfig.parse(config))
    metrics.metadata.update({name: value for name, value in figures.items() if isinstance(value, int | float)})
    Path(metrics.path).write_text(json.dumps(figures))  # without the file, kfp reuses no finished step locally
