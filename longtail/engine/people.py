"""Who asks: stored history and features of a person, and what they did in this session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import numpy as np

from longtail.engine.schema import Instance
from longtail.events import Histories, Requests
from longtail.features.batch import UserCategory
from longtail.features.definitions import USER_SNAPSHOT
from longtail.schema import EVENT_CODE, EVENT_STRENGTH

SESSION_GAP_US = 30 * 60 * 1_000_000


@dataclass(frozen=True)
class People:
    """What is stored of B people: their positive histories, `user` int64 [B] columns, category rows, `segment` [B]."""

    history: Histories
    user: dict[str, np.ndarray]
    categories: UserCategory
    segment: np.ndarray

    @staticmethod
    def nobody(n: int) -> People:
        """n people of whom nothing is stored."""
        user = {name: np.zeros(n, np.int64) for name in USER_SNAPSHOT}
        return People(Histories.empty(n), user, UserCategory.empty(n), np.full(n, -1, np.int32))


class PeopleStore(Protocol):
    """Reads people by the ids that callers send; pseudonymising them is the store's business."""

    def read(self, user_ids: Sequence[str | None]) -> People:
        """The people [B]; None and unknown ids have nothing stored."""


def micros(time: datetime) -> int:
    """Microseconds since 1970 of an aware time."""
    return round(time.timestamp() * 1_000_000)


def requests_of(
    instances: Sequence[Instance], people: People, codes: Sequence[np.ndarray], segment: np.ndarray, now: int
) -> Requests:
    """The requests [B]: stored histories, then this session's events of items the shop knows.

    `codes[b]` int64 are the item indices of the instance's `context.events` (-1 unknown). Events that claim to be later
    than the request count as just before it.
    """
    times = np.array([micros(i.context.timestamp) if i.context.timestamp else now for i in instances], np.int64)
    parts = [
        _with_session(people.history.take(np.array([b])), instance, codes[b], int(times[b]))
        for b, instance in enumerate(instances)
    ]
    indptr = np.concatenate([[0], np.cumsum([len(p.item) for p in parts])]).astype(np.int64)
    columns = ("item", "time", "kind", "strength", "quantity", "session")
    joined = {c: np.concatenate([getattr(p, c) for p in parts]) for c in columns}
    return Requests(times, np.full(len(instances), -1, np.int32), segment.astype(np.int32), Histories(indptr, **joined))


def _with_session(history: Histories, instance: Instance, codes: np.ndarray, now: int) -> Histories:
    """One person's history strictly before `now`, with the session's events merged in by time."""
    past = history.time < now
    if not past.all():
        history = replace(history, indptr=np.array([0, past.sum()], np.int64), **_columns(history, past))
    events = [
        (min(micros(e.timestamp), now - 1) if e.timestamp else now - 1, code, e.event_type, e.quantity)
        for e, code in zip(instance.context.events, codes, strict=True)
        if code >= 0 and EVENT_STRENGTH[e.event_type] > 0
    ]
    if not events:
        return history
    events.sort(key=lambda e: e[0])  # stable: events of one instant keep the order in which they were sent
    time = np.array([e[0] for e in events], np.int64)
    last_time, last_session = (history.time[-1], history.session[-1]) if len(history.time) else (-SESSION_GAP_US, -1)
    session = last_session if time[0] - last_time < SESSION_GAP_US and last_session >= 0 else last_session + 1
    new = {
        "item": np.array([e[1] for e in events], np.int32),
        "time": time,
        "kind": np.array([EVENT_CODE[e[2]] for e in events], np.int8),
        "strength": np.array([EVENT_STRENGTH[e[2]] for e in events], np.float32),
        "quantity": np.array([e[3] for e in events], np.float32),
        "session": np.full(len(events), session, np.int32),
    }
    both = {name: np.concatenate([getattr(history, name), values]) for name, values in new.items()}
    order = np.argsort(both["time"], kind="stable")
    return Histories(np.array([0, len(order)], np.int64), **{name: values[order] for name, values in both.items()})


def _columns(history: Histories, keep: np.ndarray) -> dict[str, np.ndarray]:
    return {c: getattr(history, c)[keep] for c in ("item", "time", "kind", "strength", "quantity", "session")}
