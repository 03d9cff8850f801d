"""The verdicts of a day as JSON and as one page whose first sentence says whether anything needs attention."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longtail.monitoring.checks import CHECKS, Check, judged
from longtail.monitoring.judging import worst
from longtail.monitoring.signal import SEVERITIES, Signal

PLOTTED = 12  # parts of one check that get a picture


@dataclass(frozen=True)
class Block:
    """One check on the page: its fired signals, the others, and pictures of the days before."""

    check: Check
    fired: list[Signal]
    quiet: list[Signal]
    plots: list[str]

    @property
    def measured(self) -> list[Signal]:
        """What could be measured."""
        return [s for s in (*self.fired, *self.quiet) if math.isfinite(s.value)]

    @property
    def rated(self) -> bool:
        """Does chance move the values, so that they have intervals?"""
        return any(s.interval for s in self.measured)


def sentence(signals: Sequence[Signal]) -> str:
    """Whether anything needs attention, in one sentence."""
    by_severity = {severity: _names(signals, severity) for severity in reversed(SEVERITIES)}
    critical, warning, info = by_severity.values()
    if critical:
        more = f"; {_count(len(warning), 'other check warns', 'other checks warn')}" if warning else ""
        return f"Needs attention now: {_listed(critical)}{more}."
    if warning:
        return f"Nothing is critical, but look at {_listed(warning)}."
    if info:
        return f"Nothing needs attention; worth knowing: {_listed(info)}."
    silent = {s.name for s in signals} - {s.name for s in signals if math.isfinite(s.value)}
    able = len({s.name for s in signals}) - len(silent)
    if not able:
        return "Nothing could be checked: the log of the day is empty."
    unable = f"; {_count(len(silent), 'check', 'checks')} had nothing to go by" if silent else ""
    return f"Nothing needs attention: all {able} checks hold{unable}."


def render(signals: Sequence[Signal], history: Sequence[Signal], facts: Mapping[str, str] | None = None) -> str:
    """The page as HTML that needs no other file; `history` are the verdicts up to this day, `facts` stand below the
    sentence."""
    import jinja2

    from longtail.monitoring import plots

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)  # fmt: skip
    environment.filters |= {
        "number": lambda v: f"{v:,.4g}" if math.isfinite(v) else "–",
        "range": lambda i: f"{i[0]:,.4g} to {i[1]:,.4g}" if i else "",
    }
    template = environment.from_string(Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"))
    days: dict[tuple[str, str], list[Signal]] = {}
    for s in history:
        days.setdefault((s.name, s.part), []).append(s)
    blocks = []
    for name in dict.fromkeys(s.name for s in worst(signals)):
        own = worst([s for s in signals if s.name == name])
        fired, quiet = [s for s in own if s.fired], [s for s in own if not s.fired]
        shown = fired[:PLOTTED] or [s for s in quiet if math.isfinite(s.value)][:1]
        drawn = [plots.course(days.get((name, s.part), [s]), CHECKS[name]) for s in shown]
        blocks.append(Block(CHECKS[name], fired, quiet, drawn))
    return template.render(
        sentence=sentence(signals), facts=facts or {}, day=max((s.day for s in signals), default=""), judged=judged,
        groups={severity: [b for b in blocks if b.fired and b.check.severity == severity]
                for severity in reversed(SEVERITIES)},
        calm=[b for b in blocks if not b.fired and b.measured], silent=[b for b in blocks if not b.measured],
        state=next((s for s in reversed(SEVERITIES) if _names(signals, s)), "calm"),
    )  # fmt: skip


def write_report(
    out: Path, signals: Sequence[Signal], history: Sequence[Signal], facts: Mapping[str, str] | None = None
) -> Path:
    """Write `report.json` and `report.html` into the folder, each whole or not at all; returns the page."""
    out.mkdir(parents=True, exist_ok=True)
    told = [as_json(s) for s in worst(signals)]
    text = json.dumps({"sentence": sentence(signals), "signals": told}, indent=1)
    for name, content in (("report.json", text), ("report.html", render(signals, history, facts))):
        beside = out / f".{name}.{os.getpid()}"
        beside.write_text(content, encoding="utf-8")
        os.replace(beside, out / name)
    return out / "report.html"


def as_json(signal: Signal) -> dict[str, Any]:
    """A verdict for JSON, with the 95% interval of the value; what is unknown is null."""
    low, high = signal.interval or (math.nan, math.nan)
    told = {**asdict(signal), "low": low, "high": high}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in told.items()}


def _names(signals: Sequence[Signal], severity: str) -> list[str]:
    """Each fired check of a severity once, with its part, or with how many."""
    parts: dict[str, list[str]] = {}
    for s in signals:
        if s.fired and s.severity == severity:
            parts.setdefault(s.name, []).append(s.part)
    return [name + (f" ({p[0]})" if p[0] and len(p) == 1 else f" ({len(p)} of them)" if len(p) > 1 else "")
            for name, p in parts.items()]  # fmt: skip


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
