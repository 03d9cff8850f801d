"""Which variants of the running experiments somebody meets on a surface: microseconds, as `assignment` says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from longtail.experiments.assignment import SLOTS, Allocation, in_holdout, slot_of
from longtail.experiments.placed import Placed

NOBODY = -1
Met = tuple[str, ...]


def label(experiment: str, variant: str) -> str:
    """How a variant is named in responses and logs; `log` takes it apart again."""
    return f"{experiment}:{variant}"


@dataclass(frozen=True)
class _Layer:
    """`owner` of each slot: the place of an experiment in `allocations`, or `NOBODY`."""

    by_session: bool
    owner: list[int]
    allocations: list[Allocation]
    labels: list[dict[str, str]]

    @property
    def all_labels(self) -> list[str]:
        return [one for labels in self.labels for one in labels.values()]


class Router:
    """The running experiments by name, and the share of everybody whom none of them touches."""

    def __init__(self, experiments: Mapping[str, Placed], holdout: float = 0.0) -> None:
        self._holdout = holdout
        named = {name for placed in experiments.values() for name in placed.surfaces}
        self._elsewhere = _layers({n: p for n, p in experiments.items() if not p.surfaces}, holdout)
        self._on = {s: _layers({n: p for n, p in experiments.items() if p.meets(s)}, holdout) for s in named}

    def met(self, user: str | None, session: str | None, surface: str) -> Met:
        """The labels of what applies to a list: at most one of each layer, in the order of the layers.

        `user` and `session` are pseudonyms, as the logs hold them. Who has no user id is in no experiment by user, a
        request without a session in none by session.
        """
        out = []
        held: dict[str, bool] = {}
        for layer in self._on.get(surface, self._elsewhere):
            who = session if layer.by_session else user
            if who is None:
                continue
            if self._holdout:
                if who not in held:
                    held[who] = in_holdout(who, self._holdout)
                if held[who]:
                    continue
            first = layer.allocations[0]
            owner = layer.owner[slot_of(who, first.layer)]
            if owner != NOBODY:
                out.append(layer.labels[owner][layer.allocations[owner].variant_of(who)])
        return tuple(out)

    def all_met(self) -> set[Met]:
        """Everything that `met` may say."""
        out: set[Met] = {()}
        for layers in (self._elsewhere, *self._on.values()):
            choices = [[(), *((one,) for one in layer.all_labels)] for layer in layers]
            out |= {sum(picked, ()) for picked in product(*choices)}
        return out


def _layers(experiments: Mapping[str, Placed], holdout: float) -> list[_Layer]:
    names: dict[str, list[str]] = {}
    for name, placed in experiments.items():
        names.setdefault(placed.layer, []).append(name)
    out = []
    for of in names.values():
        owner, allocations, labels = [NOBODY] * SLOTS, [], []
        for place, name in enumerate(of):
            allocation = experiments[name].allocation(holdout)
            for low, high in allocation.slots:
                owner[low:high] = [place] * (high - low)
            allocations.append(allocation)
            labels.append({variant: label(name, variant) for variant in allocation.variants})
        out.append(_Layer(experiments[of[0]].unit == "session", owner, allocations, labels))
    return out
