"""How many units and days an experiment needs, counted from the shop's own log."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from longtail.errors import InvalidInput
from longtail.experiments import sequential
from longtail.experiments.config import Experiment
from longtail.experiments.log import UnitLog, Window, open_log
from longtail.experiments.moments import D, Moments, linear, ratio
from longtail.experiments.unit_sums import MetricSums
from longtail.schema import DAY_US

DAYS = (7, 14, 21, 28, 42, 56, 84)
LONGEST = 365


@dataclass(frozen=True)
class Outlook:
    """An experiment of so many `days`, as the log's newest days would have had it.

    `units` of all variants together; the metric's `value` in them and its standard deviation over units, plain and as
    CUPED leaves it (`adjusted_sd`); `effect` is the smallest relative change seen with the planned power,
    `needed` the units that the minimum effect takes, `chance` the power at the minimum effect. `counted` is False
    where the log is too short and the figures were carried on from shorter spans.
    """

    days: int
    units: int
    value: float
    sd: float
    adjusted_sd: float
    effect: float
    needed: int
    chance: float
    counted: bool = True


@dataclass(frozen=True)
class Plan:
    """Outlooks by length, and the `days` to run: None where a year would not do."""

    kind: str
    metric: str
    minimum_effect: float
    power: float
    alpha: float
    looks: str
    allocation: float
    outlooks: list[Outlook]
    days: int | None

    @property
    def sentence(self) -> str:
        """The plan in one sentence."""
        if self.days is None:
            least = min(o.effect for o in self.outlooks)
            return (f"{self.metric} is too rare or uneven: a year could not tell {self.minimum_effect:.1%}; "
                    f"{self.outlooks[-1].days} days tell {_percent(least)}. Raise allocation or minimum effect, "
                    "or take a metric nearer to what people do.")  # fmt: skip
        found = next(o for o in self.outlooks if o.days >= self.days)
        carried = "" if found.counted else ", carried on from a shorter log"
        what = f"a lead in {self.metric}" if self.kind == "interleaving" else f"a change of {self.metric}"
        return (f"Run {self.days} days: about {found.units:,} units with {self.allocation:.0%} of the layer{carried} "
                f"tell {what} of {found.effect:.1%}, asked for was {self.minimum_effect:.1%}, "
                f"power {self.power:.0%}.")  # fmt: skip


def _percent(effect: float) -> str:
    return f"{effect:.1%}" if math.isfinite(effect) else "nothing"


def plan(experiment: Experiment, folder: Path | str) -> Plan:
    """Read the log of a state folder or an imported shop and say how long the experiment must run.

    Each length is counted on the newest days of the log as if the experiment had run there: who would have been
    exposed, how their sums vary, and how much of that the days before explain; for a duel, the events that a fair coin
    would have given to one of two equal rankers. Beyond the log's length units and error are carried on along their
    trend.

    Raises:
        InvalidInput: the log cannot be read, is too short or too small to count on, or has none of the surfaces.
    """
    with open_log(folder, experiment.unit) as log:
        room = (log.last + 1 - log.first) // DAY_US
        duel = experiment.kind == "interleaving"
        covariate = 0 if duel or experiment.unit == "session" else experiment.covariate_days
        spans = [d for d in DAYS if d + min(covariate, 7) <= room] or [d for d in (1, 3) if d <= room]
        if not spans:
            raise InvalidInput(f"the log of {folder} holds less than a day: collect more before planning")
        if experiment.surfaces and not set(experiment.surfaces) & set(shown := log.surfaces()):
            has = f"only on {', '.join(shown)}: name one of these" if shown else "and on no other surface"
            raise InvalidInput(f"the log of {folder} has no lists{experiment.where}, {has}")
        outlooks = [
            _drafted(experiment, log, days) if duel else _counted(experiment, log, days, covariate) for days in spans
        ]
    if any(not o.value or not o.adjusted_sd > 0 or o.units < 2 for o in outlooks):
        raise InvalidInput(
            f"nothing of {experiment.metric.name} stands in the log of {folder}, or it is the same for every unit"
        )
    outlooks, days = _long_enough(experiment, outlooks)
    return Plan(experiment.kind, experiment.metric.name, experiment.minimum_effect, experiment.power, experiment.alpha,
                experiment.looks, experiment.allocation, outlooks, days)  # fmt: skip


def _counted(experiment: Experiment, log: UnitLog, days: int, covariate: int) -> Outlook:
    end = log.last + 1
    start = end - days * DAY_US
    window = Window(start, end, start - covariate * DAY_US)
    log.units(window, experiment.surfaces)
    log.sums(window, (experiment.metric,))
    moments = MetricSums(log, experiment.metric, window, ("all",)).daily()[0]
    return outlook(experiment, moments, int(moments.n[-1] * experiment.reach))


def _drafted(experiment: Experiment, log: UnitLog, days: int) -> Outlook:
    """Everybody who is reached meets both rankers, of which a fair coin says who chose which item of a round: so much
    does the lead of equal ones vary."""
    end = log.last + 1
    window = Window(end - days * DAY_US, end, end)
    seen, events, variance = log.credits(window, experiment.metric.event, experiment.surfaces)
    units = int(seen * experiment.reach)
    each, sd = (events / seen, math.sqrt(variance / seen)) if seen else (0.0, 0.0)
    return duel_outlook(experiment, days, units, each, sd)


def outlook(experiment: Experiment, moments: Moments, units: int) -> Outlook:
    """The outlook of a test on `units` units like those of the `moments` [days]: of all up to the end of each day."""
    variance, shared, spread = linear(moments)
    with np.errstate(invalid="ignore", divide="ignore"):
        left = np.maximum(variance - np.where(spread > 0, shared**2 / spread, 0.0), 0.0)
    reach = _reach(experiment, moments, left)
    value, days = float(ratio(moments)[-1]), len(moments.n)
    return _outlook(experiment, days, units, value, math.sqrt(variance[-1]), math.sqrt(left[-1]), reach)


def _outlook(
    experiment: Experiment,
    days: int,
    units: int,
    value: float,
    sd: float,
    adjusted: float,
    reach: float,
    counted: bool = True,
) -> Outlook:
    """Smallest effect, needed units and power; of several treatments those of the smallest.

    A treated arm's sums are taken to spread in proportion to their mean, a share of units as p (1 - p) does.
    """
    if experiment.kind == "interleaving":
        return duel_outlook(experiment, days, units, value, sd, counted)
    control, *others = experiment.shares.values()
    least, smallest = experiment.minimum_effect, min(others)
    more = stats.norm.isf(1 - experiment.power)
    relative = adjusted / abs(value) if value else math.inf
    # The treated variance at an effect e is (line (1 + e) + square (1 + e)^2) times that of the control.
    line, square = (
        (1 / (1 - value), -value / (1 - value)) if experiment.metric.of == "any" and value < 1 else (0.0, 1.0)
    )

    def error(effect: float) -> float:
        """Standard error of the lift, of one unit in all."""
        treated = line * (1 + effect) + square * (1 + effect) ** 2
        return relative * math.sqrt(max(1 / control + treated / smallest, 0.0))

    # The smallest effect e solves e^2 units = (reach + more)^2 error(e)^2.
    each = ((reach + more) * relative) ** 2
    q = each / smallest
    a, b, c = units - square * q, (line + 2 * square) * q, each / control + (line + square) * q
    effect = (b + math.sqrt(max(b * b + 4 * a * c, 0.0))) / (2 * a) if a > 0 and math.isfinite(c) else math.inf
    needed = ((reach + more) * error(least) / least) ** 2
    chance = float(stats.norm.sf(reach - least * math.sqrt(units) / error(least))) if error(least) > 0 else 1.0
    return Outlook(days, units, value, sd, adjusted, effect, math.ceil(needed) if math.isfinite(needed) else 0, chance,
                   counted)  # fmt: skip


def duel_outlook(
    experiment: Experiment, days: int, units: int, value: float, sd: float, counted: bool = True
) -> Outlook:
    """The outlook of a duel on `units` units that each give `value` events, of which one ranker's lead has the standard
    deviation `sd` by chance: no arms, and the lead is a share of all events."""
    reach = float(stats.norm.isf(experiment.alpha / 2))
    wide = reach + stats.norm.isf(1 - experiment.power)
    error = sd / value if value else math.inf  # of the lead, with one unit
    effect = wide * error / math.sqrt(units) if units else math.inf
    least = experiment.minimum_effect
    needed = (wide * error / least) ** 2
    chance = float(stats.norm.sf(reach - least * math.sqrt(units) / error)) if error > 0 else 1.0
    return Outlook(days, units, value, sd, sd, effect, math.ceil(needed) if math.isfinite(needed) else 0, chance,
                   counted)  # fmt: skip


def _reach(experiment: Experiment, moments: Moments, variance: np.ndarray) -> float:
    """How many standard errors the deciding interval reaches at the end; `variance` [days] of the linearised metric.

    For looks on any day that is the power at the last one: earlier looks only add to it.
    """
    alpha = experiment.alpha / len(experiment.treatments)
    if experiment.looks == "once":
        return float(stats.norm.isf(alpha / 2))
    with np.errstate(invalid="ignore"):
        seen = sequential.information(moments.n, np.sqrt(variance / moments.n), moments.mean[..., D])
    seen = seen[np.isfinite(seen) & (seen > 0) & (moments.n >= 2 * sequential.LEAST_UNITS)]
    if not len(seen):
        return float(sequential.width(sequential.best_time(alpha), alpha))
    return float(sequential.width(seen[-1] / sequential.clock(seen[0], len(moments.n), alpha), alpha))


def _long_enough(experiment: Experiment, counted: list[Outlook]) -> tuple[list[Outlook], int | None]:
    """The outlooks, carried on until one reaches the minimum effect, and its days."""
    for found in counted:
        if found.effect <= experiment.minimum_effect:
            return counted, found.days
    if len(counted) < 2:
        return counted, None
    # Units and relative error go with a power of the days; units never faster than the days.
    days = np.log([o.days for o in counted])
    more = min(max(float(np.polyfit(days, np.log([o.units for o in counted]), 1)[0]), 0.0), 1.0)
    uneven = float(np.polyfit(days, np.log([o.adjusted_sd / abs(o.value) for o in counted]), 1)[0])
    last, out = counted[-1], list(counted)
    alpha = experiment.alpha / len(experiment.treatments)
    reach = float(stats.norm.isf(alpha / 2))
    if experiment.looks == "any_day":
        reach = float(sequential.width(sequential.best_time(alpha), alpha))
    for length in range(last.days + 7 - last.days % 7, LONGEST, 7):
        far = length / last.days
        shrunk = far ** min(uneven, 0.0)
        carried = _outlook(experiment, length, int(last.units * far**more), last.value, last.sd * shrunk,
                           last.adjusted_sd * shrunk, reach, counted=False)  # fmt: skip
        if carried.effect <= experiment.minimum_effect:
            return [*out, carried], length
    return out, None
