"""What to watch and when to say so: a YAML file over the defaults of `checks.CHECKS`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from longtail.monitoring.checks import CHECKS, Check
from longtail.monitoring.signal import Severity
from longtail.yaml_model import load_yaml

Positive = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Override(_Strict):
    """What a shop sets otherwise for one check, see `Check`; `enabled: false` leaves it out."""

    enabled: bool = True
    severity: Severity | None = None
    bound: Positive | None = None
    change: Positive | None = None
    z: Positive | None = None


class Before(_Strict):
    """The days before that a day is held against; fewer than `least` (or `least_of_bundle`, for checks that look at the
    days of one bundle only) say nothing yet."""

    days: Annotated[int, Field(ge=7, le=365)] = 28
    least: Annotated[int, Field(ge=5)] = 14
    least_of_bundle: Annotated[int, Field(ge=3)] = 7

    @model_validator(mode="after")
    def _fits(self) -> Before:
        if self.least > self.days:
            raise ValueError(f"least ({self.least}) must not be more than days ({self.days})")
        return self


class Bots(_Strict):
    """What no person does: more events than this in a day, or in one minute."""

    day: Annotated[int, Field(ge=1)] = 500
    minute: Annotated[int, Field(ge=1)] = 40


class Watch(_Strict):
    """All settings; `rows` of shown items a day go to the drift checks, `lists` to the parity check.

    A drift check says nothing about fewer than `least_lists` lists, nor a rate about fewer than `least_places` places.
    """

    checks: dict[str, Override] = Field(default_factory=dict)
    before: Before = Before()
    bots: Bots = Bots()
    rows: Annotated[int, Field(ge=500, le=100_000)] = 20_000
    lists: Annotated[int, Field(ge=1, le=10_000)] = 200
    least_lists: Annotated[int, Field(ge=1)] = 100
    least_places: Annotated[int, Field(ge=1)] = 500
    memory: Annotated[str, Field(pattern=r"^\d+(MB|GB)$")] = "2GB"

    @model_validator(mode="after")
    def _known(self) -> Watch:
        for name, override in self.checks.items():
            if name not in CHECKS:
                raise ValueError(f"checks: {name} is no check: known are {', '.join(CHECKS)}")
            for key in ("bound", "change"):
                if getattr(override, key) is not None and getattr(CHECKS[name], key) != getattr(CHECKS[name], key):
                    raise ValueError(f"checks: {name} has no {key}: see docs/monitoring.md")
        return self

    @staticmethod
    def load(path: Path | str | None) -> Watch:
        """The settings of a YAML file, without one the defaults.

        Raises:
            InvalidInput: unreadable, an unknown key or check, or a value that does not fit.
        """
        return Watch() if path is None else load_yaml(path, Watch)

    def check(self, name: str) -> Check | None:
        """The check as the shop wants it, None where it is left out."""
        override = self.checks.get(name, Override())
        if not override.enabled:
            return None
        changed = override.model_dump(exclude={"enabled"}, exclude_none=True)
        return replace(CHECKS[name], **changed)
