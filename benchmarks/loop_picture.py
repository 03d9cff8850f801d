"""The loop as one picture."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.loop_table import TITLES, Runs, shared
from longtail.evaluation.plots import STYLE

COLOURS = {"longtail": "#0a7d6b", "plain": "#c2762b", "popularity": "#3b5b92"}
PANELS = {
    "utility": "true utility of what is shown, sd", "revenue": "true revenue a list",
    "discovered": "new items found, share", "coverage": "coverage of a week", "gini": "Gini of a week's showings",
    "new_share": "showings of new items, share",
}  # fmt: skip
WEEK = 7


def draw(runs: Runs, path: Path) -> None:
    """Write a PNG: weekly means over the days, with the 95% interval over the seeds that all drawn systems have."""
    drawn = [arm for arm in COLOURS if arm in runs]
    seeds = shared(runs, drawn)
    with mpl.rc_context({**STYLE, "font.size": 10}):
        figure = Figure(layout="constrained", figsize=(11, 5.6), dpi=110)
        for axes, (name, title) in zip(figure.subplots(2, 3).ravel(), PANELS.items(), strict=True):
            for arm in drawn:
                days = np.stack([_weekly(runs[arm][seed][name]) for seed in seeds])
                mean, n = days.mean(0), len(days)
                day = np.arange(len(mean)) + WEEK
                axes.plot(day, mean, color=COLOURS[arm], lw=2.2 if arm == "longtail" else 1.6, label=TITLES[arm])
                if n > 1:
                    half = stats.t.ppf(0.975, n - 1) * days.std(0, ddof=1) / np.sqrt(n)
                    axes.fill_between(day, mean - half, mean + half, color=COLOURS[arm], alpha=0.15, lw=0)
            axes.set_title(title, fontsize=10, loc="left")
            axes.set_xlim(WEEK, None)
        for axes in figure.axes[3:]:
            axes.set_xlabel("day")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        FigureCanvasAgg(figure).print_png(beside, metadata={"Software": None})
        os.replace(beside, path)


def _weekly(days: np.ndarray) -> np.ndarray:
    """The mean of each day and the six before it; days without a figure do not count."""
    windows = np.lib.stride_tricks.sliding_window_view(days, WEEK)
    known = np.isfinite(windows)
    return np.where(known, windows, 0).sum(1) / np.maximum(known.sum(1), 1)
