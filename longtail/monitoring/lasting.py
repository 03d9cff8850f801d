"""Changes too small for a day to prove: the days of two weeks added up, Page's cumulative sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from longtail.monitoring.checks import CHECKS
from longtail.monitoring.config import Before, Watch
from longtail.monitoring.judging import Measured, usual

NAME = "lasting_change"
DAYS = 14  # that are added up, each weekday twice
# The figures looked at, and which way. Clicks that rise are what a better bundle does, and no reason to train another.
FIGURES = {"ctr": "down", "conversion": "down", "revenue": "down", "purchase_value": "both"}
ALLOWED = 0.5  # deviations: half of a change by one, the least that two weeks can tell from chance (Page 1954)
KNOWN = 0.75  # of the days before that must be known: chance in what is usual counts on each of the days added up
DAY_COUNTS = 0.4  # of the bound at most: no less than three days call


def measure(
    found: Sequence[Measured], past: Mapping[tuple[str, str], Mapping[str, float]], day: str, watch: Watch
) -> list[Measured]:
    """How far each business figure went in the last `DAYS` days, `day` among them, in standard deviations of a day.

    `found` are the measured values of `day`, `past` those of the days before by check and part (ISO day -> value). What
    is usual comes from the `watch.before` days before the `DAYS`, so that a change is not held against itself.
    """
    check = watch.check(NAME)
    if check is None:
        return []
    out = []
    for one in found:
        figure = watch.check(one.name) if one.name in FIGURES else None
        if figure is None:
            continue
        part = f"{one.name} {one.part}".strip()
        values = {**past.get((one.name, one.part), {}), day: one.value}
        matters = figure.change if math.isfinite(figure.change) else CHECKS[one.name].change
        sums = [
            summed(values, day, one.error, side, matters / 4, check.bound, watch.before)
            for side in ((-1, 1) if FIGURES[one.name] == "both" else (-1,))
        ]
        value = max(sums)
        out.append(Measured(NAME, part, value, why_not="" if math.isfinite(value) else one.why_not or "too few days"))
    return out


def summed(
    values: Mapping[str, float], day: str, error: float, side: int, allowed: float, bound: float, before: Before
) -> float:
    """The cumulative sum at `day` of the values (ISO day -> value) in the direction `side` (1 up, -1 down), started
    anew `DAYS` days ago; NaN where fewer than `KNOWN` of the days before those are known.

    A day adds its distance from what is usual in standard deviations (no less than `error`, its own standard error),
    less an allowance: `ALLOWED`, or `allowed`, a share of what is usual, where that is more; the sum never falls below
    0 (Page, Continuous inspection schemes, 1954). One day adds `DAY_COUNTS` of `bound` at most.
    """
    last = date.fromisoformat(day)
    window = [(last - timedelta(days=n)).isoformat() for n in reversed(range(DAYS))]
    earlier = {d: v for d, v in values.items() if d < window[0]}
    days, least = before.days + DAYS, max(before.least, math.ceil(KNOWN * before.days))
    total = 0.0
    for d in window:
        value, expected = values.get(d, math.nan), usual(earlier, d, days, least)
        if expected is None:
            return math.nan
        spread = max(expected.spread, error)
        if not math.isfinite(value) or spread <= 0:
            continue
        gone = side * (value - expected.centre) / spread
        room = max(ALLOWED, allowed * abs(expected.centre) / spread)
        total = max(0.0, total + min(gone - room, DAY_COUNTS * bound))
    return total if math.isfinite(values[day]) else math.nan
