"""Fetch what a training that goes on from the champion needs."""

from kfp import dsl

from components.step import step


@step
def fetch_champion(
    registry: str,
    champion: dsl.Output[dsl.Model],
):
    """Fetch what a training that goes on from the champion needs.

    Args:
        registry: folder of the registry, or address of an MLflow server.
        champion: ranker, blend and weights of the champion; its metadata carry the version.
    """
    from pathlib import Path

    from longtail import steps

    champion.metadata.update(steps.fetch_champion(registry, Path(champion.path)))
