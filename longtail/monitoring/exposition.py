"""The newest verdicts as a file for Prometheus, which the collector or a node exporter tells it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from longtail.monitoring.signal import Signal

# name -> (labels, help)
METRICS: dict[str, tuple[tuple[str, ...], str]] = {
    "longtail_monitor_value": (("check", "part"), "What the check measured on the newest checked day."),
    "longtail_monitor_error": (("check", "part"), "Standard error of the value, where chance moves it."),
    "longtail_monitor_threshold": (("check", "part"), "The bound that the value was held against."),
    "longtail_monitor_fired": (("check", "part", "severity"), "1 where the check fired, else 0."),
    "longtail_monitor_unmeasured": ((), "Checks and parts that could not be measured."),
    "longtail_monitor_day_end_seconds": ((), "The end of the newest checked day, Unix time."),
    "longtail_monitor_run_seconds": ((), "When it was checked, Unix time: a monitor that stopped shows here."),
}


def write_metrics(path: Path, signals: Sequence[Signal], day_end: int, checked_at: int) -> None:
    """Write the gauges of one day's verdicts, whole or not at all; times in microseconds."""
    registry = CollectorRegistry()
    gauges = {name: Gauge(name, told, labels, registry=registry) for name, (labels, told) in METRICS.items()}
    for s in signals:
        if not math.isfinite(s.value):
            continue
        gauges["longtail_monitor_value"].labels(s.name, s.part).set(s.value)
        gauges["longtail_monitor_fired"].labels(s.name, s.part, s.severity).set(s.fired)
        if s.error > 0:
            gauges["longtail_monitor_error"].labels(s.name, s.part).set(s.error)
        if math.isfinite(s.threshold):
            gauges["longtail_monitor_threshold"].labels(s.name, s.part).set(s.threshold)
    gauges["longtail_monitor_unmeasured"].set(sum(not math.isfinite(s.value) for s in signals))
    gauges["longtail_monitor_day_end_seconds"].set(day_end / 1e6)
    gauges["longtail_monitor_run_seconds"].set(checked_at / 1e6)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(path), registry)
