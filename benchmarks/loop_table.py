"""The loop's figures over seeds: the last month of each system, and what it has over the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

Runs = Mapping[str, Sequence[Mapping[str, np.ndarray]]]

LAST = 30  # days at the end that count
TITLES = {
    "longtail": "Longtail", "plain": "Longtail, no correction, no exploration", "popularity": "popularity",
    "correction only": "correction only", "exploration only": "exploration only",
}  # fmt: skip
PAIRS = (
    ("longtail", "popularity"), ("longtail", "plain"), ("correction only", "plain"), ("exploration only", "plain"),
)  # fmt: skip
FIGURES = {
    "utility": "true utility, sd", "clicks": "true clicks a list", "revenue": "true revenue a list", "gini": "Gini",
    "coverage": "coverage of a week", "new_share": "share of new items", "discovered": "new items found",
}  # fmt: skip


def ended(runs: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
    """Mean of the last month, float64 [seeds]."""
    return np.array([np.nanmean(run[name][-LAST:]) for run in runs])


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over seeds and its 95% interval (Student's t)."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def table(runs: Runs) -> str:
    """Markdown: every system, then the paired differences to the first one."""
    names = list(runs)
    lines = [f"Mean of the last {LAST} days, 95% over seeds", ""]
    lines += ["| | " + " | ".join(TITLES[name] for name in names) + " |", "| --- " * (len(names) + 1) + "|"]
    lines.append("| seeds | " + " | ".join(str(len(runs[arm])) for arm in names) + " |")
    for name, title in FIGURES.items():
        cells = [_cell(interval(ended(runs[arm], name))) for arm in names]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    pairs = [(a, b) for a, b in PAIRS if a in runs and b in runs]
    if pairs:
        lines += ["", "The one less the other, seed by seed", ""]
        lines += ["| | " + " | ".join(f"{TITLES[a]} less {TITLES[b]}" for a, b in pairs) + " |"]
        lines += ["| --- " * (len(pairs) + 1) + "|"]
        for name, title in FIGURES.items():
            cells = [_cell(interval(_difference(runs, a, b, name)), "+") for a, b in pairs]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _difference(runs: Runs, one: str, other: str, name: str) -> np.ndarray:
    """Over the seeds that both have, float64 [seeds]."""
    both = min(len(runs[one]), len(runs[other]))
    return ended(runs[one][:both], name) - ended(runs[other][:both], name)


def _cell(found: tuple[float, float, float], sign: str = "") -> str:
    mean, low, high = found
    return f"{mean:{sign}.3f} ({low:{sign}.3f} .. {high:{sign}.3f})"
