"""An experiment that runs: what was started, every ramp since, and its place in the deployment that servers follow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field

from longtail.errors import InvalidInput
from longtail.experiments.assignment import Ranges, grown
from longtail.experiments.config import Experiment
from longtail.experiments.placed import Placed, PlacedVariant
from longtail.surfaces.config import Surfaces
from longtail.yaml_model import load_yaml

RECORD, FILE = "running.yaml", "experiment.yaml"


class Ramp(BaseModel):
    """From `time` on, `allocation` (0..1) of the units were in: those of the layer's `slots`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    time: datetime
    allocation: Annotated[float, Field(gt=0, le=1)]
    slots: Ranges


class Running(BaseModel):
    """The record of one experiment: its ramps, when and how it stopped."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    ramps: tuple[Ramp, ...] = Field(min_length=1)
    stopped: datetime | None = None
    shipped: Annotated[str, Field(description="the variant that serves everybody since, or none")] = ""

    @property
    def allocation(self) -> float:
        """The share of the units who are in now."""
        return self.ramps[-1].allocation

    def ramped(self, placed: Placed, allocation: float, now: datetime) -> Running:
        """More people from now on, in the slots of `placed`."""
        return self.model_copy(
            update={"ramps": (*self.ramps, Ramp(time=now, allocation=allocation, slots=placed.slots))}
        )

    def stop(self, shipped: str, now: datetime) -> Running:
        """It is over; `shipped` is the variant that serves everybody, or ''.

        Raises:
            InvalidInput: it had stopped before.
        """
        if self.stopped:
            raise InvalidInput(f"{self.name} was stopped on {self.stopped:%Y-%m-%d %H:%M} already")
        return self.model_copy(update={"stopped": now, "shipped": shipped})


def begun(name: str, placed: Placed, allocation: float, now: datetime) -> Running:
    """The record of an experiment that starts now."""
    return Running(name=name, ramps=(Ramp(time=now, allocation=allocation, slots=placed.slots),))


def can_run(experiment: Experiment, now: datetime) -> None:
    """Is there time left to run it?

    Raises:
        InvalidInput: its days are over, or it is a holdout, which runs with the experiments that name it.
    """
    if experiment.kind == "holdout":
        raise InvalidInput(
            f"{experiment.name} cannot be started: experiments that say `holdout: {experiment.holdout:g}` leave these "
            "people alone; `longtail experiment analyse` compares them with everybody else"
        )
    if now.timestamp() * 1e6 >= experiment.dates.end_us:
        raise InvalidInput(f"{experiment.name} cannot be started: it ended on {experiment.dates.end}: set its dates")


def placed(experiment: Experiment, bundles: Mapping[str, Path], folder: Path, others: Mapping[str, Placed]) -> Placed:
    """The experiment as servers read it, in free slots of its layer beside the `others` that run.

    `bundles` are folders by variant, for those that name a bundle; surfaces files are relative to `folder`.

    Raises:
        InvalidInput: the layer has no room, or a surfaces file has mistakes.
    """
    variants = {}
    for name, variant in experiment.variants.items():
        surfaces = None if variant.surfaces is None else Surfaces.load(folder / variant.surfaces)
        given = {"bundle": bundles.get(name), "surfaces": surfaces, "rules": variant.rules}
        variants[name] = PlacedVariant(share=variant.share, **{k: v for k, v in given.items() if v is not None})
    return Placed(
        layer=experiment.layer, unit=experiment.unit, salt=experiment.salt or experiment.name, kind=experiment.kind,
        slots=grown((), experiment.allocation, taken(experiment.layer, others), experiment.layer),
        surfaces=experiment.surfaces, variants=variants,
    )  # fmt: skip


def ramped(name: str, allocation: float, running: Mapping[str, Placed]) -> Placed:
    """A running experiment with more slots; those it had stay.

    Raises:
        InvalidInput: the layer has no room, or it would shrink: people who were in would meet something else.
    """
    now = running[name]
    others = {n: p for n, p in running.items() if n != name}
    more = grown(now.slots, allocation, taken(now.layer, others), now.layer)
    if _size(more) <= _size(now.slots) or allocation > 1:
        raise InvalidInput(
            f"{name} has {_size(now.slots) / 10_000:.0%} of its layer: a ramp goes up, to 1 at most; else stop it"
        )
    return now.model_copy(update={"slots": more})


def taken(layer: str, running: Mapping[str, Placed]) -> list[Ranges]:
    """The slots of a layer that running experiments have."""
    return [placed.slots for placed in running.values() if placed.layer == layer]


def _size(slots: Ranges) -> int:
    return sum(high - low for low, high in slots)


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


def forget(folder: Path) -> None:
    """Remove what `save` wrote of an experiment that did not start."""
    for name in (RECORD, FILE):
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()


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
