"""The rules file: what re-ranking does, validated when it is loaded and bound to a catalogue once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from longtail.events import Catalogue
from longtail.reranking.filters import member
from longtail.reranking.views import ItemView
from longtail.yaml_model import load_yaml

Cap = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class Filters(_Section):
    """Safety (stock, region, age) always holds; these two are the shop's choice."""

    exclude_bought: bool = False
    exclude_seen: bool = False


class Caps(_Section):
    """At most so many of one group in the first `within` places. `relax` prefers a full list to a strict cap."""

    category: Cap | None = None
    top_category: Cap | None = None
    brand: Cap | None = None
    within: Cap = 20
    relax: bool = True

    def columns(self, view: ItemView) -> tuple[list[np.ndarray], list[int]]:
        """Code columns and limits of the caps that are set."""
        names = [n for n in ("category", "top_category", "brand") if getattr(self, n) is not None]
        return [getattr(view, n) for n in names], [getattr(self, n) for n in names]


class Diversity(_Section):
    """Maximal marginal relevance: 1 is relevance alone. `vectors` falls back to attributes when items have none."""

    weight: float = Field(1.0, alias="lambda", ge=0, le=1)
    similarity: Literal["attributes", "vectors"] = "attributes"


class Freshness(_Section):
    """A new item's worth is multiplied by 1 + strength; the extra halves every `half_life_days`."""

    strength: float = Field(0.0, ge=0, le=100)
    half_life_days: float = Field(14.0, gt=0)


class Exploration(_Section):
    """Each place after the first `skip_first` shows, with probability `epsilon`, one of the best `pool` candidates.

    It is sampled evenly, or in proportion to exp(score / temperature).
    """

    epsilon: float = Field(0.0, ge=0, le=1)
    skip_first: int = Field(0, ge=0)
    pool: int = Field(100, ge=1)
    temperature: float | None = Field(None, gt=0)


class Target(_Section):
    """Items of a category (a path such as `kitchen` also covers `kitchen/knives`), a brand, or listed by id."""

    category: str | None = None
    brand: str | None = None
    items: list[str] | None = None
    start: datetime | None = None
    end: datetime | None = None

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if sum(v is not None for v in (self.category, self.brand, self.items)) != 1:
            raise ValueError("give exactly one of category, brand, items")
        if self.start and self.end and _micros(self.start) >= _micros(self.end):
            raise ValueError("start must be before end")
        return self


class Boost(Target):
    """Multiply the worth of the target by `factor` from `start` (inclusive) to `end` (exclusive)."""

    name: str = Field(min_length=1)
    factor: float = Field(gt=0, le=1000)


class Rules(_Section):
    """The whole file; a missing section takes its defaults, which change nothing but keep the list safe."""

    filters: Filters = Filters()
    caps: Caps = Caps()
    diversity: Diversity = Diversity()
    freshness: Freshness = Freshness()
    exploration: Exploration = Exploration()
    boosts: tuple[Boost, ...] = ()
    block: tuple[Target, ...] = ()

    @staticmethod
    def load(path: Path | str) -> Rules:
        """Read a rules file.

        Raises:
            InvalidInput: the message names file, line and key of every mistake.
        """
        return load_yaml(path, Rules)

    def to_yaml(self) -> str:
        """The whole file with every section and default written out; `load` reads it back."""
        return yaml.safe_dump(self.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)

    def bind(self, catalogue: Catalogue) -> BoundRules:
        """Resolve the names in the rules to item, category and brand codes. A name the shop lacks matches nothing."""
        return BoundRules(
            self,
            tuple((b.name, b.factor, _bind(b, catalogue)) for b in self.boosts),
            tuple(_bind(b, catalogue) for b in self.block),
        )


@dataclass(frozen=True)
class BoundTarget:
    """Codes that a target means: `column` is a column of `ItemView`, or `items` for item indices themselves."""

    column: Literal["category", "brand", "items"]
    codes: np.ndarray
    start: int
    end: int

    def mask(self, items: np.ndarray, rows: ItemView, now: int) -> np.ndarray | None:
        """bool [n] over the candidates, or None outside the dates. `rows` is the view taken at `items`."""
        if not self.start <= now < self.end:
            return None
        return member(items if self.column == "items" else getattr(rows, self.column), self.codes)


@dataclass(frozen=True)
class BoundRules:
    """Rules with their names resolved: what `rerank` takes."""

    rules: Rules
    boosts: tuple[tuple[str, float, BoundTarget], ...] = ()
    block: tuple[BoundTarget, ...] = ()

    @property
    def unmatched(self) -> list[str]:
        """Boosts and blocks that match no item of this catalogue, to warn about."""
        found = [f"boost {name}" for name, _, target in self.boosts if not len(target.codes)]
        return found + [f"block[{i}]" for i, target in enumerate(self.block) if not len(target.codes)]


def _bind(target: Target, catalogue: Catalogue) -> BoundTarget:
    column: Literal["category", "brand", "items"]
    if target.category is not None:
        column = "category"
        path = target.category.rstrip("/")
        hit = [c == path or str(c).startswith(path + "/") for c in catalogue.categories]
        codes = np.flatnonzero(np.array(hit, bool))
    elif target.brand is not None:
        column, codes = "brand", np.flatnonzero(catalogue.brands == target.brand)
    else:
        column = "items"
        codes = pd.Index(catalogue.item_ids).get_indexer(pd.Index(target.items or [], dtype=object))
    start = _micros(target.start) if target.start else np.iinfo(np.int64).min
    end = _micros(target.end) if target.end else np.iinfo(np.int64).max
    return BoundTarget(column, np.unique(codes[codes >= 0]).astype(np.int64), int(start), int(end))


def _micros(time: datetime) -> int:
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return int(aware.timestamp()) * 1_000_000 + aware.microsecond
