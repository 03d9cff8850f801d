"""A list in the making, on any rung: from ranked candidates, from a list made before, or from what is popular."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from longtail.engine.asking import Asked
from longtail.engine.bundle import REASON_OF_KIND
from longtail.engine.kept import KeptList
from longtail.engine.parts import REASON, Bundle
from longtail.engine.popular import NOTHING, POPULAR_REASON, SEGMENT_REASON, Popular, pick
from longtail.engine.schema import Item, Level, Made
from longtail.reranking import Reranked, may_show, rerank
from longtail.retrieval.candidates import Candidates
from longtail.surfaces import BoundSurface

PINNED = ("pinned", "chosen by the shop")


@dataclass
class Draft:
    """`items` and their indices `codes` int64 [n] in the bundle; `version` is the model that made the list.

    `best` is what re-ranking did to the candidates, where it was asked.
    """

    items: list[Item]
    codes: np.ndarray
    level: Level
    version: str
    made: Made = "live"
    causes: list[str] = field(default_factory=list)
    best: Reranked | None = None


def ranked(
    asked: Asked, surface: BoundSurface, bundle: Bundle, candidates: Candidates, mine: slice,
    scores: np.ndarray | None, rng: np.random.Generator, shown: np.ndarray | None = None,
    screened: np.ndarray | None = None,
) -> Draft:  # fmt: skip
    """The list of a request's candidates `mine`, by the ranker's scores float32 [N] or, without, by the blend.

    `shown` float32 [I]: how often each item was shown lately; `screened` int8 [N]: what `screen` said, where it did.
    """
    linear = scores is None
    worth = candidates.blend[mine] if scores is None else scores[mine]
    items = candidates.items[mine]
    best = rerank(
        worth, items, bundle.view, asked.person, surface.rules, rng, asked.now, asked.k, linear, shown,
        None if screened is None else screened[mine],
    )  # fmt: skip
    speaks = candidates.best[mine]
    reasons = reasons_for(asked, bundle)
    names = [(bundle.sources[speaks[o]], reasons[speaks[o]]) if o >= 0 else PINNED for o in best.order.tolist()]
    viewed = surface.anchor == "last_viewed" and len(asked.anchors) and bundle.catalogue.title(asked.anchors[-1])
    if viewed:
        reason = f"because you viewed {viewed}"
        names = [(source, reason) for source, _ in names]
    level: Level = "full" if scores is not None or surface.order == "blend" else "unranked"
    listed = _items(bundle, best.items, best.scores.tolist(), names, best.propensity.tolist())
    return Draft(listed, best.items, level, bundle.version, best=best)


def kept(found: KeptList, asked: Asked, surface: BoundSurface, bundle: Bundle, level: Level, made: Made) -> Draft:
    """A list made before, as far as its items may (still) be shown."""
    same = found.version == bundle.version and len(found.codes) == len(found.items)
    codes = found.codes if same else bundle.codes.find([i.item_id for i in found.items])
    keep = may_show(codes, bundle.view, asked.person, surface.rules, asked.now)
    if keep.all() and len(codes) <= asked.k:
        return Draft(list(found.items), codes, level, found.version, made)
    places = np.flatnonzero(keep)[: asked.k].tolist()
    return Draft([found.items[p] for p in places], codes[places], level, found.version, made)


def filled(draft: Draft | None, asked: Asked, surface: BoundSurface, bundle: Bundle, popular: Popular) -> Draft:
    """The list made full with popular items; without a draft, the list of popular items."""
    out = draft or Draft([], NOTHING, "popular", bundle.version)
    bare = not out.items
    if bare:
        out = replace(out, level="popular", version=bundle.version, made="live")
    left = asked.k - len(out.items)
    for shelf in popular.shelves(asked.segment, asked.category) if left > 0 else ():
        taken = np.concatenate([out.codes, asked.anchors])
        found = pick(shelf, bundle, asked.person, surface.rules, asked.now, left, taken)
        if len(found) and bare and not out.items and shelf.source == "popular_segment":
            out.level = "popular_segment"
        _add(out, bundle, found, shelf.source, shelf.reason)
        left -= len(found)
        if left <= 0:
            break
    if not out.items:
        # Rather something bought before, or of another category, than nothing: only safety and the block list are left.
        anybody = replace(asked.person, bought=NOTHING, seen=NOTHING, within=None)
        found = pick(popular.everyone, bundle, anybody, surface.rules, asked.now, asked.k, NOTHING)
        _add(out, bundle, found, popular.everyone.source, popular.everyone.reason)
        out.causes.append("filters: nothing left")
    return out


def reasons_for(asked: Asked, bundle: Bundle) -> list[str]:
    """The sources' reasons, but none that is untrue of somebody of whom nothing, or no place, is known."""
    untrue: dict[str, str] = {}
    if not len(asked.person.seen) and not len(asked.anchors):
        untrue |= dict.fromkeys(REASON_OF_KIND.values(), REASON)
    if asked.segment < 0:
        untrue |= {SEGMENT_REASON: POPULAR_REASON}
    return [untrue.get(reason, reason) for reason in bundle.reasons] if untrue else bundle.reasons


def reason_of(bundle: Bundle, source: str) -> str:
    """Why people see the items of a source, in plain words."""
    return bundle.reasons[bundle.sources.index(source)] if source in bundle.sources else REASON


def _add(out: Draft, bundle: Bundle, codes: np.ndarray, source: str, reason: str) -> None:
    # Popular items come in their order; a score would pretend to compare them with what stands above.
    ranks = [-float(len(out.items) + n) for n in range(len(codes))]
    low = min(out.items[-1].score, 0.0) if out.items else 0.0
    out.items += _items(bundle, codes, [low + r for r in ranks], [(source, reason)] * len(codes), [1.0] * len(codes))
    out.codes = np.concatenate([out.codes, codes])


def _items(
    bundle: Bundle, codes: np.ndarray, scores: Sequence[float], names: Sequence[tuple[str, str]],
    propensity: Sequence[float],
) -> list[Item]:  # fmt: skip
    columns = zip(bundle.catalogue.ids_of(codes), scores, names, propensity, strict=True)
    return [Item(i, s, source, reason, p) for i, s, (source, reason), p in columns]
