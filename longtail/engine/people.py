"""Who asks: stored history and features of a person, and what they did in this session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Protocol

import numpy as np

from longtail.engine.schema import Instance
from longtail.events import Histories, Requests
from longtail.features.batch import UserCategory
from longtail.features.definitions import USER_SNAPSHOT
from longtail.schema import EVENT_CODE, EVENT_STRENGTH

SESSION_GAP_US = 30 * 60 * 1_000_000
COLUMNS = tuple(f.name for f in fields(Histories) if f.name != "indptr")


class PeopleStore(Protocol):
    """Reads people by the ids that callers send; pseudonymising them is the store's business.

    The two reads are apart, because only the histories are needed to ask for candidates.
    """

    async def histories(self, user_ids: Sequence[str | None]) -> tuple[Histories, np.ndarray, list[str]]:
        """Positive histories [B] in the bundle's item codes, the person's segment int32 [B] (-1 unknown), and causes.

        None and unknown ids have nothing stored. A cause, such as `live: timeout`, names a part that did not answer
        and is missing from the histories; the store has counted it already.
        """

    async def features(self, user_ids: Sequence[str | None]) -> tuple[dict[str, np.ndarray], UserCategory]:
        """`USER_SNAPSHOT` columns int64 [B] each, zeros for unknown people, and their category rows [B]."""


def unknown_features(n: int) -> tuple[dict[str, np.ndarray], UserCategory]:
    """What `PeopleStore.features` reads of n people of whom nothing is stored."""
    return {name: np.zeros(n, np.int64) for name in USER_SNAPSHOT}, UserCategory.empty(n)


def micros(time: datetime) -> int:
    """Microseconds since 1970 of an aware time."""
    return round(time.timestamp() * 1_000_000)


def merged(first: Histories, second: Histories, last: int | None = None) -> Histories:
    """The histories [B] of both, each person's oldest first; at equal times those of `first` come first.

    `last` keeps only the newest events of each person.
    """
    rows = np.concatenate([first.rows, second.rows])
    columns = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in COLUMNS}
    order = np.lexsort((columns["time"], rows))
    both = Histories(first.indptr + second.indptr, **{name: values[order] for name, values in columns.items()})
    return both if last is None else kept(both, both.age() < last)


def kept(history: Histories, keep: np.ndarray) -> Histories:
    """The events of a mask bool [nnz]."""
    if keep.all():
        return history
    indptr = np.concatenate([[0], np.cumsum(keep)])[history.indptr].astype(np.int64)
    return Histories(indptr, **{name: getattr(history, name)[keep] for name in COLUMNS})


def requests_of(
    instances: Sequence[Instance], history: Histories, codes: Sequence[np.ndarray], segment: np.ndarray, now: int
) -> Requests:
    """The requests [B]: stored histories, then this session's events of items the shop knows.

    `codes[b]` int64 are the item indices of the instance's `context.events` (-1 unknown). Events that claim to be later
    than the request count as just before it; an event that is stored already (same item, type and moment) counts once.
    """
    times = np.array([micros(i.context.timestamp) if i.context.timestamp else now for i in instances], np.int64)
    rows = history.rows if len(instances) > 1 else 0
    history = kept(history, history.time < times[rows])
    if any(i.context.events for i in instances):
        history = merged(history, _sessions(instances, history, codes, times))
    return Requests(times, np.full(len(instances), -1, np.int32), segment.astype(np.int32), history)


def _sessions(
    instances: Sequence[Instance], history: Histories, codes: Sequence[np.ndarray], times: np.ndarray
) -> Histories:
    """The events of interest that came with each instance and are not stored yet, oldest first."""
    rows: list[tuple] = []
    lengths = [0]
    for b, instance in enumerate(instances):
        now, stored = int(times[b]), slice(history.indptr[b], history.indptr[b + 1])
        columns = (history.time, history.item, history.kind)
        known = set(zip(*(column[stored].tolist() for column in columns), strict=True))
        events = [
            (now - 1 if e.timestamp is None else min(micros(e.timestamp), now - 1), int(code), e.event_type, e.quantity)
            for e, code in zip(instance.context.events, codes[b], strict=True)
            if code >= 0 and EVENT_STRENGTH[e.event_type] > 0
        ]
        events = [e for e in events if (e[0], e[1], EVENT_CODE[e[2]]) not in known]
        events.sort(key=lambda e: e[0])  # stable: events of one instant keep the order in which they were sent
        session = _session(history, stored, events[0][0]) if events else 0
        rows += [(c, t, EVENT_CODE[kind], EVENT_STRENGTH[kind], n, session) for t, c, kind, n in events]
        lengths.append(len(events))
    item, time, kind, strength, quantity, session_code = zip(*rows, strict=True) if rows else ((),) * 6
    return Histories(
        np.cumsum(lengths).astype(np.int64), np.array(item, np.int32), np.array(time, np.int64),
        np.array(kind, np.int8), np.array(strength, np.float32), np.array(quantity, np.float32),
        np.array(session_code, np.int32),
    )  # fmt: skip


def _session(history: Histories, stored: slice, first: int) -> int:
    """The code of a session whose first event is at `first`: the stored one goes on unless it ended long before."""
    if stored.start == stored.stop:
        return 0
    time, session = int(history.time[stored.stop - 1]), int(history.session[stored.stop - 1])
    return session if first - time < SESSION_GAP_US and session >= 0 else session + 1
