"""What the registry tells of one bundle, and how figures are named and cut to fit MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtail.errors import InvalidBundle

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

MAX_TAG = 5000
HELD = "held back"  # how the decision on a version begins that gets no traffic


@dataclass(frozen=True)
class Version:
    """One registered bundle: `figures` flat by dotted name, `aliases` its roles, `created` in ms since 1970.

    `unseen` is False where the figures are of cases that it had learned from. `checks` are the gate's findings:
    `check`, `passed`, `holds`, `reason`. `run` is the name of the run that registered it, where it had one.
    """

    number: int
    bundle_version: str
    aliases: tuple[str, ...]
    metric: str
    figures: dict[str, float]
    data_fingerprint: str
    decision: str
    source: str
    run_id: str
    created: int
    unseen: bool = True
    checks: tuple[dict[str, Any], ...] = ()
    run: str = ""

    @property
    def value(self) -> float:
        """The figure of the chosen metric; NaN where it was not measured."""
        return self.figures.get(self.metric, float("nan"))

    @property
    def held(self) -> bool:
        """Whether the gate keeps it from traffic."""
        return self.decision.startswith(HELD)

    @staticmethod
    def of(found: ModelVersion, aliases: Mapping[str, int]) -> Version:
        """MLflow's version with the roles it holds among `aliases` (name to version number)."""
        tags, number = found.tags, int(found.version)
        return Version(
            number=number,
            bundle_version=tags.get("bundle_version", ""),
            aliases=tuple(sorted(a for a, n in aliases.items() if n == number)),
            metric=tags.get("metric", ""),
            figures=json.loads(tags.get("figures", "{}")),
            data_fingerprint=tags.get("data_fingerprint", ""),
            decision=tags.get("decision", ""),
            source=found.source,
            run_id=found.run_id,
            created=int(found.creation_timestamp),
            unseen=tags.get("unseen") != "no",
            checks=tuple(json.loads(tags.get("checks", "[]"))),
            run=tags.get("run", ""),
        )


def read_manifest(bundle: Path) -> dict[str, Any]:
    """The manifest of a bundle folder.

    Raises:
        InvalidBundle: there is none, or it is no JSON object.
    """
    path = Path(bundle) / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise InvalidBundle(f"{bundle} is no bundle: it has no manifest.json") from None
    except ValueError as error:
        raise InvalidBundle(f"{path} cannot be read: {error}") from None
    if not isinstance(manifest, dict):
        raise InvalidBundle(f"{path} holds no JSON object")
    return manifest


def metric_name(name: str) -> str:
    """A figure's name as MLflow allows it: it has no `@`, so `ndcg@10` becomes `ndcg_at_10`."""
    kept = name.replace("@", "_at_")
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in kept)


def figures_tag(numbers: Mapping[str, float], metric: str) -> str:
    """The figures that fit a tag as JSON, the deciding one first; all of them are in the run."""
    out: dict[str, float] = {}
    for name in sorted(numbers, key=lambda n: (n != metric, n.count("."), n)):
        out[name] = round(numbers[name], 6)
        if len(json.dumps(out)) > MAX_TAG:
            del out[name]
            break
    return json.dumps(out)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted names, in the given order."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            out |= flatten(value, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = value
    return out
