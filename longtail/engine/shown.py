"""What was shown, as rows of the impression log and of the exposure log."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from longtail.engine.asking import Asked, Pseudonym
from longtail.engine.drafts import Draft
from longtail.engine.experiment_log import Exposed
from longtail.engine.impressions import Features, Impression
from longtail.engine.parts import Bundle
from longtail.engine.schema import Instance, Recommendation
from longtail.events import Requests


def listed(
    answer: Recommendation, instance: Instance, user: str | None, now: int, segment: int, pseudonym: Pseudonym
) -> Impression:
    """The row of one list, without what the ranker saw. `user` is a pseudonym, `now` microseconds."""
    session = instance.context.session_id
    return Impression(
        answer.request_id, user, None if session is None else pseudonym(session, "session"), instance.surface, now,
        answer.variant, answer.model_version, answer.level, answer.made, [i.item_id for i in answer.items],
        [i.propensity for i in answer.items], [i.score for i in answer.items], [i.source for i in answer.items],
        segment,
    )  # fmt: skip


def impression_of(
    answer: Recommendation, asked: Asked, draft: Draft, requests: Requests, b: int, candidates: np.ndarray,
    features: np.ndarray | None, keep: Features, pseudonym: Pseudonym,
) -> Impression:  # fmt: skip
    """The row of one list. `candidates` int64 [n] and `features` float32 [n, F] are those of this list alone."""
    row = listed(answer, asked.instance, asked.user, asked.now, asked.segment, pseudonym)
    past = slice(requests.history.indptr[b], requests.history.indptr[b + 1])
    row.history_item, row.history_time = requests.history.item[past], requests.history.time[past]
    if features is not None and keep != "none":
        if keep == "shown" and draft.best is not None:
            places = draft.best.order[draft.best.order >= 0]
            candidates, features = candidates[places], features[places]
        row.candidates, row.features = candidates, np.ascontiguousarray(features, "<f4").tobytes()
    return row


def exposures_of(row: Impression, instance: Instance, to: Sequence[tuple[str, str]], bundle: Bundle) -> list[Exposed]:
    """A row for each experiment (name, variant) that a list, the impression `row`, is an exposure to."""
    context, names = instance.context, bundle.fallback.segments
    region = context.region or (names[row.segment] if 0 <= row.segment < len(names) else None)
    at = row.user_id, row.session_id, row.request_id, row.surface
    return [Exposed(row.time, name, *at, variant, context.device, region) for name, variant in to]
