"""The report's pictures, as SVG text that stands inside a page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from longtail.evaluation.bootstrap import Interval
from longtail.evaluation.frontier import Frontier
from longtail.evaluation.system import EXPOSURE_SHARES, Report, SystemFigures

COLOUR = {"main": "#0a7d6b", "system": "#3b5b92", "baseline": "#c2762b", "source": "#93a1ad"}
INK, FAINT = "#22303a", "#dde3e8"
STYLE = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": FAINT, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": FAINT, "axes.axisbelow": True,
}  # fmt: skip


def kind(report: Report, system: SystemFigures) -> str:
    """Key into `COLOUR`."""
    return "main" if system.name == report.main else system.role


def systems_plot(report: Report, metric: str) -> str:
    """Mean and interval of every system, best on top."""
    ordered = sorted(report.systems, key=lambda s: s.slices["overall"][metric].mean)
    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained", figsize=(8, 0.9 + 0.38 * len(ordered)))
        axes = figure.add_subplot()
        for y, system in enumerate(ordered):
            _dot(axes, system.slices["overall"][metric], y, COLOUR[kind(report, system)], report.main == system.name)
        axes.set_yticks(range(len(ordered)), [s.name for s in ordered])
        axes.grid(axis="y", visible=False)
        _from_zero(axes)
        axes.set_xlabel(f"{metric}, with 95% interval")
        return svg(figure, "systems")


def slices_plot(report: Report, metric: str, names: Sequence[str]) -> str:
    """Mean and interval of a few systems on every slice."""
    slices = list(reversed(report.meanings))
    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained", figsize=(8, 1.1 + 0.22 * len(slices) * (len(names) + 0.8)))
        axes = figure.add_subplot()
        step = 0.7 / max(len(names), 1)
        palette = _shades(report, names)
        for row, part in enumerate(slices):
            for index, name in enumerate(names):
                y = row + 0.35 - step * (index + 0.5)
                found = report.system(name).slices[part][metric]
                _dot(axes, found, y, palette[name], name == report.main, label=name if row == 0 else None)
        axes.set_yticks(range(len(slices)), slices)
        axes.grid(axis="y", visible=False)
        _from_zero(axes)
        axes.set_xlabel(f"{metric}, with 95% interval")
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
        return svg(figure, "slices")


def tradeoff_plot(report: Report, metric: str, across: str) -> str:
    """Quality against what the lists do to the catalogue (`across`: coverage or gini)."""
    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained", figsize=(5.4, 4))
        axes = figure.add_subplot()
        points = [(s.catalogue[across], s.slices["overall"][metric].mean, s) for s in report.systems]
        taken: list[tuple[float, float]] = []
        wide = max(p[0] for p in points) or 1.0
        high = max(p[1] for p in points) or 1.0
        for x, y, system in sorted(points, key=lambda p: -p[1]):
            colour = COLOUR[kind(report, system)]
            axes.scatter([x], [y], s=90 if system.name == report.main else 40, color=colour, zorder=3)
            crowded = any(abs(x - a) < 0.3 * wide and abs(y - b) < 0.055 * high for a, b in taken)
            if not crowded:
                axes.annotate(system.name, (x, y), xytext=(7, 4), textcoords="offset points", fontsize=9.5,
                              weight="bold" if system.name == report.main else "normal")  # fmt: skip
                taken.append((x, y))
        axes.set_ylim(bottom=0, top=1.12 * high)
        axes.set_xlim(0, 1.35 * wide if across == "coverage" else max(1.0, 1.25 * wide))
        axes.set_xticks([t for t in axes.get_xticks() if 0 <= t <= 1.0001])
        axes.set_ylabel(metric)
        top = max(report.ks)
        axes.set_xlabel(
            f"coverage@{top}: share of the catalogue shown to anyone" if across == "coverage" else
            f"Gini@{top} of showings: 0 even, 1 all on one item"
        )  # fmt: skip
        return svg(figure, f"tradeoff-{across}")


def exposure_plot(report: Report, names: Sequence[str]) -> str:
    """Share of all showings that the most shown items get."""
    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained", figsize=(5.4, 4))
        axes = figure.add_subplot()
        palette = _shades(report, names)
        for name in names:
            x = [0, *(100 * s for s in EXPOSURE_SHARES)]
            y = [0, *(100 * s for s in report.exposure[name])]
            main = name == report.main
            axes.plot(x, y, color=palette[name], lw=2.6 if main else 1.5, zorder=3 if main else 2, label=name)
        axes.plot([0, 100], [0, 100], color=INK, lw=0.8, ls=":")
        axes.annotate("all items shown equally", (42, 34), fontsize=9, rotation=33, color=INK)
        axes.set_xlabel("most shown items, % of the catalogue")
        axes.set_ylabel("% of all showings")
        figure.legend(frameon=False, fontsize=9, loc="outside upper center", ncols=4, columnspacing=1, handlelength=1.2)
        return svg(figure, "exposure")


def frontier_plot(frontiers: Sequence[Frontier]) -> str:
    """Money a list against NDCG of conversion, a picture for each goal."""
    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained", figsize=(3.6 * len(frontiers), 3.4))
        for axes, found in zip(np.atleast_1d(figure.subplots(1, len(frontiers))), frontiers, strict=True):
            x, y = ([getattr(p, name).mean for p in found.points] for name in ("ndcg", "brings"))
            axes.plot(x, y, color=COLOUR["main"], lw=1.5)
            axes.scatter(x, y, color=COLOUR["main"], s=36, zorder=3)
            for at, point in enumerate(found.points):
                axes.annotate(f"{point.share:g}", (x[at], y[at]), xytext=(5, 5), textcoords="offset points", fontsize=9)
            axes.margins(0.15)
            axes.set_xlabel(f"NDCG@{found.k} of conversion")
            axes.set_ylabel(f"{found.goal} a list")
        return svg(figure, "frontier")


def importance_plot(importance: Mapping[str, float], most: int = 20) -> str:
    """The features that the ranker's gain comes from."""
    top = sorted(importance.items(), key=lambda kv: kv[1])[-most:]
    total = sum(importance.values()) or 1.0
    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained", figsize=(8, 0.8 + 0.27 * len(top)))
        axes = figure.add_subplot()
        axes.barh([n for n, _ in top], [100 * v / total for _, v in top], color=COLOUR["main"], height=0.65)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("% of the ranker's total gain")
        return svg(figure, "importance")


def _from_zero(axes: Any) -> None:
    """Start a little left of zero, so that a dot at zero is not cut in half."""
    axes.set_xlim(left=-0.012 * axes.get_xlim()[1])
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _dot(axes: Any, found: Interval, y: float, colour: str, strong: bool, label: str | None = None) -> None:
    axes.plot([found.low, found.high], [y, y], color=colour, lw=3 if strong else 2, solid_capstyle="round", alpha=0.75)
    axes.scatter([found.mean], [y], s=70 if strong else 36, color=colour, zorder=3, label=label)


def _shades(report: Report, names: Sequence[str]) -> dict[str, str]:
    """One colour a system, the main one always the same."""
    others = ("#c2762b", "#3b5b92", "#93a1ad", "#a2497b", "#7a8b3c", "#5b4a8a", "#b8a23a")
    rest = [n for n in names if n != report.main]
    return {report.main: COLOUR["main"], **{n: others[i % len(others)] for i, n in enumerate(rest)}}


def svg(figure: Figure, name: str) -> str:
    """A drawn figure as SVG text that can stand in a page beside others; `name` must be its own there."""
    # Ids are salted by the picture's name: pictures share one page, and the same figures must give the same bytes.
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(r'(id="|xlink:href="#|href="#|url\(#)', rf"\g<1>{name}-", text)
