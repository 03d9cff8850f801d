"""The policy file: which signals ask for what, how sure one must be, how often a run may start, and where it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from longtail.monitoring.checks import CHECKS
from longtail.monitoring.signal import SEVERITIES, Severity, Signal
from longtail.yaml_model import load_yaml

Action = Literal["alert", "refresh", "incremental", "full"]
ACTIONS: tuple[Action, ...] = get_args(Action)  # the larger contains the smaller
TRAININGS: tuple[Action, ...] = ACTIONS[1:]
Days = Annotated[float, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _known(names: Any) -> Any:
    for name in [names] if isinstance(names, str) else names or ():
        if name not in CHECKS:
            raise ValueError(f"no check is named {name!r}: choose from {', '.join(CHECKS)}")
    return names


class Confirm(_Strict):
    """Fired on at least `days` of the newest `of` days that were checked: one bad day starts nothing."""

    days: Annotated[int, Field(ge=1)] = 2
    of: Annotated[int, Field(ge=1)] = 3

    @model_validator(mode="after")
    def _fits(self) -> Confirm:
        if self.days > self.of:
            raise ValueError(f"days ({self.days}) must not be more than of ({self.of})")
        return self


class Rule(_Strict):
    """When one of the checks `when` fires, with at least `severity`, about `part` (empty: about anything): `do`."""

    when: list[str] = Field(min_length=1)
    part: str = ""
    severity: Severity = "info"
    do: Action
    confirm: Confirm = Confirm()

    _names = field_validator("when", mode="after")(_known)

    @field_validator("when", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def concerns(self, signal: Signal) -> bool:
        """Whether this is about the signal, fired or not."""
        severe = SEVERITIES.index(signal.severity) >= SEVERITIES.index(self.severity)
        return signal.name in self.when and self.part in ("", signal.part) and severe


class Cooldown(_Strict):
    """Days after the start of a run of this size, or a larger one, until the next; each failed run in a row doubles it,
    up to `most`."""

    refresh: Days = 0.5
    incremental: Days = 2
    full: Days = 7
    most: Days = 14


class Budget(_Strict):
    """At most so many runs start, and so many hours of them are spent, in any 24 hours."""

    runs: Annotated[int, Field(ge=0)] = 2
    hours: Annotated[float, Field(gt=0)] = 12.0


class Servers(_Strict):
    """The servers of a `longtail serve` that runs on this machine: its `--state` folder and where it answers."""

    state: Path
    url: str = "http://127.0.0.1:8080"
    timeout_s: Annotated[float, Field(gt=0)] = 180.0


class Local(_Strict):
    """A run on this machine, as `longtail train` makes it; with `deploy`, the champion it registers serves there."""

    where: Literal["local"] = "local"
    source: Path
    reader: str = "shop"
    registry: str = "runs/mlflow"
    out: Path = Path("runs/retrain")
    config: Path | None = None
    surfaces: Path | None = None
    impressions: Path | None = None
    options: dict[str, str] = Field(default_factory=dict, description="further parameters of the pipeline by name")
    timeout_hours: Annotated[float, Field(gt=0)] = 12.0
    deploy: Servers | None = None


class Kubeflow(_Strict):
    """A run on Kubeflow Pipelines, as `longtail pipeline submit` starts it; `params` are the pipeline's parameters.

    A `deploy` section of the platform file lets it end by deploying the champion.
    """

    where: Literal["kubeflow"]
    platform: Path
    registry: str
    params: dict[str, str]
    config: Path | None = None
    options: dict[str, str] = Field(default_factory=dict, description="further options of the command by name")
    timeout_hours: Annotated[float, Field(gt=0)] = 24.0


class Policy(_Strict):
    """The whole file. While one of the checks `hold` fires on the newest day, nothing is trained: the data is bad."""

    rules: list[Rule] = Field(min_length=1)
    hold: list[str] = []
    cooldown_days: Cooldown = Cooldown()
    budget: Budget = Budget()
    run: Annotated[Local | Kubeflow, Field(discriminator="where")]

    _names = field_validator("hold", mode="after")(_known)

    @field_validator("run", mode="before")
    @classmethod
    def _local_unless_said(cls, value: Any) -> Any:
        return {"where": "local", **value} if isinstance(value, dict) else value

    @staticmethod
    def load(path: Path | str) -> Policy:
        """Read a policy file.

        Raises:
            InvalidInput: the message names file, line and key of every mistake.
        """
        return load_yaml(path, Policy)
