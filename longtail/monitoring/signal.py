"""What a check says of a day: the one thing that reports, metrics, history and triggers read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True)
class Signal:
    """The verdict of one check on one day.

    `name` is a key of `checks.CHECKS`; `part` what it is about (a feature, a surface, a source), empty for the whole
    shop; `day` is ISO, UTC. `value` is NaN where it could not be measured, `threshold` where there is nothing to hold
    it against yet. `severity` is the check's, whether it fired or not; `reason` is one plain sentence.
    """

    name: str
    part: str
    day: str
    value: float
    threshold: float
    severity: Severity
    fired: bool
    reason: str
