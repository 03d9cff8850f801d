"""A running experiment as servers read it from the deployment file: its slots, and what each variant is."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from longtail.experiments.assignment import SLOTS, Allocation, Ranges
from longtail.experiments.config import Name
from longtail.surfaces.config import RulesOverride, Surfaces

INTERLEAVED = "interleaved"  # what everybody in a duel meets
ADDED = {"rules.block"}  # what two experiments block is blocked
Slot = Annotated[int, Field(ge=0, le=SLOTS)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PlacedVariant(_Strict):
    """What the people of this share meet: a bundle (a folder), whole surfaces, or rules over those that hold. One that
    names nothing is what serves everybody else."""

    share: float = Field(gt=0, le=1)
    bundle: Path | None = None
    surfaces: Surfaces | None = None
    rules: RulesOverride | None = None


class Placed(_Strict):
    """One experiment: `slots` [from, to) of its layer, its salt, and on which `surfaces` it runs (default: on all).

    `kind: interleaving` shows everybody in it one list that the bundles of its two variants drafted in turn.
    """

    layer: Name = "default"
    unit: Literal["user", "session"] = "user"
    salt: str = Field(min_length=1, max_length=200)
    kind: Literal["split", "interleaving"] = "split"
    slots: tuple[tuple[Slot, Slot], ...] = Field(min_length=1)
    surfaces: tuple[str, ...] = ()
    variants: dict[Name, PlacedVariant] = Field(min_length=2, max_length=20)

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        total = sum(v.share for v in self.variants.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares sum to {total:g}, they must sum to 1")
        if any(low >= high for low, high in self.slots):
            raise ValueError("slots are pairs [from, to), from below to")
        if self.kind == "interleaving" and len(self.variants) != 2:
            raise ValueError("interleaving is between two variants")
        return self

    def allocation(self, holdout: float = 0.0) -> Allocation:
        """Who is in, and with which variant."""
        shares = {name: v.share for name, v in self.variants.items()}
        if self.kind == "interleaving":
            shares = {INTERLEAVED: 1.0}
        return Allocation(self.layer, self.salt, self.slots, shares, holdout)

    @property
    def bundles(self) -> list[Path]:
        """The bundle folders that its variants name, each once."""
        return list(dict.fromkeys(v.bundle for v in self.variants.values() if v.bundle is not None))

    @property
    def changes(self) -> set[str]:
        """What its variants change: bundle, surfaces, or sections of the rules, as `rules.caps`."""
        out = {what for v in self.variants.values() for what in ("bundle", "surfaces") if getattr(v, what) is not None}
        given = [v.rules for v in self.variants.values() if v.rules is not None]
        out |= {f"rules.{n}" for r in given for n in type(r).model_fields if getattr(r, n) is not None}
        return out

    def meets(self, surface: str) -> bool:
        """Does it run on this surface?"""
        return not self.surfaces or surface in self.surfaces


def together(experiments: Mapping[str, Placed]) -> None:
    """Can these run beside each other?

    Raises:
        ValueError: two of one layer share slots or differ in their unit, or two layers change the same thing on a
            surface, so that one would undo the other.
    """
    for (a, one), (b, two) in combinations(experiments.items(), 2):
        if one.layer == two.layer:
            if one.unit != two.unit:
                raise ValueError(f"{a} and {b} share the layer {one.layer}: both must go by {one.unit}")
            if _overlap(one.slots, two.slots):
                raise ValueError(f"{a} and {b} have slots of the layer {one.layer} in common")
        elif _side_by_side(one, two) and (both := (one.changes & two.changes) - ADDED):
            what = ", ".join(sorted(both))
            raise ValueError(f"{a} and {b} both change {what}: put them into one layer, or on different surfaces")
        if one.salt == two.salt:
            raise ValueError(f"{a} and {b} have one salt, {one.salt}: their variants would go together")


def _side_by_side(one: Placed, two: Placed) -> bool:
    """Do both run on some surface?"""
    return not one.surfaces or not two.surfaces or bool(set(one.surfaces) & set(two.surfaces))


def _overlap(one: Ranges, two: Ranges) -> bool:
    return any(low < other_high and other_low < high for low, high in one for other_low, other_high in two)
