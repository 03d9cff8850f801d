"""The file of one experiment, validated when it is loaded."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from longtail.experiments.assignment import HOLDOUT, Allocation, Ranges, grown
from longtail.experiments.metrics import Metric
from longtail.surfaces.config import RulesOverride
from longtail.yaml_model import load_yaml, parse_yaml

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
OTHERS = "others"
Slice = Literal["history", "surface", "device", "region"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Variant(_Strict):
    """What the people of this share meet. One that names nothing is what serves everybody else."""

    share: float = Field(gt=0, le=1)
    bundle: str | None = None
    surfaces: Path | None = None
    rules: RulesOverride | None = None

    @property
    def changes(self) -> bool:
        """Does it differ from what serves everybody else?"""
        return any(v is not None for v in (self.bundle, self.surfaces, self.rules))


class Guardrail(_Strict):
    """A metric that must not suffer: `margin` is the relative loss that would be accepted for a gain elsewhere."""

    metric: Metric
    margin: float = Field(0.02, gt=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, data: Any) -> Any:
        return {"metric": data} if isinstance(data, str) else data


class Dates(_Strict):
    """The first day (inclusive) and the day after the last one, midnight UTC."""

    start: date
    end: date

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"the end {self.end} must come after the start {self.start}")
        return self

    @property
    def days(self) -> int:
        """How long it runs."""
        return (self.end - self.start).days

    @property
    def start_us(self) -> int:
        """Microseconds since 1970."""
        return _midnight(self.start)

    @property
    def end_us(self) -> int:
        """Microseconds since 1970."""
        return _midnight(self.end)


class Experiment(_Strict):
    """The whole file. The first variant is the control that the others are compared with.

    `looks: once` decides at the end, with the smallest sample; `any_day` may decide on each day, with intervals that
    hold however often they are looked at. `minimum_effect` is the relative change of the metric worth shipping for;
    `covariate_days` before the start are what CUPED compares each unit with (0: without). `surfaces`: only units that
    saw a list there count as exposed. `holdout`: share of all units that no experiment touches. `kind: interleaving` is
    a duel of two variants' bundles: one list, drafted in turn, and the `metric`'s events are credited to who chose;
    `minimum_effect` is then the lead in these events, as a share of all of them: 0.04 is 52 of 100 against 48.
    `kind: holdout` starts nothing: it compares the holdout that experiments left alone with everybody else, `OTHERS`.
    """

    name: Name
    kind: Literal["split", "interleaving", "holdout"] = "split"
    layer: Name = "default"
    unit: Literal["user", "session"] = "user"
    salt: str | None = Field(None, min_length=1, max_length=200)
    variants: dict[Name, Variant] = Field(min_length=2, max_length=20)
    allocation: float = Field(1.0, gt=0, le=1)
    metric: Metric
    guardrails: tuple[Guardrail, ...] = ()
    also: tuple[Metric, ...] = ()
    minimum_effect: float = Field(gt=0, lt=10)
    dates: Dates
    looks: Literal["once", "any_day"] = "once"
    alpha: float = Field(0.05, gt=0, lt=0.5)
    power: float = Field(0.8, gt=0.5, lt=1)
    covariate_days: int = Field(28, ge=0, le=365)
    holdout: float = Field(0.0, ge=0, le=0.5)
    surfaces: tuple[str, ...] = ()
    slices: tuple[Slice, ...] = ("history", "surface")

    @model_validator(mode="before")
    @classmethod
    def _kept_out(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("kind") != "holdout":
            return data
        extra = {"variants", "allocation", "layer", "salt"} & data.keys()
        if extra:
            raise ValueError(f"kind: holdout compares the holdout with all others: leave out `{sorted(extra)[0]}`")
        share = data.get("holdout")
        if not isinstance(share, float) or not 0 < share <= 0.5:
            raise ValueError("kind: holdout needs the share that is held out: `holdout: 0.05`, as it is on the servers")
        return {**data, "variants": {HOLDOUT: {"share": share}, OTHERS: {"share": 1 - share}}}

    @field_validator("variants")
    @classmethod
    def _whole(cls, variants: dict[str, Variant], info: ValidationInfo) -> dict[str, Variant]:
        total = sum(v.share for v in variants.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares sum to {total:g}, they must sum to 1")
        if info.data.get("kind") == "holdout":
            return variants
        if HOLDOUT in variants:
            raise ValueError(f"{HOLDOUT} is the name of those whom no experiment touches: call the variant otherwise")
        control, *others = variants
        idle = [name for name in others if not variants[name].changes]
        if idle and len(idle) < len(others):
            raise ValueError(f"{', '.join(idle)} changes nothing: name a bundle, surfaces or rules")
        if variants[control].changes and idle:
            raise ValueError(
                f"the first variant, {control}, is the control: put it behind the one that changes nothing"
            )
        return variants

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        seen: set[str] = set()
        for metric in self.metrics:
            if metric.name in seen:
                raise ValueError(f"the metric {metric.name} stands there twice")
            seen.add(metric.name)
        if self.kind == "interleaving":
            self._fits_a_duel()
        if self.unit == "session" and self.covariate_days and "covariate_days" in self.model_fields_set:
            raise ValueError("a session has no days before it: leave out `covariate_days`")
        return self

    def _fits_a_duel(self) -> None:
        control, *others = self.variants.values()
        if len(others) != 1 or control.share != others[0].share:
            raise ValueError("interleaving is between two variants of equal shares")
        if any(v.surfaces or v.rules for v in self.variants.values()) or others[0].bundle is None:
            raise ValueError(
                "interleaving is between bundles: the second variant names one, and none surfaces or rules"
            )
        if self.guardrails or self.also:
            raise ValueError("interleaving says who ranks better, nothing else: leave out `guardrails` and `also`")
        if self.looks != "once":
            raise ValueError("interleaving is judged at its end: leave out `looks`")
        if self.metric.of != "count" or self.metric.event in ("impression", "any"):
            raise ValueError("interleaving credits events to items: `metric: clicks`, or another that counts events")

    @property
    def where(self) -> str:
        """Its surfaces as words behind a sentence, '' where it runs on all."""
        return f" on {', '.join(self.surfaces)}" if self.surfaces else ""

    @staticmethod
    def load(path: Path | str) -> Experiment:
        """Read an experiment's file.

        Raises:
            InvalidInput: the message names file, line and key of every mistake.
        """
        return load_yaml(path, Experiment)

    @staticmethod
    def parse(text: str, name: str = "experiment.yaml") -> Experiment:
        """`load` of a string; `name` is what the errors call it."""
        return parse_yaml(text, Experiment, name)

    @property
    def control(self) -> str:
        """The variant that the others are compared with."""
        return next(iter(self.variants))

    @property
    def treatments(self) -> tuple[str, ...]:
        """All variants but the control."""
        return tuple(self.variants)[1:]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The deciding metric, those of the guardrails, and those that are only told."""
        return (self.metric, *(g.metric for g in self.guardrails), *self.also)

    @property
    def shares(self) -> dict[str, float]:
        """Share of the experiment's units by variant."""
        return {name: v.share for name, v in self.variants.items()}

    @property
    def reach(self) -> float:
        """Share of all units that are in it."""
        return 1.0 if self.kind == "holdout" else self.allocation * (1 - self.holdout)

    def allocated(self, before: Ranges = (), taken: tuple[Ranges, ...] = ()) -> Allocation:
        """Its place in the layer: the slots it had `before` and more of those that no other experiment has `taken`.

        Raises:
            InvalidInput: the layer has not so many slots free.
        """
        slots = grown(before, self.allocation, taken, self.layer)
        return Allocation(self.layer, self.salt or self.name, slots, self.shares, self.holdout)


def _midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000
