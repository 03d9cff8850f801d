"""Build the FAISS index over the item vectors and measure its recall against brute force."""

from kfp import dsl

from components.step import step


@step
def build_index(
    two_tower: dsl.Input[dsl.Model],
    config: str,
    index: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Build the FAISS index over the item vectors and measure its recall against brute force.

    Args:
        two_tower: the trained two-tower.
        config: training configuration, JSON; what it leaves out keeps its default.
        index: the two-tower with its index beside it.
        metrics: kind of index, recall, build time.
    """
    import json
    from pathlib import Path

    from longtail import steps
    from longtail.training import TrainingConfig

    figures = steps.build_index(Path(two_tower.path), Path(index.path), TrainingConfig.parse(config))
    metrics.metadata.update({name: value for name, value in figures.items() if isinstance(value, int | float)})
    Path(metrics.path).write_text(json.dumps(figures))  # without the file, kfp reuses no finished step locally
