"""Judge both stages as one system on the newest window, beside simple systems and each source alone."""

from kfp import dsl

from components.step import step


@step
def evaluate(
    shop: dsl.Input[dsl.Dataset],
    index: dsl.Input[dsl.Model],
    candidates: dsl.Input[dsl.Model],
    ranker: dsl.Input[dsl.Model],
    config: str,
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Judge both stages as one system on the newest window, beside simple systems and each source alone.

    Args:
        shop: the imported shop.
        index: the two-tower with its index.
        candidates: the candidate sources.
        ranker: the trained ranker.
        config: training configuration, JSON; what it leaves out keeps its default.
        evaluation: report as HTML and JSON, figures, the metric of each case.
        metrics: every figure of the system.
    """
    import json
    from pathlib import Path

    from longtail import steps
    from longtail.training import TrainingConfig

    inputs = [Path(a.path) for a in (shop, index, candidates, ranker)]
    figures = steps.evaluate(*inputs, Path(evaluation.path), TrainingConfig.parse(config))
    metrics.metadata.update({name: value for name, value in figures.items() if isinstance(value, int | float)})
    Path(metrics.path).write_text(json.dumps(figures))  # without the file, kfp reuses no finished step locally
