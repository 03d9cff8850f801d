"""The model card that travels with every registered bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model_card(
    version: str, figures: Mapping[str, Any], params: Mapping[str, Any], data: Mapping[str, Any], data_fingerprint: str
) -> str:
    """A Markdown page a product owner can read: what the model is for, on what it was trained, how good it is.

    `figures` and `params` may be nested: a nested name reads `outer.inner`. `data` describes the log, such as the
    number of events and the days it covers.
    """
    sections = [
        f"# Model card: longtail {version}",
        "## What it does\nRanks the items of one shop for a person or an anonymous session: candidate sources propose, "
        "a gradient-boosted ranker orders, rules filter.",
        "## What it is not for\nAny other shop's catalogue, decisions about people, or pricing. Items absent from the "
        "catalogue at training time are proposed only through their content.",
        "## Data\n" + _table(flatten(data) | {"fingerprint": data_fingerprint}),
        "## Figures\nOn requests after the training period, which the model never saw.\n\n" + _table(flatten(figures)),
        "## Parameters\n" + _table(flatten(params)),
    ]
    return "\n\n".join(sections) + "\n"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted names, in the given order."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            out |= flatten(value, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = value
    return out


def _table(rows: Mapping[str, Any]) -> str:
    if not rows:
        return "Nothing was recorded."
    lines = [f"| {name} | {_shown(value)} |" for name, value in rows.items()]
    return "\n".join(["| name | value |", "| --- | --- |", *lines])


def _shown(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
