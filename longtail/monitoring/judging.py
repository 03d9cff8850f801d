"""From measured values to verdicts: fixed bounds, and a robust comparison with the days before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from longtail.monitoring.checks import Check
from longtail.monitoring.config import Before
from longtail.monitoring.signal import Signal

MAD_TO_SD = 1.4826  # of a normal distribution
WEEKS = 3  # of days before, from which weekdays are told apart


@dataclass(frozen=True)
class Measured:
    """What was measured of one part on one day.

    `error` is the standard error of the value, 0 where it has none; `training` what the reference says of it, NaN where
    it says nothing. `why_not` says why there is no value (which is NaN then).
    """

    name: str
    part: str
    value: float
    error: float = 0.0
    training: float = math.nan
    why_not: str = ""


@dataclass(frozen=True)
class Usual:
    """What the days before let expect: `centre`, and `spread`, one robust standard deviation of a day."""

    centre: float
    spread: float


def usual(past: Mapping[str, float], day: str, days: int, least: int) -> Usual | None:
    """What to expect of `day` from values of the `days` before it (ISO day -> value), None from fewer than `least`.

    The median, moved to the weekday where there are enough weeks; the spread is that of the days around it (median
    absolute deviation), so that a few bad days among them change neither.
    """
    today = date.fromisoformat(day)
    ages = {d: (today - date.fromisoformat(d)).days for d in past}
    found = {d: v for d, v in past.items() if 0 < ages[d] <= days and math.isfinite(v)}
    if len(found) < least:
        return None
    values = np.array(list(found.values()))
    weekday = np.array([date.fromisoformat(d).weekday() for d in found])
    middle = float(np.median(values))
    effect = np.zeros(7)
    if len(found) >= 7 * WEEKS:
        for n in range(7):
            own = values[weekday == n]
            # A weekday has but a few values: shrunk, so that their chance does not become the expectation.
            effect[n] = (np.median(own) - middle) * len(own) / (len(own) + 2) if len(own) else 0.0
    left = values - middle - effect[weekday]
    spread = MAD_TO_SD * float(np.median(np.abs(left - np.median(left)))) * (1 + 2 / len(left))
    return Usual(middle + float(effect[today.weekday()]), spread)


def judge(check: Check, found: Measured, day: str, past: Mapping[str, float], before: Before) -> Signal:
    """The verdict on a measured value; `past` are the values of this check and part by day."""

    def signal(threshold: float, fired: bool, reason: str) -> Signal:
        return Signal(check.name, found.part, day, found.value, threshold, check.severity, fired, reason, found.error)

    if not math.isfinite(found.value):
        return signal(math.nan, False, found.why_not or "could not be measured")
    limits = []  # (threshold, crossed, reason), the bound first
    base = found.training if check.against else 0.0
    if math.isfinite(check.bound) and math.isfinite(base):
        limits.append(_bound(check, found, base))
    least = before.least_of_bundle if check.together else before.least
    expected = usual(past, day, before.days, least) if math.isfinite(check.change) else None
    if expected is not None:
        limits.append(_change(check, found, expected))
    if not limits or (check.together and len(limits) < 2):
        return signal(math.nan, False, f"{_number(found.value)}; nothing to hold it against yet")
    crossed = [limit for limit in limits if limit[1]]
    if check.together:
        fired = len(crossed) == len(limits)
        threshold = max(limit[0] for limit in limits) if check.worse == "up" else min(limit[0] for limit in limits)
        told = crossed if fired else [limit for limit in limits if not limit[1]]
    else:
        fired = bool(crossed)
        told = crossed or limits
        threshold = told[0][0]
    return signal(threshold, fired, "; ".join(limit[2] for limit in told))


def _bound(check: Check, found: Measured, base: float) -> tuple[float, bool, str]:
    below = check.worse == "down"
    threshold = base - check.bound if below else base + check.bound
    crossed = found.value < threshold if below else found.value > threshold
    beside = f", training {_number(base)}" if check.against else ""
    return threshold, crossed, f"{_number(found.value)} (bound {_number(threshold)}{beside})"


def _change(check: Check, found: Measured, expected: Usual) -> tuple[float, bool, str]:
    spread = math.hypot(expected.spread, found.error)
    room = max(check.z * spread, check.change * abs(expected.centre))
    gone = found.value - expected.centre
    crossed = {"up": gone > room, "down": gone < -room, "both": abs(gone) > room}[check.worse]
    side = -1 if check.worse == "down" or (check.worse == "both" and gone < 0) else 1
    threshold = expected.centre + side * room
    reason = f"{_number(found.value)} where the days before let expect {_number(expected.centre)} "
    return threshold, crossed, reason + f"(limit {_number(threshold)})"


def worst(signals: Sequence[Signal]) -> list[Signal]:
    """Fired ones first, by severity, then by name and part."""
    rank = {"critical": 0, "warning": 1, "info": 2}
    return sorted(signals, key=lambda s: (not s.fired, rank[s.severity], s.name, s.part))


def _number(value: float) -> str:
    return f"{value:,.4g}"
