"""May a challenger replace the champion, or get traffic at all? Every answer comes with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from longtail.errors import InvalidInput
from longtail.evaluation.bootstrap import RESAMPLES, paired_difference


@dataclass(frozen=True)
class Verdict:
    """`champion`: the challenger takes over; `difference` of the means with its `interval` (low, high); why."""

    champion: bool
    difference: float
    interval: tuple[float, float]
    reason: str


def beats(
    challenger: np.ndarray,
    champion: np.ndarray | None,
    margin: float = 0.0,
    metric: str = "the metric",
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Verdict:
    """Compare two systems on the same cases: float [B] each, `champion` None when there is none yet.

    The challenger wins if its mean is higher by at least `margin` (units of the metric) and the whole interval of the
    paired difference lies above zero. Cases that are NaN in either are left out.

    Raises:
        InvalidInput: the two were judged on different numbers of cases.
    """
    challenger = np.asarray(challenger, np.float64)
    if champion is None:
        known = np.isfinite(challenger)
        if not known.any():
            return Verdict(False, 0.0, (0.0, 0.0), f"{metric} could not be measured: no case has a known answer")
        mean = float(challenger[known].mean())
        return Verdict(True, mean, (mean, mean), f"there is no champion yet; {metric} is {mean:.4f}")
    found = paired_difference(challenger, champion, level, resamples, seed)
    if not found.cases:
        return Verdict(False, 0.0, (0.0, 0.0), f"{metric} could not be compared: no case has a known answer")
    text = (
        f"{metric} differs by {found.mean:+.4f} ({level:.0%} interval {found.low:+.4f} to {found.high:+.4f}, "
        f"{found.cases} cases)"
    )
    interval = (found.low, found.high)
    if found.mean < margin:
        return Verdict(False, found.mean, interval, f"{text}: less than the margin of {margin:.4f}")
    if found.low <= 0:
        return Verdict(False, found.mean, interval, f"{text}: could be chance")
    return Verdict(True, found.mean, interval, f"{text}: better by at least the margin of {margin:.4f}")


Promote = Literal["better", "not_worse"]


@dataclass(frozen=True)
class GateConfig:
    """What a bundle must hold to become champion, or to get any traffic; shares are of the champion's figure.

    `promote`: champions must be `better` than the champion, or `not_worse` by more than `tolerance`, which is what a
    refresh of the same model on newer data can promise.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    promote: Promote = "better"
    tolerance: Annotated[float, Field(ge=0, le=1)] = 0.03
    slice_loss: Annotated[float, Field(ge=0, le=1)] = 0.1  # that no part of people or items may surely lose
    slice_cases: Annotated[int, Field(ge=2)] = 50  # of fewer cases nothing is said
    fall: Annotated[float, Field(ge=0, le=1)] = 0.4  # below what the champion had on its own week: the data is broken
    latency_ms: Annotated[float, Field(gt=0)] = 50.0  # CPU time to score 500 candidates in one thread
    bundle_mb: Annotated[float, Field(gt=0)] = 20_000.0

    @staticmethod
    def parse(text: str) -> GateConfig:
        """The configuration of a JSON object; keys it leaves out keep their defaults.

        Raises:
            InvalidInput: not JSON, an unknown key, or a value of another type.
        """
        try:
            return TypeAdapter(GateConfig).validate_json(text or "{}")
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the text"
            raise InvalidInput(f"gate: {where}: {first['msg']}") from None


@dataclass(frozen=True)
class Finding:
    """One thing that the gate looked at. One that did not pass and `holds` keeps the bundle from all traffic."""

    check: str
    passed: bool
    reason: str
    holds: bool = True


def not_worse(
    challenger: np.ndarray, champion: np.ndarray, tolerance: float, metric: str = "the metric", level: float = 0.95,
    resamples: int = RESAMPLES, seed: int = 0,
) -> Verdict:  # fmt: skip
    """The challenger wins if the whole interval of the paired difference lies above -`tolerance` x the champion's mean.

    Arguments and errors as of `beats`.
    """
    found = paired_difference(challenger, champion, level, resamples, seed)
    if not found.cases:
        return Verdict(False, 0.0, (0.0, 0.0), f"{metric} could not be compared: no case has a known answer")
    spare = tolerance * float(np.nanmean(champion))
    text = (
        f"{metric} differs by {found.mean:+.4f} ({level:.0%} interval {found.low:+.4f} to {found.high:+.4f}, "
        f"{found.cases} cases)"
    )
    wins = found.low >= -spare
    told = "not worse" if wins else "could be worse"
    return Verdict(wins, found.mean, (found.low, found.high), f"{text}: {told} by more than {spare:.4f}")


def slices(
    challenger: Mapping[str, np.ndarray], champion: Mapping[str, np.ndarray], config: GateConfig,
    metric: str = "the metric", level: float = 0.95, seed: int = 0,
) -> Finding:  # fmt: skip
    """Whether a part of the cases surely lost more than `slice_loss` of what it had under the champion.

    Both map a slice to float [B], NaN for cases outside of it. The level is shared by all slices (Bonferroni), so that
    a bundle that changes nothing is stopped in at most 1 - `level` of all runs.
    """
    names = [
        n for n in challenger
        if n in champion and np.isfinite(challenger[n] - champion[n]).sum() >= config.slice_cases
    ]  # fmt: skip
    lost = []
    for name in names:
        both = np.isfinite(challenger[name] - champion[name])
        ours, theirs = challenger[name][both], champion[name][both]
        found = paired_difference(ours, theirs, 1 - 2 * (1 - level) / len(names), seed=seed)
        if found.high < -config.slice_loss * theirs.mean():
            size = f"at most {found.high:+.4f}, {len(ours)} cases"
            lost.append(f"{name} {found.mean:+.4f} of {theirs.mean():.4f} ({size})")
    if lost:
        return Finding("slices", False, f"{metric} falls by more than {config.slice_loss:.0%} for {'; '.join(lost)}")
    said = f"no part of {len(names)} surely loses more than {config.slice_loss:.0%} of {metric}"
    return Finding("slices", True, said if names else f"no part has {config.slice_cases} cases to be compared by")


def within(check: str, value: float, limit: float, unit: str, what: str) -> Finding:
    """Whether a figure keeps to a limit, both in `unit`."""
    passed = value <= limit
    return Finding(check, passed, f"{what} {value:.3g} {unit}, {'within' if passed else 'over'} {limit:g} {unit}")


def fallen(value: float, before: float, config: GateConfig, metric: str = "the metric") -> Finding:
    """Whether the figure lies so far below the champion's own, of another week, that the data must be broken."""
    passed = not value < before * (1 - config.fall)
    text = f"{metric} is {value:.4f}, the champion's own was {before:.4f}"
    if passed:
        return Finding("fall", True, text)
    return Finding("fall", False, f"{text}: more than {config.fall:.0%} below it, look at the data first", holds=False)
