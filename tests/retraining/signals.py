"""Checks as monitoring would have written them, and policies over them."""

from __future__ import annotations

import math
from pathlib import Path

from longtail.monitoring.history import History
from longtail.monitoring.signal import Severity, Signal
from longtail.retraining.policy import Policy
from longtail.yaml_model import parse_yaml

RULES = """
rules:
  - {when: feature_drift, do: incremental, confirm: {days: 2, of: 3}}
  - {when: [index_age, new_item_share], do: refresh, confirm: {days: 1, of: 1}}
  - {when: bot_traffic, do: alert, confirm: {days: 1, of: 1}}
hold: [bot_traffic]
cooldown_days: {incremental: 2, refresh: 0.5, most: 16}
budget: {runs: 2}
run: {source: shop, out: out, registry: mlflow}
"""


def policy(text: str = RULES) -> Policy:
    return parse_yaml(text, Policy, "policy.yaml")


def day(n: int) -> str:
    return f"2024-03-{n:02}"


def signal(name: str, n: int, fired: bool = True, part: str = "", severity: Severity = "warning") -> Signal:
    return Signal(name, part, day(n), 1.0 if fired else 0.0, math.nan, severity, fired, f"{name} was {fired}")


def checked(folder: Path, *signals: Signal) -> Path:
    """A monitoring folder's history with these verdicts."""
    path = folder / "history.db"
    History(path).append(signals, 0)
    return path
