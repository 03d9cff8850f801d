"""What the servers answer, typed. Fields that a newer server adds are in `raw`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """One place of a list. `score` orders it, `source` proposed it, `reason` is for people."""

    item_id: str
    score: float
    source: str
    reason: str
    propensity: float = 1.0


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One list. `request_id` belongs into the events that it causes; `level` is `full` unless a part was missing."""

    request_id: str
    items: tuple[Item, ...]
    model_version: str
    variant: str
    level: str
    made: str = "live"
    cause: str | None = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, answer: Json) -> Recommendation:
        """From the JSON of one list; KeyError or TypeError when it is something else."""
        items = tuple(
            Item(i["item_id"], float(i["score"]), i["source"], i["reason"], float(i.get("propensity", 1.0)))
            for i in answer["items"]
        )
        return cls(
            answer["request_id"], items, answer["model_version"], answer["variant"], answer["level"],
            answer.get("made", "live"), answer.get("cause"), answer,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, now unless `timestamp` says when. Its id is made here: sent again, it counts once."""

    item_id: str
    event_type: str
    user_id: str | None = None
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))
    session_id: str | None = None
    request_id: str | None = None
    position: int | None = None
    surface: str | None = None
    value: float | None = None
    quantity: float | None = None
    device: str | None = None
    event_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def as_json(self) -> dict[str, Any]:
        """The event of the protocol, without what is not known."""
        return complete({name: value for name, value in asdict(self).items() if value is not None})


@dataclass(frozen=True, slots=True)
class RejectedEvent:
    """An event that was not stored: its place in what was sent, and why."""

    index: int
    event_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of events: stored now, stored before, or wrong."""

    accepted: int
    duplicates: int
    rejected: tuple[RejectedEvent, ...] = ()

    @classmethod
    def of(cls, answer: Json, start: int = 0) -> Receipt:
        """From the collector's JSON about events that began at place `start`."""
        rejected = tuple(
            RejectedEvent(start + r["index"], r.get("event_id"), r["reason"]) for r in answer.get("rejected", ())
        )
        return cls(int(answer["accepted"]), int(answer["duplicates"]), rejected)

    def plus(self, other: Receipt) -> Receipt:
        """Both together."""
        rejected = self.rejected + other.rejected
        return Receipt(self.accepted + other.accepted, self.duplicates + other.duplicates, rejected)


def complete(event: Json) -> dict[str, Any]:
    """An event with an id and a time, both made up now where they are missing; times as text."""
    out = {"event_id": uuid.uuid4().hex, "timestamp": datetime.now(UTC), **event}
    if isinstance(out["timestamp"], datetime):
        out["timestamp"] = out["timestamp"].isoformat()
    return out


def instance_of(
    user_id: str | int | None, surface: str, k: int | None, context: Json | None, trace: bool
) -> dict[str, Any]:
    """One instance of the protocol, without what is not given."""
    given = {"user_id": user_id, "surface": surface, "k": k, "context": dict(context or {}) or None}
    return {name: value for name, value in given.items() if value is not None} | ({"trace": True} if trace else {})


def chunks(events: Sequence[Json], size: int) -> list[tuple[int, Sequence[Json]]]:
    """(place of the first, events) of each batch to send."""
    return [(start, events[start : start + size]) for start in range(0, len(events), size)]
