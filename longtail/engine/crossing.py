"""The running experiments over open engines: what somebody meets is looked up, everything else was made before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from longtail.engine.deployment import Deployment
from longtail.engine.duel import Duel
from longtail.engine.engine import Engine
from longtail.engine.experiment_log import DraftLog
from longtail.engine.parts import own_surfaces
from longtail.errors import InvalidInput
from longtail.experiments.placed import INTERLEAVED, Placed, PlacedVariant
from longtail.experiments.routing import Met, Router, label
from longtail.reranking.rules import Exploration
from longtail.surfaces import BoundSurfaces, Surfaces
from longtail.surfaces.config import RulesOverride

MOST = 256  # combinations of variants, each with a cache of lists
NO_EXPLORATION = RulesOverride(exploration=Exploration())


@dataclass(frozen=True)
class Crossing:
    """Who answers whom: an engine, or two that draft, for everything that `router` may say."""

    router: Router
    answers: Mapping[Met, Engine | Duel]


def cross(
    deployment: Deployment, base: Engine, opened: Mapping[Path, Engine], surfaces: Surfaces | None,
    drafts: DraftLog | None = None,
) -> Crossing | None:  # fmt: skip
    """Bind every variant's surfaces and rules to its bundle; blocks. None where no experiment runs.

    `base` serves everybody else, `opened` are the engines of the bundles that variants name, `surfaces` what the
    server's own file says (None: each bundle's own surfaces hold).

    Raises:
        InvalidInput: an experiment names a surface that there is not, or there are too many combinations.
    """
    if not deployment.experiments:
        return None
    router = Router(deployment.experiments, deployment.holdout)
    met = router.all_met()
    if len(met) > MOST:
        raise InvalidInput(f"experiments: {len(met)} combinations of variants, at most {MOST}: put some into one layer")
    made = _Made(deployment.experiments, base, opened, surfaces, drafts)
    return Crossing(router, {labels: made.answer(labels) for labels in met if labels})


class _Made:
    """Engines by what is met; surfaces that are the same are bound once."""

    def __init__(
        self, experiments: Mapping[str, Placed], base: Engine, opened: Mapping[Path, Engine],
        surfaces: Surfaces | None, drafts: DraftLog | None,
    ) -> None:  # fmt: skip
        self._experiments, self._base, self._opened = experiments, base, opened
        self._file, self._drafts = surfaces, drafts
        self._bound: dict[tuple[Engine, Met], BoundSurfaces] = {}
        self._told = {label(n, v): (n, v) for n, p in experiments.items() for v in (*p.variants, INTERLEAVED)}
        self._differs = {name: self._where(name, placed) for name, placed in experiments.items()}

    def answer(self, labels: Met) -> Engine | Duel:
        """Who answers those that meet all of these."""
        met = [self._told[one] for one in labels]
        duel = next((name for name, variant in met if variant == INTERLEAVED), None)
        if duel is not None:
            first, second = self._experiments[duel].variants.values()
            pair = [self._engine(labels, met, self._root(v), True) for v in (first, second)]
            return Duel(duel, pair[0], pair[1], self._drafts)
        named = [v for v in (self._experiments[n].variants[v] for n, v in met) if v.bundle is not None]
        return self._engine(labels, met, self._root(named[0]) if named else self._base, False)

    def _engine(self, labels: Met, met: list[tuple[str, str]], root: Engine, calm: bool) -> Engine:
        exposes = {
            surface: [(name, variant) for name, variant in met if surface in self._differs[name]]
            for surface in root.surfaces
        }
        return root.beside("+".join(labels), self._surfaces(met, root, calm), exposes)

    def _surfaces(self, met: list[tuple[str, str]], root: Engine, calm: bool) -> BoundSurfaces:
        met_variants = {label(n, v): self._experiments[n].variants.get(v) for n, v in met}
        changing = {n: v for n, v in met_variants.items() if v and (v.surfaces is not None or v.rules is not None)}
        if not changing and not calm:
            return root.surfaces
        key = root, (*changing, *(["calm"] if calm else []))
        if key not in self._bound:
            wanted = next((v.surfaces for v in changing.values() if v.surfaces is not None), self._own(root))
            rules = [v.rules for v in changing.values() if v.rules is not None]
            for one in [*rules, *([NO_EXPLORATION] if calm else [])]:
                wanted = wanted.with_rules(one)
            self._bound[key] = wanted.bind(root.bundle.catalogue, root.bundle.sources)
        return self._bound[key]

    def _where(self, name: str, placed: Placed) -> set[str]:
        """The surfaces on which some variant is not what everybody else meets; all where none differs anywhere.

        Raises:
            InvalidInput: it names a surface that there is not.
        """
        own = self._own(self._base)
        strange = [s for s in placed.surfaces if s not in own.surfaces]
        if strange:
            raise InvalidInput(
                f"experiments.{name}.surfaces: there is no {', '.join(strange)}, only {', '.join(sorted(own.surfaces))}"
            )
        on = {s for s in own.surfaces if placed.meets(s)}
        if not placed.changes or "bundle" in placed.changes:
            return on
        out = set()
        for v in placed.variants.values():
            there = own if v.surfaces is None else v.surfaces
            there = there if v.rules is None else there.with_rules(v.rules)
            out |= {s for s in on if s not in there.surfaces or _asks(there, s) != _asks(own, s)}
        return out

    def _root(self, variant: PlacedVariant) -> Engine:
        return self._base if variant.bundle is None else self._opened[variant.bundle]

    def _own(self, root: Engine) -> Surfaces:
        return self._file or own_surfaces(root.bundle.folder)


def _asks(surfaces: Surfaces, name: str) -> tuple[object, object]:
    """All that one surface is: its own keys, and the rules that hold there."""
    surface = surfaces.surfaces[name]
    return surface.model_copy(update={"rules": RulesOverride()}), surfaces.rules_of(name)
