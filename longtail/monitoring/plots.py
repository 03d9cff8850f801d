"""The pictures of a monitor's report, as SVG text that stands inside a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, timedelta

import matplotlib as mpl
from matplotlib.figure import Figure

from longtail.evaluation.plots import COLOUR, STYLE, svg
from longtail.monitoring.checks import Check
from longtail.monitoring.signal import Signal

BAD, FAINT = "#b03a48", "#93a1ad"


def course(signals: Sequence[Signal], check: Check) -> str:
    """One part of a check over its days: values with their intervals, the thresholds they were held against, and where
    it fired."""
    known = [s for s in signals if math.isfinite(s.value)]
    days = [date.fromisoformat(s.day) for s in known]
    part = known[-1].part if known else ""
    with mpl.rc_context({**STYLE, "font.size": 9}):
        figure = Figure(layout="constrained", figsize=(4.4, 1.7))
        axes = figure.add_subplot()
        axes.plot(days, [s.value for s in known], color=COLOUR["main"], lw=1.6, marker="o", ms=2.5)
        if any(s.interval for s in known):
            low, high = zip(*[s.interval or (s.value, s.value) for s in known], strict=True)
            axes.fill_between(days, low, high, color=COLOUR["main"], alpha=0.18, lw=0)
        bounds = [(d, s.threshold) for d, s in zip(days, known, strict=True) if math.isfinite(s.threshold)]
        if bounds:
            axes.plot(*zip(*bounds, strict=True), color=FAINT, lw=1.2, ls="--")
        fired = [(d, s.value) for d, s in zip(days, known, strict=True) if s.fired]
        if fired:
            axes.scatter(*zip(*fired, strict=True), color=BAD, s=22, zorder=3)
        if days:  # a first day alone would get an axis of years
            axes.set_xlim(min(days[0], days[-1] - timedelta(days=6)), days[-1] + timedelta(days=1))
        axes.set_title(f"{part or check.name}", loc="left", fontsize=9)
        axes.set_ylabel(check.unit)
        axes.tick_params(axis="x", labelrotation=0)
        axes.xaxis.set_major_locator(mpl.dates.AutoDateLocator(minticks=2, maxticks=4))
        axes.xaxis.set_major_formatter(mpl.dates.DateFormatter("%d %b"))
        return svg(figure, f"{check.name}-{part}")
