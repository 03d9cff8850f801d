"""Sessions for events that bring none: a pause of half an hour ends one."""

from __future__ import annotations

from typing import Final

import ibis
import ibis.expr.types as ir

GAP_US: Final = 30 * 60 * 1_000_000


def sessionise(events: ir.Table, gap_us: int = GAP_US) -> ir.Table:
    """Fill `session_id` where it is null: events of one person (or device) less than `gap_us` apart share a session.

    `events` needs `timestamp` (int64 microseconds), `row` (int64, the order of equal times), and `user_id` or
    `device_id` wherever `session_id` is null. The new id holds the person and the time of the session's first event,
    so that later events never rename it.
    """
    key = ibis.coalesce(events.user_id, events.device_id)
    events = events.mutate(keyless=events.session_id.isnull(), session_key=key)
    window = ibis.window(group_by=["keyless", "session_key"], order_by=["timestamp", "row"])
    before = events.timestamp.lag(1).over(window)
    starts = events.mutate(
        start=ibis.ifelse(before.isnull() | (events.timestamp - before >= gap_us), events.timestamp, None)
    )
    so_far = ibis.cumulative_window(group_by=["keyless", "session_key"], order_by=["timestamp", "row"])
    starts = starts.mutate(start=starts.start.max().over(so_far))
    made = starts.session_key + "-" + starts.start.cast("string")
    return starts.mutate(session_id=ibis.coalesce(starts.session_id, made)).drop("keyless", "session_key", "start")
