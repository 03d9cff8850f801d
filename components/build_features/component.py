"""Take daily snapshots of users, items and users x categories."""

from kfp import dsl

from components.step import step


@step
def build_features(
    shop: dsl.Input[dsl.Dataset],
    config: str,
    features: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
):
    """Take daily snapshots of users, items and users x categories.

    Args:
        shop: the imported shop.
        config: training configuration, JSON; what it leaves out keeps its default.
        features: snapshot files as the Feast views read them.
        metrics: days, users, items.
    """
    import json
    from pathlib import Path

    from longtail import steps
    from longtail.training import TrainingConfig

    figures = steps.build_features(Path(shop.path), Path(features.path), TrainingConfig.parse(config))
    metrics.metadata.update({name: value for name, value in figures.items() if isinstance(value, int | float)})
    Path(metrics.path).write_text(json.dumps(figures))  # without the file, kfp reuses no finished step locally
