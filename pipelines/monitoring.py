"""One step: a day of what the champion's servers wrote, checked."""

from kfp import dsl

from components.monitor.component import monitor


@dsl.pipeline(name="longtail-monitoring", description="A day of what the champion's servers wrote, checked.")
def monitoring(registry: str, log: str, state: str, day: str = "", watch: str = ""):
    """Check one day.

    Args:
        registry: folder of the registry, or address of an MLflow server.
        log: state folder of the servers, or an imported shop.
        state: folder of the history of checks, which `longtail retrain --monitoring` reads.
        day: ISO day to check; empty for yesterday (UTC).
        watch: YAML file with other thresholds; empty for the defaults.
    """
    task = monitor(log=log, state=state, registry=registry, day=day, watch=watch)
    task.set_caching_options(False)  # the log grows
