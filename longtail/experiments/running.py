"""An experiment that runs: what was started, every ramp since, and the shares that the servers split people by.

Servers give each person a place in [0, 1) and the variants of the deployment follow one another there. The control
grows from the left, the treatment from the right, and what serves everybody else lies between: so a ramp moves nobody
who is in. That takes two variants, and one experiment at a time.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field

from longtail.errors import InvalidInput
from longtail.experiments.config import Experiment
from longtail.yaml_model import load_yaml

RECORD, FILE = "running.yaml", "experiment.yaml"
EVERYBODY_ELSE = "champion"


class Ramp(BaseModel):
    """From `time` on, `allocation` (0..1) of the people were in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    time: datetime
    allocation: Annotated[float, Field(gt=0, le=1)]


class Running(BaseModel):
    """The record of one experiment: bundles by variant, what served before it, its ramps, when and how it stopped."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    bundles: dict[str, Path]
    before: Path
    ramps: tuple[Ramp, ...] = Field(min_length=1)
    stopped: datetime | None = None
    ended: Annotated[str, Field(description="what serves afterwards: the variant, or champion")] = ""

    @property
    def allocation(self) -> float:
        """The share of the people who are in now."""
        return self.ramps[-1].allocation

    def ramped(self, allocation: float, now: datetime) -> Running:
        """More people from now on.

        Raises:
            InvalidInput: it has stopped, or it would shrink: people who were in would meet something else.
        """
        if self.stopped:
            raise InvalidInput(f"{self.name} was stopped on {self.stopped:%Y-%m-%d %H:%M}: start another experiment")
        if not self.allocation < allocation <= 1:
            raise InvalidInput(
                f"{self.name} has {self.allocation:.0%} of the people: a ramp goes up, to 1 at most; else stop it"
            )
        return self.model_copy(update={"ramps": (*self.ramps, Ramp(time=now, allocation=allocation))})

    def stop(self, ended: str, now: datetime) -> Running:
        """It is over, and `ended` serves everybody.

        Raises:
            InvalidInput: it had stopped before.
        """
        if self.stopped:
            raise InvalidInput(f"{self.name} was stopped on {self.stopped:%Y-%m-%d %H:%M} already")
        return self.model_copy(update={"stopped": now, "ended": ended})

    def deployed(self, experiment: Experiment) -> dict[str, tuple[Path, float]]:
        """Bundle and share of the people by variant, in the order in which they follow one another."""
        (control, left), (treatment, right) = experiment.shares.items()
        inside = {
            control: (self.bundles[control], self.allocation * left),
            EVERYBODY_ELSE: (self.before, 1 - self.allocation),
            treatment: (self.bundles[treatment], self.allocation * right),
        }
        return {name: at for name, at in inside.items() if at[1] > 0}


def can_run(experiment: Experiment, now: datetime) -> None:
    """Can the servers of this version run the experiment?

    Raises:
        InvalidInput: it needs more than bundles by person for two variants, or its days are over.
    """
    told = f"{experiment.name} cannot be started: "
    if len(experiment.variants) != 2:
        raise InvalidInput(told + "servers ramp two variants; of more, some people would change theirs")
    if any(v.surfaces or v.rules for v in experiment.variants.values()):
        raise InvalidInput(told + "servers split people over bundles only, not over surfaces or rules")
    if experiment.unit != "user" or experiment.holdout:
        raise InvalidInput(told + "servers split by user and keep no holdout: leave out `unit: session` and `holdout`")
    if EVERYBODY_ELSE in experiment.variants:
        raise InvalidInput(told + f"{EVERYBODY_ELSE} is what people outside of it meet: name the variant otherwise")
    if now.timestamp() * 1e6 >= experiment.dates.end_us:
        raise InvalidInput(told + f"it ended on {experiment.dates.end}: set its dates")


def save(folder: Path, running: Running, experiment_file: Path | None = None) -> None:
    """Write the record, and a copy of the experiment's file where one is given, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {RECORD: yaml.safe_dump(running.model_dump(mode="json"), sort_keys=False, allow_unicode=True)}
    if experiment_file is not None:
        texts[FILE] = experiment_file.read_text(encoding="utf-8")
    for name, text in reversed(texts.items()):
        beside = folder / f".{name}.{os.getpid()}"
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, folder / name)


def load(folder: Path) -> tuple[Experiment, Running]:
    """What `save` wrote.

    Raises:
        InvalidInput: there is no such experiment, or its files cannot be read.
    """
    if not (folder / RECORD).is_file():
        raise InvalidInput(f"{folder} holds no experiment: see `longtail experiment status`")
    return Experiment.load(folder / FILE), load_yaml(folder / RECORD, Running)


def all_of(state: Path) -> list[tuple[Experiment, Running]]:
    """Every experiment that was started on the servers of a state folder, newest first."""
    found = [load(path.parent) for path in (state / "experiments").glob(f"*/{RECORD}")]
    return sorted(found, key=lambda pair: pair[1].ramps[0].time, reverse=True)


def utc_now() -> datetime:
    """The wall clock, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
