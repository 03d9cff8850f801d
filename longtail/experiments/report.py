"""An experiment's result as JSON and as one page whose first sentence says what to do."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from longtail.experiments.analysis import BROKEN_BELOW, Range, Result
from longtail.experiments.decision import decide, deciding_interval

GLOSSARY = {
    "lift": "The relative change against the control: +3% means that for every 100 of the control there are 103.",
    "interval": "Where the true change lies, in 95 of 100 such experiments at the usual setting (alpha 0.05).",
    "any-day interval": "One that holds however often the experiment is looked at; it is wider for that.",
    "guardrail": "A metric that must not suffer. It held when the worst end of its interval is inside its margin.",
    "p, corrected": "Chance of a difference as large without any effect, corrected for how many were looked at (Holm).",
    "CUPED": "Each unit is compared with its own days before the start: what differed then goes out.",
    "split check": "The units must fall on the variants as planned. When they do not, exposure or logging differs "
    "between variants, and no other figure means anything.",
    "unit": "A person, or a session: what keeps one variant and is counted once.",
}


def render(result: Result, facts: dict[str, str] | None = None) -> str:
    """The page as HTML that needs no other file; `facts` stand under the title."""
    from longtail.experiments import plots

    deciding = {(line.metric, line.variant): deciding_interval(result, line) for line in result.lines}
    readable, decision = not result.broken, decide(result)
    return page(
        "report.html.j2", result=result, outcome=decision.outcome, sentence=decision.sentence, facts=facts or {},
        glossary=GLOSSARY, broken_below=BROKEN_BELOW, total=sum(result.units.values()),
        lifts_plot=plots.lifts_plot(result, deciding) if readable else "",
        daily_plot=plots.daily_plot(result) if readable else "",
        age_plot=plots.age_plot(result) if any(result.by_age.values()) else "",
        parts_plot=plots.parts_plot(result.parts) if result.parts else "",
    )  # fmt: skip


def to_json(result: Result) -> str:
    """The result and the decision; what is unknown or unbounded is null."""
    decision = decide(result)
    told = {"outcome": decision.outcome, "variant": decision.variant, "sentence": decision.sentence}
    return json.dumps(finite({"decision": told, **result.as_dict()}), indent=2)


def write_report(result: Result, folder: Path, facts: dict[str, str] | None = None) -> Path:
    """Write `experiment.json` and `experiment.html` into the folder, each whole or not at all; returns the page."""
    return write(folder, to_json(result), render(result, facts))


def page(name: str, **values: Any) -> str:
    """A page of this folder's templates."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": _percent, "range": _range, "number": _number}
    return environment.get_template(name).render(**values)


def write(folder: Path, figures: str, shown: str) -> Path:
    """Write `experiment.json` and `experiment.html` into the folder, each whole or not at all; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("experiment.json", figures), ("experiment.html", shown)):
        beside = folder / f".{name}.{os.getpid()}"
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, folder / name)
    return folder / "experiment.html"


def finite(value: Any) -> Any:
    """For JSON: what is unknown or unbounded is null."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _percent(value: float) -> str:
    return f"{value:+.1%}" if math.isfinite(value) else "–"


def _range(found: Range) -> str:
    return f"{found.low:+.1%} to {found.high:+.1%}" if math.isfinite(found.low) else "unknown"


def _number(value: float) -> str:
    return f"{value:,.4g}" if math.isfinite(value) else "–"
