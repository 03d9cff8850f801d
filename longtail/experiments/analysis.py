"""What an experiment did: from a log to a result that says whether to ship, or that nothing can be read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from longtail.errors import InvalidInput
from longtail.experiments import sequential
from longtail.experiments.assignment import HOLDOUT
from longtail.experiments.config import OTHERS, Experiment
from longtail.experiments.estimate import Effect, compare, holm, ratio_check
from longtail.experiments.log import UnitLog, Window, open_log
from longtail.experiments.metrics import Metric
from longtail.experiments.moments import D, Moments
from longtail.experiments.unit_sums import MetricSums, make_ages
from longtail.schema import DAY_US

BROKEN_BELOW = 0.001  # chance of the split, below which nothing is read: one false alarm in a thousand experiments
CROSSED_ABOVE = 0.01  # share of units that met several variants, above which nothing is read
Role = Literal["metric", "guardrail", "also"]


@dataclass(frozen=True)
class Range:
    """An estimate and its interval; a lift is relative: 0.03 is 3%."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """One metric of one treatment against the control.

    `lift` and `difference` carry the interval of one look at the end, `any_day` the lift's interval that holds at any
    look, `p` and `p_any_day` in the same way; `p_holm` is corrected for its family and is the one that decides.
    `variance_left` is what CUPED left of the variance.
    """

    metric: str
    role: Role
    variant: str
    better: str
    control: float
    treatment: float
    difference: Range
    lift: Range
    any_day: Range
    p: float
    p_any_day: float
    p_holm: float
    variance_left: float
    margin: float = 0.0


@dataclass(frozen=True)
class Part:
    """The deciding metric on a part of the units."""

    by: str
    part: str
    variant: str
    units: int
    lift: Range


@dataclass(frozen=True)
class Novelty:
    """Does the effect wear off? Lift in the first `days` of a unit, in as many after them, chance of the change."""

    variant: str
    days: int
    early: Range
    late: Range
    p: float


@dataclass(frozen=True)
class Result:
    """What came of an experiment. `units` by variant, `split_p` the chance of such a split, `broken` why nothing may be
    read ('' if it may: only then are there lines). `days` of `planned_days` have been seen, `daily` holds for each
    treatment the any-day interval of the deciding lift at the end of each day, `by_age` the lift by days since first
    exposure."""

    name: str
    control: str
    looks: str
    minimum_effect: float
    alpha: float
    days: int
    planned_days: int
    complete: bool
    units: dict[str, int]
    planned_shares: dict[str, float]
    crossed: int
    split_p: float
    broken: str = ""
    lines: list[Line] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    novelty: list[Novelty] = field(default_factory=list)
    daily: dict[str, list[Range]] = field(default_factory=dict)
    by_age: dict[str, list[Range]] = field(default_factory=dict)
    kind: str = "split"

    def line(self, metric: str, variant: str) -> Line:
        """One metric of one treatment."""
        return next(line for line in self.lines if (line.metric, line.variant) == (metric, variant))

    @property
    def metric(self) -> str:
        """The deciding metric."""
        return next((line.metric for line in self.lines if line.role == "metric"), "")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def analyse(experiment: Experiment, folder: Path | str, now: int) -> Result:
    """Read the log of a state folder or an imported shop and judge the experiment.

    `now` in microseconds since 1970; nothing after it is read. It is complete when `now` is past its end and the log
    reaches into its last day.

    Raises:
        InvalidInput: the log cannot be read, names no variants, or does not reach the experiment's days.
    """
    with open_log(folder, experiment.unit) as log:
        if not log.has_variants and experiment.kind != "holdout":
            raise InvalidInput(f"{folder} names no variants: import the servers' logs (`longtail import collected`)")
        dates = experiment.dates
        seen = min(now, log.last + 1)
        if seen <= dates.start_us:
            raise InvalidInput(f"the log of {folder} ends before the experiment starts on {dates.start}")
        covariate = 0 if experiment.unit == "session" else experiment.covariate_days
        end = min(seen, dates.end_us)
        window = Window(dates.start_us, end, dates.start_us - covariate * DAY_US)
        complete = now >= dates.end_us and seen > dates.end_us - DAY_US
        if experiment.kind == "holdout":
            log.units(window, experiment.surfaces)
            log.held_out(window, experiment.holdout, OTHERS)
        else:
            log.units(window, experiment.surfaces, tuple(experiment.variants), experiment.name)
        result = _checked(experiment, log, window, complete)
        return result if result.broken else _read(experiment, log, window, result)


def _checked(experiment: Experiment, log: UnitLog, window: Window, complete: bool) -> Result:
    """The result before any metric is looked at: can it be read?"""
    rows = log.con.execute("SELECT variant, count(*) FILTER (NOT crossed), count(*) FILTER (crossed) FROM units "
                           "GROUP BY variant").fetchall()  # fmt: skip
    counts = {variant: int(whole) for variant, whole, _ in rows}
    units = {name: counts.get(name, 0) for name in experiment.variants}
    crossed = sum(int(row[2]) for row in rows)
    if not rows:
        raise InvalidInput(
            f"nobody met {', '.join(experiment.variants)} of {experiment.name}{experiment.where} between "
            f"{experiment.dates.start} and {experiment.dates.end}: `longtail experiment status` says what was started"
        )
    shares = np.array(list(experiment.shares.values()))
    p = float(ratio_check(np.array(list(units.values())), shares))
    broken = why_broken(units, experiment.shares, crossed, p)
    if experiment.kind == "holdout" and crossed > CROSSED_ABOVE * (units[HOLDOUT] + crossed):
        broken = (
            f"{crossed:,} of {units[HOLDOUT] + crossed:,} units of the holdout met an experiment: the servers held out "
            f"less than {experiment.holdout:.1%} of all"
        )
    return Result(
        experiment.name, experiment.control, experiment.looks, experiment.minimum_effect, experiment.alpha, window.days,
        experiment.dates.days, complete, units, experiment.shares, crossed, p, broken, kind=experiment.kind,
    )  # fmt: skip


def why_broken(units: dict[str, int], shares: dict[str, float], crossed: int, p: float) -> str:
    """Why nothing may be read from an experiment, '' where it may."""
    total = sum(units.values())
    if crossed > CROSSED_ABOVE * (total + crossed):
        return f"{crossed:,} of {total + crossed:,} units met more than one variant: the assignment was not sticky"
    if p < BROKEN_BELOW:
        found = ", ".join(f"{name} {n:,} (planned {shares[name] * total:,.0f})" for name, n in units.items())
        return (
            f"the split is not the planned one: {found}; chance {p:.1g}. Exposure or logging differs between variants"
        )
    few = [name for name, n in units.items() if n < 2]
    if few:
        return f"{', '.join(few)} has too few units to compare"
    return ""


def _read(experiment: Experiment, log: UnitLog, window: Window, result: Result) -> Result:
    log.sums(window, experiment.metrics)
    names = tuple(experiment.variants)
    roles: list[tuple[Role, Metric, float]] = [("metric", experiment.metric, 0.0)]
    roles += [("guardrail", g.metric, g.margin) for g in experiment.guardrails]
    roles += [("also", metric, 0.0) for metric in experiment.also]
    lines: list[Line] = []
    parts: list[Part] = []
    novelty: list[Novelty] = []
    daily: dict[str, list[Range]] = {}
    by_age: dict[str, list[Range]] = {}
    alpha = _level(experiment)
    for role, metric, margin in roles:
        sums = MetricSums(log, metric, window, names)
        days = sums.daily()
        own = alpha if role == "metric" else experiment.alpha
        for v, variant in enumerate(names[1:], start=1):
            effect, reach, p = looked_at(days, v, experiment.dates.days, own)
            lines.append(_line(metric, role, variant, margin, effect, reach, p, own))
            if role == "metric":
                daily[variant] = [_lift(effect, reach[d], d) for d in range(window.days)]
        if role == "metric":
            parts = _parts(experiment, sums, names)
            make_ages(log, window, metric)
            by_age, novelty = _over_time(experiment, sums, names)
    return Result(**{**result.__dict__, "lines": _corrected(lines, experiment.looks), "parts": parts,
                       "novelty": novelty, "daily": daily, "by_age": by_age})  # fmt: skip


def looked_at(days: Moments, v: int, planned: int, alpha: float) -> tuple[Effect, np.ndarray, np.ndarray]:
    """The effect of variant `v` at the end of each day, moments [variants, days, ...]: effects [days, ...], how many
    standard errors the any-day interval reaches, and the p value that holds at any look, both [days, ...]."""
    effect = compare(days[0], days[v])
    enough = np.minimum(days.n[0], days.n[v]) >= sequential.LEAST_UNITS
    with np.errstate(invalid="ignore", divide="ignore"):
        below = (days.n[0] * days.mean[0, ..., D] + days.n[v] * days.mean[v, ..., D]) / effect.n
    seen = np.where(enough & (effect.se > 0), sequential.information(effect.n, effect.se, below), 0.0)
    first = np.take_along_axis(seen, np.argmax(seen > 0, axis=0)[None], 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        time = np.where(seen > 0, seen / sequential.clock(first, planned, alpha), 0.0)
    p = np.where(seen > 0, sequential.p_value(effect.z, time), 1.0)
    return effect, sequential.width(time, alpha), p


def _level(experiment: Experiment) -> float:
    """The deciding metric's intervals hold for all treatments together."""
    return experiment.alpha / len(experiment.treatments)


def _line(
    metric: Metric, role: Role, variant: str, margin: float, effect: Effect, reach: np.ndarray, p: np.ndarray,
    alpha: float,
) -> Line:  # fmt: skip
    wide = float(effect.width(alpha)[-1])
    difference, se = float(effect.difference[-1]), float(effect.se[-1])
    return Line(
        metric.name, role, variant, metric.better, float(effect.control[-1]), float(effect.treatment[-1]),
        Range(difference, difference - wide * se, difference + wide * se), _lift(effect, wide, -1),
        _lift(effect, reach[-1], -1), float(effect.p_value()[-1]), float(p[-1]), np.nan, float(effect.kept[-1]), margin,
    )  # fmt: skip


def _lift(effect: Effect, wide: float, at: Any) -> Range:
    value, se = float(effect.lift[at]), float(effect.lift_se[at])
    if not np.isfinite(value) or not np.isfinite(se) or not np.isfinite(wide):
        return Range(value, float("-inf"), float("inf"))
    return Range(value, value - float(wide) * se, value + float(wide) * se)


def _corrected(lines: Sequence[Line], looks: str) -> list[Line]:
    """P values by Holm in two families: the deciding metric over the treatments, and all that is only told over metrics
    and treatments. Guardrails all have to hold, which needs no correction."""
    out = list(lines)
    for role in ("metric", "also", "guardrail"):
        of = [i for i, line in enumerate(lines) if line.role == role]
        p = np.array([lines[i].p_any_day if looks == "any_day" else lines[i].p for i in of])
        for i, corrected in zip(of, p if role == "guardrail" else holm(p), strict=True):
            out[i] = Line(**{**lines[i].__dict__, "p_holm": float(corrected)})
    return out


def _parts(experiment: Experiment, sums: MetricSums, names: Sequence[str]) -> list[Part]:
    out = []
    for by in experiment.slices:
        for part, moments in sums.slices(by).items():
            if (moments.n < 2).any():
                continue
            for v, variant in enumerate(names[1:], start=1):
                effect = compare(moments[0], moments[v])
                wide = float(effect.width(experiment.alpha))
                out.append(Part(by, part, variant, int(moments.n[0] + moments.n[v]), _lift(effect, wide, ())))
    return out


def _over_time(
    experiment: Experiment, sums: MetricSums, names: Sequence[str]
) -> tuple[dict[str, list[Range]], list[Novelty]]:
    ages = sums.by_age()
    by_age: dict[str, list[Range]] = {}
    for v, variant in enumerate(names[1:], start=1):
        effect = compare(ages[0], ages[v], cuped=False)
        known = [d for d in range(len(effect.n)) if min(ages.n[0, d], ages.n[v, d]) >= sequential.LEAST_UNITS]
        by_age[variant] = [_lift(effect, effect.width(experiment.alpha)[d], d) for d in known]
    found = sums.early_and_late()
    if found is None:
        return by_age, []
    half, early, late, change = found
    novelty = []
    for v, variant in enumerate(names[1:], start=1):
        first, then = (compare(m[0], m[v], cuped=False) for m in (early, late))
        ranges = [_lift(e, float(e.width(experiment.alpha)), ()) for e in (first, then)]
        p = float(compare(change[0], change[v], cuped=False).p_value())
        novelty.append(Novelty(variant, half, ranges[0], ranges[1], p))
    return by_age, novelty
