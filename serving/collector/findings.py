"""What `longtail monitor` found, among the metrics of a server: a job that has ended answers no scrape."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import REGISTRY, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from serving.collector.log import say, told


class Findings(Collector):
    """The gauges of a file such as `monitor.prom`, read at each scrape; none while there is no such file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def describe(self) -> list[Metric]:
        """Nothing ahead: what the file holds is known when it is there."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The file's metrics; a file that is none of ours is said, and costs the scrape nothing else."""
        try:
            found = list(text_string_to_metric_families(self._file.read_text()))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            say("findings_unreadable", logging.WARNING, file=self._file, error=told(error))
            return
        yield from found


def tell(file: Path | None) -> None:
    """Add the file's gauges to what this process is scraped for."""
    if file is not None:
        REGISTRY.register(Findings(file))
