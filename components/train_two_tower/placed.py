"""Train in this process, or on the nodes that the platform file wants."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from longtail import steps
from longtail.training import TrainingConfig

VARIABLE = "LONGTAIL_TRAIN_JOB"  # set by `pipelines.placing`


def train(shop: Path, out: Path, config: str) -> dict[str, Any]:
    """The two-tower of a shop in `out`; `config` is JSON. Returns the figures."""
    parsed = TrainingConfig.parse(config)
    if wanted := os.environ.get(VARIABLE):
        from components.train_two_tower.train_job import train_on_nodes

        return train_on_nodes(shop, out, config, json.loads(wanted))
    return steps.train_two_tower(shop, out, parsed)
