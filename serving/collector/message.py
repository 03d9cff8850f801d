"""A message of Kafka as a row of the spool, if a collector wrote it."""

from __future__ import annotations

import re
import time

import orjson

from longtail.events.incoming import EARLIEST_US, Bounds, Misfit, clean
from longtail.events.spool import Row
from longtail.schema import DAY_US, GUEST_PREFIX

PSEUDONYM = re.compile(rf"{GUEST_PREFIX}?[0-9a-f]{{32}}")
# The collector's own bounds may be any within these.
ANY = Bounds(ahead_us=DAY_US, text=65_536)


def row_of(content: bytes) -> Row:
    """The row that a collector wrote: of the contract, its ids pseudonyms.

    Raises:
        Misfit: somebody else wrote it.
    """
    try:
        row = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise Misfit("not JSON") from None
    if not isinstance(row, dict):
        raise Misfit("not an object")
    received, extra = row.pop("received_at", None), row.pop("extra", None)
    if not isinstance(received, int) or not isinstance(extra, str | None) or received < EARLIEST_US:
        raise Misfit("not written by a collector")
    # Judged at the moment when the collector judged it: a slow consumer finds nothing else.
    if received > time.time_ns() // 1000 + ANY.ahead_us or clean(row, received, ANY) != row:
        raise Misfit("not written by a collector")
    for name in ("user_id", "session_id", "device_id"):
        if name in row and not PSEUDONYM.fullmatch(row[name]):
            raise Misfit(f"{name} is no pseudonym")
    return Row(row["event_id"], row["timestamp"], content)
