"""Check a day of what the champion's servers wrote, and say whether anything needs attention."""

from kfp import dsl

from components.step import step


@step
def monitor(
    log: str,
    state: str,
    registry: str,
    day: str,
    watch: str,
    report: dsl.Output[dsl.Artifact],
):
    """Check a day of what the champion's servers wrote, and say whether anything needs attention.

    Args:
        log: state folder of the servers, or an imported shop.
        state: folder of the history of checks, which tells what is usual.
        registry: folder of the registry, or address of an MLflow server.
        day: ISO day to check; empty for yesterday (UTC).
        watch: YAML file with other thresholds; empty for the defaults.
        report: the page, the verdicts as JSON, and the metrics.
    """
    from pathlib import Path

    from longtail import steps

    report.metadata.update(steps.monitor(log, state, registry, day, watch, Path(report.path)))
