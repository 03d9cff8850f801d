"""What `trace: true` shows of a list: who proposed what, how it was scored, and what each rule did."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from longtail.engine.drafts import Draft
from longtail.engine.run import Run
from longtail.features.request import feature_list
from longtail.retrieval.candidates import Candidates


def trace_of(
    draft: Draft, run: Run, sources: Sequence[str], candidates: Candidates | None, mine: slice,
    scores: np.ndarray | None, features: np.ndarray | None,
) -> dict[str, Any]:  # fmt: skip
    """The trace of one list; `mine` are its candidates, `scores` float32 [N] and `features` float32 [N, F] of all."""
    out: dict[str, Any] = {"hops": dict(run.hops)}
    if candidates is None or draft.best is None:
        return out | {"candidates": 0, "by_source": {}, "dropped": {}, "rules": {}, "items": []}
    best, said = draft.best, candidates.scores[mine]
    worth = candidates.blend[mine] if scores is None else scores[mine]
    before = np.empty(len(worth), np.int64)
    before[np.argsort(-worth, kind="stable")] = np.arange(1, len(worth) + 1)
    proposed = (said > 0).sum(0)
    items = []
    for place, position in enumerate(best.order.tolist()):
        about: dict[str, Any] = {
            "item_id": draft.items[place].item_id,
            "score": round(float(best.scores[place]), 6),
            "rules": list(best.rules_applied[place]),
        }
        if position >= 0:
            row = mine.start + position
            about |= {
                "blend": round(float(candidates.blend[row]), 6), "rank_before_rules": int(before[position]),
                "sources": _sources(sources, candidates, row),
                "features": {} if features is None else _features(tuple(sources), features[row]),
            }  # fmt: skip
        items.append(about)
    return out | {
        "candidates": int(mine.stop - mine.start),
        "by_source": {name: int(n) for name, n in zip(sources, proposed, strict=True) if n},
        "dropped": best.dropped,
        "rules": {i["item_id"]: i["rules"] for i in items},
        "items": items,
    }


def _sources(names: Sequence[str], candidates: Candidates, row: int) -> dict[str, dict[str, float]]:
    scores, ranks = candidates.scores[row].tolist(), candidates.ranks[row].tolist()
    return {
        name: {"score": round(score, 6), "rank": int(rank) + 1}  # counted from 1, as places are
        for name, score, rank in zip(names, scores, ranks, strict=True)
        if score > 0
    }


def _features(sources: tuple[str, ...], row: np.ndarray) -> dict[str, float | None]:
    # JSON has no NaN: what is not known is null.
    values = zip(_names(sources), row.tolist(), strict=True)
    return {name: None if value != value else round(value, 6) for name, value in values}


@lru_cache(maxsize=16)
def _names(sources: tuple[str, ...]) -> list[str]:
    return [feature.name for feature in feature_list(sources)]
