"""The loop's figures over seeds: the last month of each system, and what it has over the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from scipy import stats

Run = Mapping[str, np.ndarray]  # figure -> float64 [days]
Runs = Mapping[str, Mapping[int, Run]]  # system -> seed -> its run

LAST = 30  # days at the end that count
TITLES = {
    "longtail": "Longtail", "plain": "Longtail, no correction, no exploration", "popularity": "popularity",
    "correction only": "correction only", "exploration only": "exploration only",
}  # fmt: skip
MAIN = ("longtail", "plain", "popularity")
PAIRS = (
    ("longtail", "popularity"), ("longtail", "plain"), ("correction only", "plain"), ("exploration only", "plain"),
)  # fmt: skip
FIGURES = {
    "utility": "true utility, sd", "clicks": "true clicks a list", "revenue": "true revenue a list", "gini": "Gini",
    "coverage": "coverage of a week", "new_share": "share of new items", "discovered": "new items found",
}  # fmt: skip
RELATIVE = ("clicks", "revenue")  # shops differ so much in these that a difference says little: a ratio does


def ended(runs: Iterable[Run], name: str, first: bool = False) -> np.ndarray:
    """Mean of the last month, or of the first, float64 [seeds]."""
    return np.array([np.nanmean(run[name][:LAST] if first else run[name][-LAST:]) for run in runs])


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over seeds and its 95% interval (Student's t)."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def shared(runs: Runs, systems: Iterable[str]) -> list[int]:
    """The seeds that all of these systems have run."""
    sets = [set(runs[name]) for name in systems]
    return sorted(set.intersection(*sets)) if sets else []


def table(runs: Runs) -> str:
    """Markdown: the main systems on the same seeds, then the differences of pairs, seed by seed."""
    main = [name for name in MAIN if name in runs]
    seeds = shared(runs, main)
    lines = []
    if seeds:
        lines += [
            f"Mean of the last {LAST} days (behind the semicolon: of the first), {len(seeds)} seeds, 95% over seeds",
            "",
        ]
        lines += ["| | " + " | ".join(TITLES[name] for name in main) + " |", "| --- " * (len(main) + 1) + "|"]
        for name, title in FIGURES.items():
            each = {arm: [runs[arm][s] for s in seeds] for arm in main}
            cells = [_both(e, name) for e in each.values()]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    pairs = [(a, b) for a, b in PAIRS if a in runs and b in runs and shared(runs, (a, b))]
    if pairs:
        heads = [title + (", ratio" if name in RELATIVE else "") for name, title in FIGURES.items()]
        lines += ["", "| the one less the other | seeds | " + " | ".join(heads) + " |"]
        lines += ["| --- " * (len(FIGURES) + 2) + "|"]
        for a, b in pairs:
            cells = [_cell(interval(_difference(runs, a, b, name)), "+") for name in FIGURES]
            lines.append(f"| {TITLES[a]} less {TITLES[b]} | {len(shared(runs, (a, b)))} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _both(runs: Iterable[Run], name: str) -> str:
    runs = list(runs)
    return f"{_cell(interval(ended(runs, name)))}; {ended(runs, name, first=True).mean():.3f}"


def _difference(runs: Runs, one: str, other: str, name: str) -> np.ndarray:
    """Over the seeds that both have, float64 [seeds]; of `RELATIVE` figures the ratio less 1."""
    seeds = shared(runs, (one, other))
    own, theirs = (ended([runs[system][s] for s in seeds], name) for system in (one, other))
    return own / theirs - 1 if name in RELATIVE else own - theirs


def _cell(found: tuple[float, float, float], sign: str = "") -> str:
    mean, low, high = found
    return f"{mean:{sign}.3f}" + (f" ({low:{sign}.3f} .. {high:{sign}.3f})" if low == low else "")
