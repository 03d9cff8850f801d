"""The rules: what re-ranking does, validated when they are loaded and bound to a catalogue once."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from longtail.events import Catalogue
from longtail.ranking.objective import Objective as Goal
from longtail.reranking.binding import BoundRules, TargetIndex, bind
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

    @cached_property
    def limits(self) -> dict[str, int]:
        """The caps that are set, by the name of their column."""
        set_to = {name: getattr(self, name) for name in ("category", "top_category", "brand")}
        return {name: limit for name, limit in set_to.items() if limit is not None}


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

    It is sampled evenly, or in proportion to exp(score / temperature). `thompson` widens the scores by what is unknown:
    so many standard deviations of the item's click rate, on the log scale, given its impressions and clicks. What was
    hardly shown is drawn until it is known, and what is known to be bad is left alone.
    """

    epsilon: float = Field(0.0, ge=0, le=1)
    skip_first: int = Field(0, ge=0)
    pool: int = Field(100, ge=1)
    temperature: float | None = Field(None, gt=0)
    thompson: float = Field(0.0, ge=0, le=100)

    @model_validator(mode="after")
    def _warm_enough(self) -> Self:
        if self.thompson > 0 and self.temperature is None:
            raise ValueError(
                "thompson widens scores, which an even draw does not read: give a temperature, such as 0.3"
            )
        return self


class LongTail(_Section):
    """The places behind the first `after` go to those of the best `pool` candidates left that were shown least lately.

    What is never shown can never prove itself: this gives every item on sale that suits somebody its turn, at the end
    of lists, where it costs least. Without `after` no place does.
    """

    after: int | None = Field(None, ge=1, le=500)
    pool: int = Field(100, ge=1)


class Objective(_Section):
    """What a list is for. `clicks` and `conversion` leave the ranker's order; goals of money tilt it.

    The log of an item's worth grows by `weight` x log(money / median of the shop), where money is the price for
    `revenue`, the price less what is expected to come back for `net_revenue`, and price x margin for `margin`: with
    weight 1 the order is by expected money, with 0.5 half way there. An item without a price (or margin) counts as the
    median one. A mix such as `{conversion: 0.5, margin: 0.5}` is worth the weighted mean of its goals.
    """

    goal: Goal = "conversion"
    weight: float = Field(1.0, ge=0, le=10)


class Dated(_Section):
    """From `start` (inclusive) to `end` (exclusive), UTC unless a zone is given; without them always."""

    start: datetime | None = None
    end: datetime | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        first, last = self.span
        if self.start and self.end and first >= last:
            raise ValueError("start must be before end")
        return self

    @property
    def span(self) -> tuple[int, int]:
        """Microseconds since 1970: the first that counts, and the first that no longer does."""
        start = _micros(self.start) if self.start else np.iinfo(np.int64).min
        end = _micros(self.end) if self.end else np.iinfo(np.int64).max
        return int(start), int(end)


class Target(Dated):
    """Items of a category (a path such as `kitchen` also covers `kitchen/knives`), a brand, or listed by id."""

    category: str | None = None
    brand: str | None = None
    items: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if sum(v is not None for v in (self.category, self.brand, self.items)) != 1:
            raise ValueError("give exactly one of category, brand, items")
        return self


class Boost(Target):
    """Multiply the worth of the target by `factor`."""

    name: str = Field(min_length=1)
    factor: float = Field(gt=0, le=1000)


class Pin(Dated):
    """The first of `items` that may be shown stands at `place` (1 is the first), whatever its worth.

    It passes the same filters as every other item. Of two pins for one place the first in the file wins.
    """

    name: str = Field(min_length=1)
    items: tuple[str, ...] = Field(min_length=1)
    place: int = Field(ge=1, le=500)


class Promotion(Dated):
    """At least one in each `every` places shows an item of a category, a brand, or `items`: the best-ranked one.

    Beside a category or a brand, `items` stand in where no candidate belongs to it.
    """

    name: str = Field(min_length=1)
    every: int = Field(ge=1, le=500)
    category: str | None = None
    brand: str | None = None
    items: tuple[str, ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _a_target(self) -> Self:
        if self.category is not None and self.brand is not None:
            raise ValueError("give category or brand, not both")
        if self.category is None and self.brand is None and self.items is None:
            raise ValueError("give a category, a brand, or items")
        return self


class Rules(_Section):
    """All rules; a missing section takes its defaults, which change nothing but keep the list safe."""

    filters: Filters = Filters()
    caps: Caps = Caps()
    diversity: Diversity = Diversity()
    freshness: Freshness = Freshness()
    exploration: Exploration = Exploration()
    long_tail: LongTail = LongTail()
    boosts: tuple[Boost, ...] = ()
    block: tuple[Target, ...] = ()
    pins: tuple[Pin, ...] = ()
    promotions: tuple[Promotion, ...] = ()

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """The columns of the items that caps and diversity read."""
        alike = self.diversity.weight < 1
        return ("category", "top_category", "brand") if alike else tuple(self.caps.limits)

    @staticmethod
    def load(path: Path | str) -> Rules:
        """Read a file that holds rules alone.

        Raises:
            InvalidInput: the message names file, line and key of every mistake.
        """
        return load_yaml(path, Rules)

    def to_yaml(self) -> str:
        """The rules with every section and default written out; `load` reads it back."""
        return yaml.safe_dump(self.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)

    def bind(
        self, catalogue: Catalogue, objective: Objective | None = None, index: TargetIndex | None = None
    ) -> BoundRules:
        """Resolve the names in the rules to items of the shop. A name that it lacks matches nothing.

        Rules that are bound with one `index` share its memory.
        """
        return bind(self, objective or Objective(), TargetIndex(catalogue) if index is None else index)


def _micros(time: datetime) -> int:
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return int(aware.timestamp()) * 1_000_000 + aware.microsecond
