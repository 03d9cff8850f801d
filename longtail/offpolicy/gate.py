"""May a challenger get traffic? Not when, by what the champion logged, it may be worse by more than a margin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longtail.errors import InvalidInput
from longtail.offpolicy.diagnostics import Overlap, overlap
from longtail.offpolicy.estimators import Score, difference, ips, self_normalised
from longtail.offpolicy.interval import Estimate, estimate
from longtail.offpolicy.policy import Policy, surfaces_of
from longtail.offpolicy.replay import Replayed, replay
from longtail.surfaces import Surfaces

EFFECTIVE = 100.0  # lists of equal weight: with fewer, an interval from weights cannot be believed (see README)
UNSUPPORTED = 0.2  # share of the looks that may go to what the champion could not have shown


@dataclass(frozen=True)
class Verdict:
    """`passed`: the challenger may get traffic; `reason` in one sentence; the figures behind it, per list."""

    passed: bool
    reason: str
    champion: Estimate
    challenger: Estimate
    difference: Estimate
    overlap: Overlap
    skipped: dict[str, int]


def judge(log: Replayed, margin: float = 0.05, level: float = 0.95) -> Verdict:
    """Compare the challenger with the champion that wrote the log.

    The champion's value is what its lists earned; the challenger's is self-normalised IPS by the position-based model.
    It passes when the lower bound of challenger - (1 - margin) x champion, paired list by list, is above 0. A log that
    is too unlike the challenger to tell does not let it pass either: an interval from a handful of weights is narrow
    when none of them earned anything; nor does a log whose lists earned nothing at all.
    """
    own = ips(log.reward, log.shown.astype(np.float64))
    other = self_normalised(log.reward, log.weight, log.shown, looked=log.looked)
    values = [estimate(score, log.user, level) for score in (own, other, difference(other, own))]
    champion, challenger, lead = values
    spread = overlap(log.weight, log.shown, float(log.unsupported.mean()), log.looked)
    spare = estimate(difference(other, Score((1 - margin) * own.value, (1 - margin) * own.influence)), log.user, level)
    counted = "clicks by what their items bring" if log.by_worth else "clicks"
    text = (
        f"the challenger would earn {challenger.value:.4f} a list against {champion.value:.4f}, a difference of "
        f"{lead.value:+.4f} in {counted} ({level:.0%} interval {lead.low:+.4f} to {lead.high:+.4f}; "
        f"{spread.lists} lists, {spread.effective:.0f} effective)"
    )
    passed = False
    if spread.effective < EFFECTIVE or spread.unsupported > UNSUPPORTED:
        reason = (
            f"the log cannot tell: {spread.effective:.0f} effective lists of at least {EFFECTIVE:.0f}, "
            f"{spread.unsupported:.0%} of the looks go to what the champion could not have shown, of at most "
            f"{UNSUPPORTED:.0%}; log more lists, or explore more"
        )
    elif not log.reward.any():
        reason = (
            f"the log cannot tell: nothing came of its {spread.lists} lists; see whether the shop holds the events of "
            "those days, with the request ids of their lists"
        )
    elif spare.low < 0:
        reason = f"{text}: it may be worse by more than the margin of {margin:.0%}"
    else:
        passed, reason = True, f"{text}: not worse by more than the margin of {margin:.0%}"
    return Verdict(passed, reason, champion, challenger, lead, spread, log.skipped)


def judge_bundles(
    impressions: Path, shop: Path, champion: Path, challenger: Path, margin: float = 0.05, seed: int = 0,
    served: Path | None = None, objective: str | Mapping[Any, float] = "clicks",
) -> dict[str, Any]:  # fmt: skip
    """`judge` two bundle folders on an impression log and the imported shop that holds its clicks, as plain data.

    Both go by the champion's surfaces, or by the file `served` where the log was not made by those. A log that cannot
    be judged at all holds the challenger back, and `reason` says why. Clicks count by the `objective`, see `replay`.
    """
    why = ""
    for surfaces in [surfaces_of(champion), *([Surfaces.load(served)] if served else [])]:
        policies = Policy.open(champion, surfaces), Policy.open(challenger, surfaces)
        try:
            return asdict(judge(replay(impressions, shop, *policies, seed=seed, objective=objective), margin))
        except InvalidInput as error:
            why = why or str(error)
    return {"passed": False, "reason": why}
