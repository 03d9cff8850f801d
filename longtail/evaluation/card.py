"""The model card: what a trained system is, what it learned from, how good it is, and where not to trust it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from longtail.evaluation.bias import BiasReport
from longtail.evaluation.report import GLOSSARY, compared, plain_words, reservations, verdict
from longtail.evaluation.system import Report

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ max-width: 960px; margin: 0 auto; padding: 32px 20px 64px; color: #22303a;
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }}
table {{ border-collapse: collapse; font-size: 14px; display: block; overflow-x: auto; }}
th, td {{ padding: 5px 9px; text-align: left; border-bottom: 1px solid #dde3e8; }}
</style></head><body>
{body}</body></html>
"""


@dataclass(frozen=True)
class Data:
    """What a system was trained on: counts, times as ISO text, and the fingerprint of the imported shop."""

    name: str
    fingerprint: str
    events: int
    users: int
    items: int
    first: str
    last: str


@dataclass(frozen=True)
class Training:
    """How it was trained: parameters by name, sources, number of features, their schema hash, seed."""

    params: Mapping[str, Any]
    sources: Sequence[str]
    features: int
    feature_schema: str
    seed: int | None = None
    notes: Sequence[str] = field(default_factory=tuple)


def model_card(report: Report, data: Data, training: Training, bias: BiasReport | None = None) -> str:
    """The card as Markdown.

    It lies in the bundle whose version is a hash of what lies in it, so it cannot name that.
    """
    return "\n\n".join(
        [
            f"# Model card: {report.main}, trained on events until {data.last}",
            verdict(report) + " " + plain_words(report),
            *_reservations(report),
            "## What it is",
            "A two-stage recommender. Candidate sources propose items, a gradient-boosted ranker orders them, and "
            "rules keep the list safe and varied. It answers with the items a person is likely to want next.",
            _table(("", ""), [("sources", ", ".join(training.sources)),
                              ("features", f"{training.features} (schema {training.feature_schema[:12]})"),
                              ("seed", "–" if training.seed is None else str(training.seed))]),
            "## What it learned from",
            _table(("", ""), [("data", data.name), ("fingerprint", data.fingerprint), ("events", f"{data.events:,}"),
                              ("people", f"{data.users:,}"), ("items", f"{data.items:,}"),
                              ("from", data.first), ("to", data.last)]),
            "People appear under keyed pseudonyms only; no name, address or raw id is kept in the bundle.",
            "## How good it is",
            f"Judged on {report.cases:,} cases {_which(report)}. The intervals are 95%, by bootstrap. "
            f"`{report.primary}` decides.",
            _quality(report),
            "### For whom, and for which items",
            _slices(report),
            "### What it does to the catalogue",
            _catalogue(report),
            *_bias(bias),
            *_importance(report),
            "## Limits",
            "\n".join(f"- {line}" for line in (*_limits(report), *training.notes)),
            "## Parameters",
            _table(("parameter", "value"), [(f"`{k}`", f"`{v}`") for k, v in sorted(training.params.items())]),
            "## Words",
            "\n".join(f"- **{name}**: {text}" for name, text in GLOSSARY.items()),
        ]
    ) + "\n"  # fmt: skip


def _which(report: Report) -> str:
    if report.unseen:
        return "after everything it was trained on"
    return "that it had learned from, because the log has no room for another window: its figures flatter it"


def _quality(report: Report) -> str:
    k = report.ks[0]
    metrics = [f"recall@{k}", f"ndcg@{k}", f"hit@{k}", f"mrr@{k}"]
    ordered = sorted(report.systems, key=lambda s: -s.slices["overall"][report.primary].mean)
    rows = []
    for system in ordered:
        name = f"**{system.name}**" if system.name == report.main else system.name
        rows.append((name, *(_figure(system.slices["overall"][m]) for m in metrics)))
    return _table(("system", *metrics), rows)


def _slices(report: Report) -> str:
    names = compared(report)
    cases = report.system(report.main).slices
    rows = [
        (f"{part}: {meaning}", f"{cases[part][report.primary].cases:,}",
         *(_figure(report.system(name).slices[part][report.primary]) for name in names))
        for part, meaning in report.meanings.items()
    ]  # fmt: skip
    return _table(("part", "cases", *names), rows)


def _catalogue(report: Report) -> str:
    names = list(report.system(report.main).catalogue)
    rows = [(s.name, *(f"{s.catalogue[n]:.3f}" for n in names)) for s in report.systems]
    return _table(("system", *(f"{n}@{max(report.ks)}" if n in ("coverage", "gini") else n for n in names)), rows)


def _importance(report: Report) -> list[str]:
    if not report.importance:
        return []
    total = sum(report.importance.values()) or 1.0
    top = sorted(report.importance.items(), key=lambda kv: -kv[1])[:15]
    rows = [(f"`{name}`", f"{value / total:.1%}") for name, value in top]
    return ["### What the ranker looks at", _table(("feature", "share of gain"), rows)]


def card_page(card: str, title: str) -> str:
    """The card as HTML that needs no other file; `card` is what `model_card` made."""
    import html

    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(card)
    return PAGE.format(title=html.escape(title), body=body)


def card_data(report: Report, data: Data, training: Training, bias: BiasReport | None = None) -> str:
    """What the card says, as JSON for other programs; a figure that does not exist is null."""
    content: dict[str, Any] = {
        "verdict": verdict(report), "reservations": reservations(report), "unseen": report.unseen,
        "cases": report.cases, "data": asdict(data), "training": asdict(training),
        "figures": report.figures(), "limits": [*_limits(report), *training.notes],
        "bias": None if bias is None else bias.findings(),
    }  # fmt: skip
    return json.dumps(_finite(content), indent=1)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _bias(bias: BiasReport | None) -> list[str]:
    if bias is None:
        return []
    found = [f"- {text}" for text in bias.findings()[:12]] or [
        "- No group of items surely gets a quarter more, or less, than people chose of it, and no group of people is "
        "surely served worse than everybody."
    ]
    people = [(s.segment, f"{s.value.cases:,}", _figure(s.value)) for s in bias.people]
    suppliers = [
        (
            g.name,
            f"{g.catalogue:.1%}",
            f"{g.chosen:.1%}",
            f"{g.shown.mean:.1%} ({g.shown.low:.1%} – {g.shown.high:.1%})",
        )
        for g in bias.groups
        if g.kind == "brand" and g.shown.cases
    ]
    out = ["### Who gets shown, and who is served", "\n".join(found)]
    if suppliers:
        out.append(_table(("supplier (brand)", "of the catalogue", "chosen", "shown"), suppliers))
    out.append(_table(("people and items", "cases", bias.metric), people))
    return [*out, "`evaluation/bias.html` in the bundle has categories, price bands, newness and popularity, too."]


def _reservations(report: Report) -> list[str]:
    return ["\n".join(f"- But {text}" for text in reservations(report))] if reservations(report) else []


def _limits(report: Report) -> list[str]:
    main = report.system(report.main).slices
    overall = main["overall"][report.primary]
    weak = [p for p, m in main.items() if m[report.primary].high < overall.low]
    thin = [p for p, m in main.items() if m[report.primary].cases < 100]
    lines = [
        "Measured on logged behaviour: people could only choose among what the shop showed them, so items "
        "that were rarely shown are judged too harshly, and a better figure here is not yet a better sale."
    ]
    if weak:
        lines.append(f"Serves these markedly worse than the average: {', '.join(weak)}.")
    if thin:
        lines.append(f"Fewer than 100 cases stand behind these figures: {', '.join(thin)}.")
    return [*lines, "Not meant for decisions about people, such as credit, prices per person, or access."]


def _figure(found: Any) -> str:
    return "–" if not found.cases else f"{found.mean:.4f} ({found.low:.4f} – {found.high:.4f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
