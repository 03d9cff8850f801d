"""Which bundles serve whom, and which experiments run: the deployment file and a watch over it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from longtail.durable import locked
from longtail.errors import InvalidInput
from longtail.experiments.config import Name
from longtail.experiments.placed import Placed, together
from longtail.yaml_model import load_yaml

DEPLOYMENT = "deployment.yaml"  # in the state folder of `longtail serve`
ROUNDING = 1e-6


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Variant(_Strict):
    """One bundle (a folder) and the share of the people, 0 to 1, that it answers."""

    bundle: Path
    share: float = Field(ge=0, le=1)


class Deployment(_Strict):
    """The variants by name. Their shares sum to one; the first one is what a single bundle would be: the champion.

    `experiments` run beside one variant that serves everybody else; `holdout` is the share of all whom none touches.
    """

    variants: dict[Name, Variant] = Field(min_length=1)
    experiments: dict[Name, Placed] = {}
    holdout: float = Field(0.0, ge=0, le=0.5)

    @field_validator("variants")
    @classmethod
    def _whole(cls, variants: dict[str, Variant]) -> dict[str, Variant]:
        total = sum(v.share for v in variants.values())
        if abs(total - 1) > ROUNDING:
            raise ValueError(f"the shares sum to {total:g}, they must sum to 1")
        return variants

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.experiments and len(self.variants) > 1:
            raise ValueError("experiments run beside one variant: make the others variants of an experiment")
        together(self.experiments)
        return self

    @property
    def bundles(self) -> list[Path]:
        """The bundle folders, each once, those of the variants first."""
        more = [bundle for placed in self.experiments.values() for bundle in placed.bundles]
        return list(dict.fromkeys([*(v.bundle for v in self.variants.values()), *more]))

    def without(self, experiment: str) -> Deployment:
        """The same after an experiment has ended."""
        rest = {name: placed for name, placed in self.experiments.items() if name != experiment}
        return self.model_copy(update={"experiments": rest})

    def serving(self, bundle: Path | None) -> Deployment:
        """The same with another bundle for everybody outside of experiments; None changes nothing."""
        if bundle is None:
            return self
        name, _ = next(iter(self.variants.items()))
        return self.model_copy(update={"variants": {name: Variant(bundle=bundle, share=1.0)}})

    def beside(self, before: Deployment) -> Deployment:
        """The same with the experiments and the holdout of what served `before`.

        Raises:
            InvalidInput: experiments run, and this has several variants.
        """
        if not before.experiments:
            return self.model_copy(update={"holdout": before.holdout})
        return _checked({**dict(self), "experiments": before.experiments, "holdout": before.holdout})

    def running(self, experiment: str, placed: Placed, holdout: float) -> Deployment:
        """The same with an experiment begun or ramped.

        Raises:
            InvalidInput: it cannot run beside the others.
        """
        return _checked({**dict(self), "experiments": {**self.experiments, experiment: placed}, "holdout": holdout})

    @staticmethod
    def single(bundle: Path, variant: str = "champion") -> Deployment:
        """One bundle that answers everybody."""
        return Deployment(variants={variant: Variant(bundle=Path(bundle).resolve(), share=1.0)})

    @staticmethod
    def of(champion: Path, challenger: Path | None = None, share: float = 0.1) -> Deployment:
        """A champion and, beside it, a challenger that answers a share of the people."""
        if challenger is None:
            return Deployment.single(champion)
        shares = {"champion": (champion, 1 - share), "challenger": (challenger, share)}
        return Deployment(
            variants={name: Variant(bundle=Path(b).resolve(), share=part) for name, (b, part) in shares.items()}
        )

    @staticmethod
    def load(path: Path | str) -> Deployment:
        """Read a deployment file; relative bundle folders are relative to it.

        Raises:
            InvalidInput: the message names file, line and key of every mistake.
        """
        path = Path(path)
        read = load_yaml(path, Deployment)
        folder = path.resolve().parent
        named = {n: v.model_copy(update={"bundle": folder / v.bundle}) for n, v in read.variants.items()}
        placed = {name: _from(folder, one) for name, one in read.experiments.items()}
        return read.model_copy(update={"variants": named, "experiments": placed})

    def save(self, path: Path | str) -> None:
        """Write the file atomically: a watch sees the old one or the new one, never half of one."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        with beside.open("w", encoding="utf-8") as file:
            file.write(self.text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)

    def replace(self, path: Path | str, over: Deployment) -> Deployment:
        """`save` over a file that still says `over`; what it says now.

        Raises:
            InvalidInput: somebody else changed it meanwhile, and what they wrote stays.
        """
        path = Path(path)
        with locked(path.with_name(f".{path.name}.lock")):
            if Deployment.load(path).fingerprint != over.fingerprint:
                raise InvalidInput(f"{path} was changed by somebody else meanwhile: run this again")
            self.save(path)
            return Deployment.load(path)

    @property
    def text(self) -> str:
        """The deployment file."""
        return yaml.safe_dump(self._plain(), sort_keys=False, allow_unicode=True)

    @property
    def fingerprint(self) -> str:
        """What tells this deployment from others."""
        return hashlib.sha256(json.dumps(self._plain(), sort_keys=True).encode()).hexdigest()[:16]

    def _plain(self) -> dict[str, Any]:
        raw: dict[str, Any] = {"variants": {n: v.model_dump(mode="json") for n, v in self.variants.items()}}
        if self.experiments:
            placed = self.experiments.items()
            raw["experiments"] = {n: p.model_dump(mode="json", by_alias=True, exclude_unset=True) for n, p in placed}
        if self.holdout:
            raw["holdout"] = self.holdout
        return raw


def _checked(given: dict[str, Any]) -> Deployment:
    try:
        return Deployment.model_validate(given)
    except ValidationError as error:
        raise InvalidInput(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _from(folder: Path, placed: Placed) -> Placed:
    """The same with bundle folders that are relative to `folder`."""
    variants = {
        name: v if v.bundle is None else v.model_copy(update={"bundle": folder / v.bundle})
        for name, v in placed.variants.items()
    }
    return placed.model_copy(update={"variants": variants})


class DeploymentWatch:
    """Sees when a deployment file changes; reading it costs one `stat` as long as it does not."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._seen: tuple[int, int, int] | None = (-1, -1, -1)

    def changed(self) -> Deployment | None:
        """The deployment when the file is new since the last call (the first call counts as new), else None.

        Raises:
            InvalidInput: the file changed and cannot be used; said once, until it changes again. What runs must go on.
        """
        seen = self._stamp()
        if seen == self._seen:
            return None
        self._seen = seen
        if seen is None:
            raise InvalidInput(f"{self.path} is gone: what runs goes on")
        return Deployment.load(self.path)

    def first(self) -> Deployment:
        """The deployment to start with: what the file says, or what served well before where it cannot be read.

        Raises:
            InvalidInput: neither can be used; the message tells what is wrong with the file.
        """
        seen = self._stamp()
        try:
            found = Deployment.load(self.path)
        except InvalidInput:
            if self.accepted is None:
                raise
            return self.accepted  # and `changed` says what is wrong with the file
        self._seen = seen
        return found

    def accept(self, deployment: Deployment) -> None:
        """Remember, beside the file, a deployment that serves well: where the file cannot be used, it is `accepted`."""
        with contextlib.suppress(OSError):  # a folder that cannot be written: then there is nothing to go back to
            deployment.save(self._accepted)

    @property
    def accepted(self) -> Deployment | None:
        """The last deployment that served well, None where none is known."""
        try:
            return Deployment.load(self._accepted)
        except InvalidInput:
            return None

    @property
    def _accepted(self) -> Path:
        return self.path.with_name(f".{self.path.name}.accepted")

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
