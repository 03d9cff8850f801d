"""The pictures of an experiment's report, as SVG text that stands inside a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from longtail.evaluation.plots import COLOUR, INK, STYLE, svg
from longtail.experiments.analysis import Line, Part, Range, Result

GAIN, LOSS, OPEN = COLOUR["main"], "#b03a48", "#93a1ad"
PALETTE = (COLOUR["main"], COLOUR["system"], COLOUR["baseline"], "#a2497b", "#7a8b3c")


def lifts_plot(result: Result, deciding: Mapping[tuple[str, str], Range]) -> str:
    """Every metric's lift with the interval that decides, the deciding metric on top; guardrails with their margin."""
    lines = [line for line in reversed(result.lines) if np.isfinite(line.lift.value)]
    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained", figsize=(8, 1.0 + 0.42 * max(len(lines), 1)))
        axes = figure.add_subplot()
        for y, line in enumerate(lines):
            found = deciding[line.metric, line.variant]
            _interval(axes, found, y, _colour(found, line.better), line.role == "metric")
            if line.role == "guardrail":
                edge = -line.margin if line.better == "higher" else line.margin
                axes.plot([edge, edge], [y - 0.3, y + 0.3], color=LOSS, lw=1.5)
        many = len({line.variant for line in lines}) > 1
        axes.set_yticks(range(len(lines)), [_label(line, many) for line in lines])
        axes.grid(axis="y", visible=False)
        _zero(axes, "x")
        axes.set_xlabel(f"change against {result.control}, with the interval that decides")
        return svg(figure, "lifts")


def daily_plot(result: Result) -> str:
    """The deciding metric's lift at the end of each day, with intervals that hold at any look."""
    series = {name: list(enumerate(ranges, start=1)) for name, ranges in result.daily.items()}
    return over_days(series, "day of the experiment", f"change of {result.metric}", "daily")


def age_plot(result: Result) -> str:
    """The deciding metric's lift by days since a unit's first exposure, each day by itself."""
    series = {name: list(enumerate(ranges, start=1)) for name, ranges in result.by_age.items()}
    return over_days(series, "day since first exposure", f"change of {result.metric}", "age")


def parts_plot(parts: Sequence[Part]) -> str:
    """The deciding metric's lift on parts of the units."""
    rows = [p for p in reversed(parts) if np.isfinite(p.lift.low)]
    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained", figsize=(8, 1.0 + 0.36 * max(len(rows), 1)))
        axes = figure.add_subplot()
        for y, part in enumerate(rows):
            _interval(axes, part.lift, y, COLOUR["system"], False)
        many = len({p.variant for p in rows}) > 1
        names = [f"{p.by}: {p.part}" + (f" ({p.variant})" if many else "") for p in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.grid(axis="y", visible=False)
        _zero(axes, "x")
        return svg(figure, "parts")


def leads_plot(leads: Sequence[tuple[str, Range]], wanted: float, label: str) -> str:
    """The lead in a duel, of all lists and then of parts of them; a dotted line at the lead that was `wanted`."""
    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained", figsize=(8, 1.0 + 0.42 * len(leads)))
        axes = figure.add_subplot()
        for y, (_, found) in enumerate(reversed(leads)):
            _interval(axes, found, y, _colour(found, "higher"), y == len(leads) - 1)
        axes.set_yticks(range(len(leads)), [name for name, _ in reversed(leads)])
        axes.grid(axis="y", visible=False)
        axes.set_ylim(-0.6, len(leads) - 0.4)
        axes.axvline(wanted, color=INK, lw=0.9, ls=":")
        _zero(axes, "x")
        axes.set_xlabel(label)
        return svg(figure, "leads")


def over_days(series: Mapping[str, list[tuple[int, Range]]], label: str, of: str, name: str) -> str:
    """Values with their intervals by day, a colour for each of the `series`."""
    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained", figsize=(8, 3.2))
        axes = figure.add_subplot()
        for colour, (variant, found) in zip(PALETTE * 4, series.items(), strict=False):
            known = [(day, r) for day, r in found if np.isfinite(r.low)]
            if not known:
                continue
            days = [day for day, _ in known]
            axes.fill_between(
                days, [r.low for _, r in known], [r.high for _, r in known], color=colour, alpha=0.18, lw=0
            )
            axes.plot(days, [r.value for _, r in known], color=colour, lw=2, marker="o", ms=3.5, label=variant)
        _zero(axes, "y")
        axes.set_xlabel(label)
        axes.set_ylabel(of)
        if len(series) > 1:
            figure.legend(loc="outside upper center", ncols=4, frameon=False)
        return svg(figure, name)


def _interval(axes: Any, found: Range, y: float, colour: str, strong: bool) -> None:
    if np.isfinite(found.low) and np.isfinite(found.high):
        axes.plot([found.low, found.high], [y, y], color=colour, lw=3.5 if strong else 2, solid_capstyle="round")
    axes.scatter([found.value], [y], s=75 if strong else 36, color=colour, zorder=3)


def _zero(axes: Any, along: str) -> None:
    (axes.axvline if along == "x" else axes.axhline)(0, color=INK, lw=0.9)
    getattr(axes, f"{along}axis").set_major_formatter(PercentFormatter(1.0))


def _colour(found: Range, better: str) -> str:
    if found.low <= 0 <= found.high:
        return OPEN
    return GAIN if (found.low > 0) == (better == "higher") else LOSS


def _label(line: Line, many: bool) -> str:
    return line.metric + (f" ({line.variant})" if many else "")
