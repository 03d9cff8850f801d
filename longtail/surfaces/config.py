"""The surfaces file: one entry for each place where lists are shown, validated when it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from longtail.events import Catalogue
from longtail.reranking.rules import (
    Boost,
    Caps,
    Diversity,
    Exploration,
    Filters,
    Freshness,
    LongTail,
    Objective,
    Pin,
    Promotion,
    Rules,
    Target,
)
from longtail.surfaces.bound import BoundSurfaces, bind
from longtail.surfaces.builtin import BUILTIN
from longtail.yaml_model import load_yaml, parse_yaml

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
SourceName = Annotated[str, Field(min_length=1, max_length=64)]
MAX_K = 500
MAX_CANDIDATES = 5_000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class RulesOverride(_Strict):
    """Sections that take the place of the file's `rules` on one surface; `block` is added to the file's block list."""

    filters: Filters | None = None
    caps: Caps | None = None
    diversity: Diversity | None = None
    freshness: Freshness | None = None
    exploration: Exploration | None = None
    long_tail: LongTail | None = None
    boosts: tuple[Boost, ...] | None = None
    block: tuple[Target, ...] | None = None
    pins: tuple[Pin, ...] | None = None
    promotions: tuple[Promotion, ...] | None = None

    def over(self, rules: Rules) -> Rules:
        """The file's rules with this surface's sections in place; what the file blocks stays blocked."""
        given = {name: getattr(self, name) for name in type(self).model_fields if getattr(self, name) is not None}
        if "block" in given:
            given["block"] = rules.block + given["block"]
        return rules.model_copy(update=given)

    def after(self, first: RulesOverride) -> RulesOverride:
        """Both: sections of this one in the place of those of `first`; what either blocks is blocked."""
        given = {name: getattr(self, name) for name in type(self).model_fields if getattr(self, name) is not None}
        if "block" in given:
            given["block"] = (first.block or ()) + given["block"]
        return first.model_copy(update=given)


class Surface(_Strict):
    """One place where lists are shown.

    `k` places unless the request asks for another number. `anchor`: whose neighbours are asked for instead of those of
    the whole history: `items` (the request's `context.items`: a product page's item, a cart) or `last_viewed`. `order`:
    by the `ranker` or by the `blend` of the sources. `sources` propose (default: all that the bundle has), and `blend`
    multiplies their weights in the blend (default 1). `objective` tilts the order towards money. `within` keeps to the
    request's `context.category`. `candidates` are ranked (default: the server's setting). `made`: `live`, or
    `precomputed` by `longtail precompute`. `cache_s`: for so many seconds an equal request may get an equal list.
    """

    k: int = Field(20, ge=1, le=MAX_K)
    anchor: Literal["none", "items", "last_viewed"] = "none"
    order: Literal["ranker", "blend"] = "ranker"
    sources: tuple[SourceName, ...] | None = Field(None, min_length=1)
    blend: dict[SourceName, Annotated[float, Field(ge=0, le=1000)]] = {}
    objective: Objective = Objective()
    within: Literal["category"] | None = None
    candidates: int | None = Field(None, ge=1, le=MAX_CANDIDATES)
    made: Literal["live", "precomputed"] = "live"
    cache_s: float = Field(0.0, ge=0, le=86_400)
    rules: RulesOverride = RulesOverride()

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.sources is not None:
            strange = [name for name in self.blend if name not in self.sources]
            if strange:
                raise ValueError(f"blend names {', '.join(strange)}, which `sources` leaves out")
            if not any(self.blend.get(name, 1.0) > 0 for name in self.sources):
                raise ValueError("blend gives every source the factor 0: nothing would be proposed")
        if self.made == "precomputed" and (self.anchor == "items" or self.within is not None):
            raise ValueError("a precomputed list knows no request: leave out `anchor: items` and `within`")
        return self


class Surfaces(_Strict):
    """The whole file.

    Built-in surfaces that it does not name stay as they are; of those that it names it changes the given keys.
    """

    rules: Rules = Rules()
    surfaces: dict[Name, Surface] = Field(default_factory=dict, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _with_builtin(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("surfaces") or {}, dict):
            return data
        given = data.get("surfaces") or {}
        merged = {name: _over_builtin(name, entry) for name, entry in given.items()}
        return {**data, "surfaces": {**{n: dict(v) for n, v in BUILTIN.items() if n not in merged}, **merged}}

    @staticmethod
    def load(path: Path | str) -> Surfaces:
        """Read a surfaces file.

        Raises:
            InvalidInput: the message names file, line and key of every mistake.
        """
        return load_yaml(path, Surfaces)

    @staticmethod
    def parse(text: str, name: str = "surfaces.yaml") -> Surfaces:
        """`load` of a string; `name` is what the errors call it."""
        return parse_yaml(text, Surfaces, name)

    @staticmethod
    def default(rules: Rules | None = None) -> Surfaces:
        """The built-in surfaces, with `rules` on each of them (default: none but safety)."""
        return Surfaces(rules=rules or Rules())

    def rules_of(self, name: str) -> Rules:
        """What holds on one surface: the file's rules with the surface's own sections in place."""
        return self.surfaces[name].rules.over(self.rules)

    def with_rules(self, rules: RulesOverride) -> Surfaces:
        """The same with `rules` over everything that held before, on every surface."""
        changed = {n: s.model_copy(update={"rules": rules.after(s.rules)}) for n, s in self.surfaces.items()}
        return self.model_copy(update={"surfaces": changed})

    def to_yaml(self) -> str:
        """The whole file with every default written out; `load` reads it back."""
        data = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)

    def bind(self, catalogue: Catalogue, sources: Sequence[str]) -> BoundSurfaces:
        """Resolve names to codes of a bundle: its catalogue and its `sources` in score-column order.

        A name that the bundle lacks means nothing and is listed in `BoundSurfaces.warnings`; a surface whose sources
        are all missing asks every source.
        """
        return bind(self, catalogue, sources)


def _over_builtin(name: str, entry: Any) -> Any:
    """The built-in entry with the given keys in place; an entry without keys (`homepage:`) is the built-in one."""
    if isinstance(entry, Surface) or not isinstance(entry, dict | None):
        return entry
    entry = entry or {}
    base = {k: v for k, v in BUILTIN.get(name, {}).items() if k != "blend" or "sources" not in entry}
    return base | entry
