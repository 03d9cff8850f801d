"""Surfaces with their names resolved to one bundle's codes: what the engine reads for each request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from longtail.errors import InvalidInput
from longtail.events import Catalogue
from longtail.reranking.binding import BoundRules, TargetIndex
from longtail.surfaces.builtin import BUILTIN

if TYPE_CHECKING:
    from longtail.surfaces.config import Surface, Surfaces


@dataclass(frozen=True)
class BoundSurface:
    """One surface of one bundle, see `Surface`. `weights` float32 [S] multiply the blend's, None: all 1."""

    name: str
    k: int
    rules: BoundRules
    weights: np.ndarray | None = None
    order: Literal["ranker", "blend"] = "ranker"
    anchor: Literal["none", "items", "last_viewed"] = "none"
    within: Literal["category"] | None = None
    candidates: int | None = None
    made: Literal["live", "precomputed"] = "live"
    cache_s: float = 0.0


@dataclass(frozen=True)
class BoundSurfaces:
    """All surfaces by name. `warnings` say, one line each, which names of the file this bundle lacks."""

    surfaces: dict[str, BoundSurface]
    warnings: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> BoundSurface:
        """The surface.

        Raises:
            InvalidInput: there is none of this name; the message names those there are.
        """
        try:
            return self.surfaces[name]
        except KeyError:
            raise InvalidInput(f"surface: there is no {name!r}, only {', '.join(sorted(self.surfaces))}") from None

    def __contains__(self, name: object) -> bool:
        return name in self.surfaces

    def __iter__(self) -> Iterator[str]:
        return iter(self.surfaces)

    def __len__(self) -> int:
        return len(self.surfaces)


def bind(surfaces: Surfaces, catalogue: Catalogue, sources: Sequence[str]) -> BoundSurfaces:
    """See `Surfaces.bind`."""
    bound, warnings = {}, list[str]()
    index = TargetIndex(catalogue)
    for name, surface in surfaces.surfaces.items():
        weights, missing = source_weights(surface, sources)
        # A built-in surface names the sources of small shops and of large ones; only what a file asks for is missed.
        if missing and surface.sources != tuple(BUILTIN.get(name, {}).get("sources", ())):
            rest = ": all sources are asked instead" if set(surface.sources or sources) <= set(missing) else ""
            warnings.append(f"{name}: the bundle has no source {', '.join(missing)}{rest}")
        rules = surfaces.rules_of(name).bind(catalogue, surface.objective, index)
        warnings += [f"{name}: {what} matches no item" for what in rules.unmatched]
        bound[name] = BoundSurface(
            name, surface.k, rules, weights, surface.order, surface.anchor, surface.within, surface.candidates,
            surface.made, surface.cache_s,
        )  # fmt: skip
    return BoundSurfaces(bound, warnings)


def source_weights(surface: Surface, sources: Sequence[str]) -> tuple[np.ndarray | None, list[str]]:
    """(factor float32 [S] of each of the bundle's sources or None when all are 1, names that the bundle lacks)."""
    wanted = surface.sources
    named = dict.fromkeys([*(wanted or ()), *surface.blend])
    missing = [name for name in named if name not in sources]
    asked = [wanted is None or name in wanted for name in sources]
    weights = np.array(
        [surface.blend.get(name, 1.0) * ask for name, ask in zip(sources, asked, strict=True)], np.float32
    )
    if not (weights > 0).any():
        weights = np.ones(len(sources), np.float32)
    return (None if (weights == 1).all() else weights), missing
