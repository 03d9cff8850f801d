"""Logs, catalogues and requests written out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from longtail.events import Catalogue, Histories, Log, Requests
from longtail.events.log import histories_before
from longtail.schema import DAY_US, EVENT_CODE, EVENT_STRENGTH

START = 19_700 * DAY_US
Event = tuple[int, int, float]  # user, item, day


def log_of(
    events: Sequence[Event], n_users: int, n_items: int, kind: str = "click", sessions: Sequence[int] | None = None
) -> Log:
    """One kind of event; a session per person and whole day unless `sessions` says otherwise."""
    table = np.array(events, float).reshape(-1, 3)
    order = np.lexsort((table[:, 2], table[:, 0]))
    user, item, day = table[order].T
    n = len(table)
    session = user * 10_000 + np.floor(day) if sessions is None else np.array(sessions)[order]
    return Log(
        user.astype(np.int32), item.astype(np.int32), START + np.rint(day * DAY_US).astype(np.int64),
        np.full(n, EVENT_CODE[kind], np.int8), np.full(n, EVENT_STRENGTH[kind], np.float32), np.zeros(n, np.float32),
        np.ones(n, np.float32), session.astype(np.int32), np.full(n, -1, np.int32), np.full(n, -1, np.int16),
        np.full(n, np.nan, np.float32), n_users, n_items,
    )  # fmt: skip


def random_log(n_users: int, n_items: int, n: int, days: float = 60, seed: int = 0) -> Log:
    """Clicks with a few favourites, and people who come back to the same item."""
    rng = np.random.default_rng(seed)
    item = np.minimum(rng.geometric(min(3 / n_items, 0.4), n) - 1, n_items - 1)
    return log_of(list(zip(rng.integers(0, n_users, n), item, rng.uniform(0, days, n), strict=True)), n_users, n_items)


def catalogue(n_items: int) -> Catalogue:
    """Three categories, four brands, two words a title."""
    at = np.arange(n_items)
    return Catalogue.from_frame(
        pd.DataFrame(
            {
                "item_id": [f"i{i:02}" for i in at], "category": [f"c{i % 3}/d{i % 6}" for i in at],
                "brand": [f"b{i % 4}" for i in at], "title": [f"word{i % 5} thing{i % 7}" for i in at],
                "price": 1.0 + at,
            }
        )
    )  # fmt: skip


def requests_at(log: Log, users: Sequence[int], day: float) -> Requests:
    """What the people did before `day`; -1 is an unknown user, whose segment is unknown too."""
    who = np.array(users, np.int32)
    times = np.full(len(who), START + round(day * DAY_US), np.int64)
    segment = np.where(who < 0, -1, who % 2).astype(np.int32)
    return Requests(times, who, segment, histories_before(log, who, times))


def history_of(items: Sequence[int], time: int, kind: str = "click") -> Histories:
    """One request's history: an item a day, the newest a day before `time`."""
    n = len(items)
    times = time - np.arange(n, 0, -1) * DAY_US
    one = np.ones(n, np.float32)
    return Histories(np.array([0, n]), np.array(items, np.int32), times, np.full(n, EVENT_CODE[kind], np.int8), one,
                     one, np.arange(n, dtype=np.int32))  # fmt: skip
