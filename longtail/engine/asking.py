"""What an instance asks for, with its names resolved to the bundle, and the question that goes to the retriever."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from longtail.engine.anchors import anchored, last_looked_at
from longtail.engine.parts import Bundle
from longtail.engine.popular import Category, Popular
from longtail.engine.schema import Instance
from longtail.errors import InvalidInput
from longtail.events import Requests
from longtail.identity.pseudonyms import GIVEN
from longtail.reranking import PersonView
from longtail.reranking.filters import member
from longtail.retrieval.candidates import Ask, Candidates
from longtail.schema import EVENT_CODE
from longtail.surfaces import BoundSurface, BoundSurfaces

PURCHASE = EVENT_CODE["purchase"]
# Sources propose from the whole shop: where a category narrows that down, more must come.
WIDER = 4
ALSO = 200
NOTHING = np.empty(0, np.int64)


class Pseudonym(Protocol):
    """Turns an id of the shop (`kind`: user, session, device) into the stored one."""

    def __call__(self, identifier: str, kind: str = "user") -> str: ...


def unchanged(identifier: str, kind: str = "user") -> str:
    """The `Pseudonym` of ids that are pseudonyms already."""
    return identifier.removeprefix(GIVEN)


@dataclass(frozen=True, slots=True)
class Asked:
    """One instance as the engine sees it. `user` is a pseudonym, `now` microseconds; `anchors` item indices int64 [n].

    `key` names the list among the last good ones, None where it must not be kept. Requests with one `equal` may be
    shown one list. `notes` are causes that concern this instance alone.
    """

    instance: Instance
    k: int
    now: int
    user: str | None
    segment: int
    person: PersonView
    anchors: np.ndarray
    category: Category | None
    key: Hashable | None
    equal: Hashable
    notes: list[str] = field(default_factory=list)


def surfaces_of(instances: Sequence[Instance], surfaces: BoundSurfaces) -> list[BoundSurface]:
    """The surface of each instance.

    Raises:
        InvalidInput: there is none of that name, or it needs a category and got none.
    """
    out = []
    for n, instance in enumerate(instances):
        try:
            surface = surfaces[instance.surface]
        except InvalidInput as error:
            raise InvalidInput(f"instances[{n}].{error}") from None
        if surface.within == "category" and instance.context.category is None:
            raise InvalidInput(f"instances[{n}].context.category: the surface {surface.name} needs it")
        out.append(surface)
    return out


def resolve(
    instances: Sequence[Instance],
    surface: BoundSurface,
    requests: Requests,
    bundle: Bundle,
    popular: Popular,
    pseudonym: Pseudonym,
) -> list[Asked]:
    """Every instance of one surface; `requests` [B] are theirs."""
    return [_resolve(b, i, surface, requests, bundle, popular, pseudonym) for b, i in enumerate(instances)]


def _resolve(
    b: int, instance: Instance, surface: BoundSurface, requests: Requests, bundle: Bundle, popular: Popular,
    pseudonym: Pseudonym,
) -> Asked:  # fmt: skip
    context, history = instance.context, requests.history
    past = slice(history.indptr[b], history.indptr[b + 1])
    seen = history.item[past].astype(np.int64)
    segment, names = int(requests.segment[b]), bundle.fallback.segments
    region = context.region or (names[segment] if 0 <= segment < len(names) else None)
    notes = []
    category = None
    if surface.within == "category" and context.category is not None:
        category = popular.category(context.category)
        if category is None:
            notes.append("category: unknown")
    anchors = NOTHING
    if surface.anchor == "items" and context.items:
        anchors = bundle.codes.find(context.items)
        anchors = anchors[anchors >= 0]
    elif surface.anchor == "last_viewed":
        anchors = last_looked_at(history, b)
    person = PersonView(
        bundle.view.region_code(region), -1 if context.age is None else context.age,
        seen[history.kind[past] == PURCHASE], seen, anchors, None if category is None else category.codes,
    )  # fmt: skip
    user = None if instance.user_id is None else pseudonym(instance.user_id)
    given = (surface.name, context.items if surface.anchor == "items" else (), context.category if category else None)
    key = (user, *given) if user is not None or given[1] or category else None
    k = instance.k or surface.k
    equal = (*given, k, person.region, person.age, segment, tuple(anchors.tolist()))
    if personal(surface, anchors):
        # A new event changes the number of events or the last one.
        equal += (user, len(seen), *((int(seen[-1]), int(history.time[past.stop - 1])) if len(seen) else ()))
    return Asked(
        instance, k, int(requests.time[b]), user, segment, person, anchors, category, key, equal, notes,

    )  # fmt: skip


def personal(surface: BoundSurface, anchors: np.ndarray) -> bool:
    """Whether a list depends on the person's own history: not where anchors stand in for it and no ranker looks."""
    filters = surface.rules.rules.filters
    return surface.order == "ranker" or not len(anchors) or filters.exclude_bought or filters.exclude_seen


def question(requests: Requests, asked: Sequence[Asked], surface: BoundSurface, n: int) -> tuple[Requests, Ask]:
    """What the retriever is asked: requests with anchors in the place of histories, and how many candidates."""
    if any(len(a.anchors) for a in asked):
        requests = anchored(requests, [a.anchors for a in asked])
    n = surface.candidates or n
    if not any(a.category for a in asked):
        return requests, Ask(n, surface.weights)
    shelves = [a.category.shelf.items[:ALSO] if a.category else NOTHING for a in asked]
    rows = np.repeat(np.arange(len(asked)), [len(s) for s in shelves])
    return requests, Ask(WIDER * n, surface.weights, (rows, np.concatenate(shelves)))


def narrowed(candidates: Candidates, asked: Sequence[Asked], bundle: Bundle, n: int) -> Candidates:
    """The best `n` candidates of each request inside its category, where it has one."""
    if not any(a.category for a in asked):
        return candidates
    keep = np.ones(len(candidates.rows), bool)
    bounds = np.searchsorted(candidates.rows, np.arange(len(asked) + 1))
    for b, a in enumerate(asked):
        mine = slice(bounds[b], bounds[b + 1])
        if a.category is not None:
            inside = member(bundle.catalogue.category[candidates.items[mine]], a.category.codes)
            worst_first = np.lexsort((-candidates.items[mine], np.where(inside, candidates.blend[mine], -1)))
            inside[worst_first[:-n]] = False
            keep[mine] = inside
    return candidates.take(keep)
