"""What was shown, as rows of the impression log and of the exposure log."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from longtail.engine.asking import Asked, Pseudonym
from longtail.engine.drafts import Draft
from longtail.engine.experiment_log import Exposed
from longtail.engine.impressions import Features, Impression
from longtail.engine.parts import Bundle
from longtail.engine.schema import Recommendation
from longtail.events import Requests

NOTHING = np.empty(0, np.int64)


def impression_of(
    answer: Recommendation, asked: Asked, draft: Draft, surface: str, requests: Requests, b: int,
    candidates: np.ndarray, features: np.ndarray | None, keep: Features, pseudonym: Pseudonym,
) -> Impression:  # fmt: skip
    """The row of one list. `candidates` int64 [n] and `features` float32 [n, F] are those of this list alone."""
    past = slice(requests.history.indptr[b], requests.history.indptr[b + 1])
    codes, rows = NOTHING, b""
    if features is not None and keep != "none":
        if keep == "shown" and draft.best is not None:
            places = draft.best.order[draft.best.order >= 0]
            candidates, features = candidates[places], features[places]
        codes, rows = candidates, np.ascontiguousarray(features, "<f4").tobytes()
    return Impression(
        answer.request_id, asked.user, session_of(asked, pseudonym), surface, asked.now,
        answer.variant, answer.model_version, answer.level, answer.made, [i.item_id for i in answer.items],
        [i.propensity for i in answer.items], [i.score for i in answer.items], [i.source for i in answer.items],
        asked.segment, requests.history.item[past], requests.history.time[past], codes, rows,
    )  # fmt: skip


def exposures_of(
    answer: Recommendation, asked: Asked, surface: str, to: Sequence[tuple[str, str]], bundle: Bundle,
    pseudonym: Pseudonym,
) -> list[Exposed]:  # fmt: skip
    """A row for each experiment (name, variant) that a list is an exposure to."""
    context, names = asked.instance.context, bundle.fallback.segments
    region = context.region or (names[asked.segment] if 0 <= asked.segment < len(names) else None)
    session = session_of(asked, pseudonym)
    return [
        Exposed(asked.now, name, asked.user, session, answer.request_id, surface, variant, context.device, region)
        for name, variant in to
    ]


def session_of(asked: Asked, pseudonym: Pseudonym) -> str | None:
    """The pseudonym of the session that a request belongs to."""
    session = asked.instance.context.session_id
    return None if session is None else pseudonym(session, "session")
