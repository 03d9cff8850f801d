"""Fit the champion's two-tower to the shop, and for an incremental training let it go on."""

from kfp import dsl

from components.step import step


@step
def warm_two_tower(
    shop: dsl.Input[dsl.Dataset],
    champion: dsl.Input[dsl.Model],
    config: str,
    action: str,
    two_tower: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Fit the champion's two-tower to the shop, and for an incremental training let it go on.

    Args:
        shop: the imported shop.
        champion: what fetch_champion fetched.
        config: training configuration, JSON; what it leaves out keeps its default.
        action: refresh or incremental.
        two_tower: the two-tower on this catalogue.
        metrics: epochs, validation figure, seconds.
    """
    import json
    from pathlib import Path

    from longtail import steps
    from longtail.training import TrainingConfig

    parsed = TrainingConfig.parse(config)
    figures = steps.warm_two_tower(Path(shop.path), Path(champion.path), Path(two_tower.path), parsed, action)
    metrics.metadata.update({name: value for name, value in figures.items() if isinstance(value, int | float)})
    Path(metrics.path).write_text(json.dumps(figures))  # without the file, kfp reuses no finished step locally
