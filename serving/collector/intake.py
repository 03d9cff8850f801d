"""From what a request brings to what is stored: judged, and without any id that the shop knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from longtail.errors import InvalidInput
from longtail.events.incoming import Bounds, Misfit, clean
from longtail.events.spool import Row
from longtail.features.live import LiveEvent
from longtail.identity import Pseudonymiser, guest_id

IDS = (("user_id", "user"), ("session_id", "session"), ("device_id", "device"))
REMEMBERED = 1 << 16


@dataclass
class Judged:
    """A request's events: `rows` to store with their `live` counterparts (None: not about a person), and the rest."""

    rows: list[Row] = field(default_factory=list)
    live: list[LiveEvent | None] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)


class TooMany(InvalidInput):
    """More events than a request may bring."""

    http_status = 413


class Intake:
    """Judges and pseudonymises."""

    def __init__(self, pseudonymiser: Pseudonymiser, bounds: Bounds, batch: int) -> None:
        self._bounds, self._batch = bounds, batch
        # Who comes once comes again soon, and a pseudonym costs as much as all the rules.
        self._pseudonym = lru_cache(REMEMBERED)(pseudonymiser.of)

    def events_of(self, body: bytes) -> list[object]:
        """The events of a request: one object, or `{"events": [...]}`.

        Raises:
            InvalidInput: no JSON, neither form, or no event at all.
            TooMany: more than the limit.
        """
        try:
            content = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"the body is not valid JSON: {error}") from None
        if not isinstance(content, dict):
            raise InvalidInput('send one event as an object, or several as {"events": [...]}')
        if "events" not in content:
            return [content]
        events = content["events"]
        if not isinstance(events, list) or not events:
            raise InvalidInput("events: must be a list of at least one event")
        if len(events) > self._batch:
            raise TooMany(f"events: {len(events)} are more than the {self._batch} of one request: split them")
        return events

    def judge(self, events: list[object], now: int) -> Judged:
        """Sort the events of a request received at `now` (microseconds)."""
        judged = Judged()
        for index, event in enumerate(events):
            try:
                row = clean(event, now, self._bounds)
            except Misfit as misfit:
                told = event.get("event_id") if isinstance(event, dict) else None
                named = told if isinstance(told, str | int) and not isinstance(told, bool) else None
                judged.rejected.append({"index": index, "event_id": named, "reason": str(misfit)})
                continue
            for name, kind in IDS:
                if name in row:
                    row[name] = self._pseudonym(row[name], kind)
            row["received_at"] = now
            judged.rows.append(Row(row["event_id"], row["timestamp"], orjson.dumps(row)))
            judged.live.append(live_event(row))
        return judged


def live_event(row: dict[str, Any]) -> LiveEvent | None:
    """A stored event for the live store, under the person or the guest of its session; None where nobody is known."""
    session = row.get("session_id")
    user = row.get("user_id") or (guest_id(session) if session else None)
    if user is None:
        return None
    return LiveEvent(
        row["event_id"], user, row["item_id"], row["event_type"], row["timestamp"], row.get("value"),
        row.get("quantity", 1.0), session,
    )  # fmt: skip
