"""The evaluation as JSON and as one page that a product owner can read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from longtail.evaluation.bootstrap import Interval
from longtail.evaluation.frontier import told
from longtail.evaluation.system import Report, SystemFigures

GLOSSARY = {
    "recall@k": "Of the items a person went on to want, the share that stood in the first k places. Higher is better.",
    "NDCG@k": "Like recall, but an item counts more the higher it stands; 1 is the best possible order.",
    "hit rate@k": "Share of people who found at least one wanted item in the first k places.",
    "MRR@k": "One divided by the place of the first wanted item, averaged: 1 is always first, 0.5 always second.",
    "coverage@k": "Share of the catalogue that is shown to at least one person. Low means that most items never get a "
    "chance.",
    "Gini": "How unevenly the showings fall on the catalogue: 0 when every item is shown equally often, close to 1 "
    "when a few bestsellers take everything.",
    "novelty": "How surprising the shown items are, in bits: one bit more means items half as popular.",
    "diversity": "Share of the item pairs in a list that come from different categories.",
    "filled": "Share of the places that were filled: below 100% some lists were too short.",
    "interval": "The range that holds the true average in 95 of 100 such tests (bootstrap over people). Two systems "
    "whose difference has an interval above zero differ for more than luck.",
    "baseline": "A simple rule any shop could run: bestsellers, what the person had before, items bought together.",
    "source": "One of the recommender's own sources of candidates, used alone, without the ranker.",
    "head, mid, tail": "Items ordered by popularity and cut so that each part drew a third of all interactions.",
    "cold user, cold item": "A person without a history; an item that nobody had touched before the test.",
}


def verdict(report: Report) -> str:
    """The outcome in one sentence."""
    main = report.system(report.main)
    own = main.slices["overall"][report.primary].mean
    rivals = [s for s in report.systems if s.name != report.main]
    if not rivals:
        return f"{_title(report.main)} reaches {report.primary} {own:.3f}; nothing was set beside it."
    best = max(rivals, key=lambda s: s.slices["overall"][report.primary].mean)
    theirs = best.slices["overall"][report.primary].mean
    gain = best.gain
    if gain is None or not gain.low <= gain.high:
        return f"{_title(report.main)} could not be compared with {best.name}."
    size = f"{abs(own / theirs - 1):.0%}" if theirs > 0 else f"{abs(gain.mean):.3f}"
    if gain.low > 0:
        return (
            f"{_title(report.main)} leads on {report.primary}: {size} above the next best, {best.name}, "
            "and not by chance."
        )
    if gain.high < 0:
        return f"{_title(report.main)} is worse than {best.name}: {size} below it on {report.primary}."
    return (
        f"{_title(report.main)} and {best.name} are too close to call on {report.primary}: "
        f"the difference of {gain.mean:+.3f} could be chance."
    )


def reservations(report: Report) -> list[str]:
    """What speaks against the verdict, a sentence each: figures that flatter, and where another system is ahead of the
    main one by more than both intervals."""
    main = report.system(report.main)
    behind: dict[str, list[tuple[float, str]]] = {}
    for system in report.systems:
        for part, metrics in system.slices.items():
            checked = metrics if part == "overall" else {report.primary: metrics[report.primary]}
            for metric, found in checked.items():
                own = main.slices[part][metric]
                if found.cases and found.low > own.high:
                    where = metric if part == "overall" else f"{part} ({metric})"
                    behind.setdefault(system.name, []).append((found.mean - own.mean, where))
    ordered = sorted(behind.items(), key=lambda kv: -len(kv[1]))
    flattered = [] if report.unseen else [f"{report.main} had learned from the cases that it is judged by here."]
    ahead = [f"{name} is ahead of {report.main} on {_listed([w for _, w in found])}." for name, found in ordered]
    return flattered + ahead


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def plain_words(report: Report) -> str:
    """What the figures mean for people and for the catalogue, in two or three sentences."""
    main = report.system(report.main)
    k = report.ks[0]
    hits = main.slices["overall"][f"hit@{k}"].mean
    text = f"Of 100 people, {100 * hits:.0f} find something they want in the first {k} places. "
    coverage = main.catalogue["coverage"]
    text += f"Across everybody, {coverage:.0%} of the catalogue is shown to someone"
    popular = next((s for s in report.systems if "popular" in s.name.lower() and s.name != report.main), None)
    if popular is not None:
        text += f"; {popular.name} shows {_share(popular.catalogue['coverage'])}"
    return text + "."


def render(report: Report, title: str = "Evaluation", facts: Mapping[str, str] | None = None) -> str:
    """The page as HTML that needs no other file; `facts` (data, version, date, ...) stand under the title."""
    import jinja2

    from longtail.evaluation import plots

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)  # fmt: skip
    environment.filters |= {"interval": _interval, "share": _share, "two": lambda v: "–" if v != v else f"{v:.2f}"}
    template = environment.from_string(Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"))
    metrics = [f"{name}@{k}" for k in report.ks for name in ("recall", "ndcg", "hit", "mrr")]
    shown = compared(report)
    return template.render(
        title=title,
        facts={**(facts or {}), "people tested": f"{report.cases:,}", "items": f"{report.n_items:,}"},
        verdict=verdict(report),
        words=plain_words(report),
        reservations=reservations(report),
        report=report,
        main=report.system(report.main),
        systems=sorted(report.systems, key=lambda s: -s.slices["overall"][report.primary].mean),
        metrics=metrics,
        colours=plots.COLOUR,
        kind=lambda system: plots.kind(report, system),
        kinds={plots.kind(report, system) for system in report.systems},
        best={m: max(s.slices["overall"][m].mean for s in report.systems) for m in metrics},
        shown=shown,
        top=max(report.ks),
        glossary=GLOSSARY,
        systems_plot=plots.systems_plot(report, report.primary),
        slices_plot=plots.slices_plot(report, report.primary, shown),
        coverage_plot=plots.tradeoff_plot(report, report.primary, "coverage"),
        gini_plot=plots.tradeoff_plot(report, report.primary, "gini"),
        exposure_plot=plots.exposure_plot(report, shown),
        frontier_plot=plots.frontier_plot(report.frontiers) if report.frontiers else "",
        frontiers_told=told(report.frontiers),
        importance_plot=plots.importance_plot(report.importance) if report.importance else "",
    )


def compared(report: Report, most: int = 4) -> list[str]:
    """The main system, the baselines, and the best of the rest: those that fit in one picture."""

    def weight(system: SystemFigures) -> tuple[bool, bool, float]:
        return system.name != report.main, system.role != "baseline", -system.slices["overall"][report.primary].mean

    return [s.name for s in sorted(report.systems, key=weight)[:most]]


def write_report(
    report: Report, folder: Path, title: str = "Evaluation", facts: Mapping[str, str] | None = None
) -> tuple[Path, Path]:
    """Write `report.json` and `report.html` into an existing folder; each appears whole or not at all."""
    written = []
    for name, text in (("report.json", report.to_json()), ("report.html", render(report, title, facts))):
        beside = folder / f".{name}.{os.getpid()}"
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, folder / name)
        written.append(folder / name)
    return written[0], written[1]


def _title(name: str) -> str:
    return name[:1].upper() + name[1:]


def _share(value: float) -> str:
    return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"


def _interval(found: Interval | None) -> str:
    if found is None or not found.cases:
        return "–"
    return f"{found.low:.3f} – {found.high:.3f}"
