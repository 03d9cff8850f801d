"""Train the two-tower on what lies before the first training window."""

from kfp import dsl

from components.step import step


@step
def train_two_tower(
    shop: dsl.Input[dsl.Dataset],
    config: str,
    two_tower: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Train the two-tower on what lies before the first training window.

    Args:
        shop: the imported shop.
        config: training configuration, JSON; what it leaves out keeps its default.
        two_tower: user tower as ONNX, item vectors, configuration.
        metrics: epochs, losses, validation NDCG.
    """
    import json
    from pathlib import Path

    from components.train_two_tower.placed import train

    figures = train(Path(shop.path), Path(two_tower.path), config)
    metrics.metadata.update({name: value for name, value in figures.items() if isinstance(value, int | float)})
    Path(metrics.path).write_text(json.dumps(figures))  # without the file, kfp reuses no finished step locally
