"""What a check says of a day: the one thing that reports, metrics, history and triggers read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
REACH = 1.96  # standard errors that an interval of 95% reaches


@dataclass(frozen=True)
class Signal:
    """The verdict of one check on one day.

    `name` is a key of `checks.CHECKS`; `part` what it is about (a feature, a surface, a source), empty for the whole
    shop; `day` is ISO, UTC. `value` is NaN where it could not be measured, `threshold` where there is nothing to hold
    it against yet. `severity` is the check's, whether it fired or not; `reason` is one plain sentence. `error` is the
    standard error of a value that chance moves, as of a rate, else 0.
    """

    name: str
    part: str
    day: str
    value: float
    threshold: float
    severity: Severity
    fired: bool
    reason: str
    error: float = 0.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the true value lies, in 95 of 100 days; None where chance does not move it."""
        if not self.error > 0 or not math.isfinite(self.value):
            return None
        return self.value - REACH * self.error, self.value + REACH * self.error
