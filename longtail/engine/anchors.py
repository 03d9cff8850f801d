"""Items that stand in for a history where a surface starts from them: a product page, a cart, the last view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from longtail.events import Histories, Requests
from longtail.schema import EVENT_CODE, EVENT_STRENGTH

KIND = "click"
LOOKED = (EVENT_CODE["view"], EVENT_CODE["click"])


def last_looked_at(history: Histories, b: int) -> np.ndarray:
    """The item that request b's person looked at last (else: had to do with last), int64 [1], or none, [0]."""
    mine = slice(history.indptr[b], history.indptr[b + 1])
    items = history.item[mine].astype(np.int64)
    looked = items[np.isin(history.kind[mine], LOOKED)]
    return (looked if len(looked) else items)[-1:]


def anchored(requests: Requests, anchors: Sequence[np.ndarray]) -> Requests:
    """The same requests with their anchors (item indices int64 [n] each) as the history, just now.

    A request without anchors keeps its history.
    """
    parts = [
        _now(items, int(requests.time[b])) if len(items) else requests.history.take(np.array([b]))
        for b, items in enumerate(anchors)
    ]
    if len(parts) == 1:
        return replace(requests, history=parts[0])
    indptr = np.concatenate([[0], np.cumsum([len(p.item) for p in parts])]).astype(np.int64)
    names = [f.name for f in fields(Histories) if f.name != "indptr"]
    return replace(
        requests, history=Histories(indptr, **{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})
    )


def _now(items: np.ndarray, now: int) -> Histories:
    n = len(items)
    return Histories(
        np.array([0, n], np.int64), items.astype(np.int32), np.full(n, now - 1, np.int64),
        np.full(n, EVENT_CODE[KIND], np.int8), np.full(n, EVENT_STRENGTH[KIND], np.float32), np.ones(n, np.float32),
        np.zeros(n, np.int32),
    )  # fmt: skip
