"""A bundle as a policy: what its ranker and rules would do with the candidates that another bundle's servers logged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from longtail.engine.impressions import Impression
from longtail.engine.parts import SURFACES_FILE, Bundle
from longtail.errors import InvalidInput
from longtail.offpolicy.rewards import Outcomes
from longtail.offpolicy.shelf import Shelf
from longtail.reranking import PersonView
from longtail.surfaces import BoundSurfaces, Surfaces

if TYPE_CHECKING:
    import xgboost


@dataclass(frozen=True)
class Past:
    """Item ids of a person's history, and those of them that they bought: what a shop's filters may leave out."""

    seen: list[str]
    bought: list[str]


@dataclass(frozen=True)
class Policy:
    """A bundle's catalogue, ranker and surfaces."""

    bundle: Bundle
    booster: xgboost.Booster
    surfaces: BoundSurfaces

    @staticmethod
    def open(folder: Path, surfaces: Surfaces | None = None) -> Policy:
        """Open a bundle; `surfaces` instead of its own, so that two bundles explore alike.

        Raises:
            InvalidBundle: it cannot be read.
        """
        import xgboost

        bundle = Bundle.open(folder)
        booster = xgboost.Booster(model_file=bundle.folder / "ranker" / bundle.ranker / "1" / "xgboost.ubj")
        bound = bundle.surfaces if surfaces is None else surfaces.bind(bundle.catalogue, bundle.sources)
        return Policy(bundle, booster, bound)

    def shelf(self, row: Impression, candidates: list[str], features: np.ndarray, past: Past) -> Shelf:
        """What the policy makes of a logged request: item ids of its candidates, their features float32 [n, F]."""
        bundle, surface = self.bundle, self.surfaces[row.surface]
        names = bundle.fallback.segments
        region = names[row.segment] if 0 <= row.segment < len(names) else None
        person = PersonView(
            bundle.view.region_code(region), bought=_known(bundle, past.bought), seen=_known(bundle, past.seen)
        )
        scores = np.asarray(self.booster.inplace_predict(features), np.float32).reshape(-1)
        codes = bundle.codes.find(candidates)
        return Shelf(scores, codes, bundle.view, person, surface.rules, row.time, len(row.items))


def surfaces_of(folder: Path) -> Surfaces:
    """The surfaces that a bundle brings along."""
    file = Path(folder) / SURFACES_FILE
    return Surfaces.load(file) if file.is_file() else Surfaces.default()


def comparable(champion: Policy, challenger: Policy) -> None:
    """Check that the challenger's ranker can read the features that the champion's servers logged.

    Raises:
        InvalidInput: its sources differ, and with them its features.
    """
    if champion.bundle.sources != challenger.bundle.sources:
        raise InvalidInput(
            f"the challenger has other candidate sources ({', '.join(challenger.bundle.sources)}) than the bundle that "
            f"wrote the log ({', '.join(champion.bundle.sources)}): no log of that one can say what it would show"
        )


def why_not(row: Impression, features: np.ndarray, policy: Policy) -> str | None:
    """Why a logged list cannot be judged, None when it can."""
    if row.model_version != policy.bundle.version:
        return "made by another bundle"
    if row.level != "full" or row.made != "live":
        return "not made in full at its time"
    if row.surface not in policy.surfaces:
        return "of a surface that is gone"
    surface = policy.surfaces[row.surface]
    if surface.anchor != "none" or surface.within is not None:
        return "of a surface whose lists depend on what the request named"
    if len(row.candidates) <= len(row.items) or len(features) != len(row.candidates):
        return "without the features of all candidates"
    return None


def past_of(row: Impression, policy: Policy, outcomes: Outcomes) -> Past:
    """The history that the servers knew, `policy` being the bundle that made the list."""
    seen = policy.bundle.catalogue.ids_of(np.asarray(row.history_item, np.int64))
    when = zip(seen, row.history_time.tolist(), strict=True)
    user = row.user_id or ""
    return Past(seen, [item for item, time in when if (user, item, time) in outcomes.bought])


def _known(bundle: Bundle, items: list[str]) -> np.ndarray:
    codes = bundle.codes.find(items) if items else np.empty(0, np.int64)
    return codes[codes >= 0]
