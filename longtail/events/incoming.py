"""One event as it comes in over the network: the rules of `validation`, for a single row and in microseconds.

What passes here passes the import. A few things that the import can still make sense of (numbers as text, a position of
2.5) are refused, because the sender is there to be told.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from longtail.schema import EVENT_CODE

EARLIEST_US: Final = 631_152_000_000_000  # 1990: earlier ones are seconds or milliseconds read as microseconds
TEXT: Final = (
    "event_id", "user_id", "item_id", "event_type", "session_id", "surface", "request_id", "device", "region",
    "device_id",
)  # fmt: skip
WHOLE: Final = {"position": 2**31 - 1, "dwell_ms": 2**63 - 1}  # name -> largest
REAL: Final = ("value", "quantity", "propensity")
_KNOWN: Final = frozenset((*TEXT, *WHOLE, *REAL, "timestamp"))
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_UNREADABLE: Final = "timestamp is missing or cannot be read"


@dataclass(frozen=True)
class Bounds:
    """How far a clock may be ahead, how long a text and how large all unknown columns of an event may be."""

    ahead_us: int = 300_000_000
    text: int = 256
    extra_bytes: int = 4096


class Misfit(Exception):
    """Not an event: the message is the reason, in the words of the import's quarantine."""


def clean(event: object, now: int, bounds: Bounds = Bounds()) -> dict[str, Any]:
    """The event in the contract's types, as a new dict of the columns that it has.

    `event` is what JSON gives. Ids may be numbers. `timestamp` is ISO 8601 (UTC where it names no zone) or microseconds
    since 1970; absent, it is `now` (microseconds). Columns outside the contract come as one JSON text, `extra`.

    Raises:
        Misfit: not an event; the first rule that it breaks, in the order of `validation.rules`.
    """
    if not isinstance(event, dict):
        raise Misfit("an event is an object with named values")
    row: dict[str, Any] = {}
    for name in TEXT:
        value = event.get(name)
        if value is not None and (text := _text(name, value, bounds.text)):
            row[name] = text
    for name, largest in WHOLE.items():
        if (value := event.get(name)) is not None:
            row[name] = _whole(name, value, largest)
    for name in REAL:
        if (value := event.get(name)) is not None:
            row[name] = _real(name, value)
    if "event_id" not in row:
        raise Misfit("event_id is missing")
    if "item_id" not in row:
        raise Misfit("item_id is missing")
    if not ("user_id" in row or "session_id" in row or "device_id" in row):
        raise Misfit("user_id, session_id and device_id are all missing")
    if "event_type" not in row:
        raise Misfit("event_type is missing")
    if row["event_type"] not in EVENT_CODE:
        raise Misfit("event_type is unknown")
    moment = event.get("timestamp")
    time = now if moment is None else microseconds(moment)
    if time > now + bounds.ahead_us:
        raise Misfit("timestamp is in the future")
    if time < EARLIEST_US:
        raise Misfit("timestamp is before 1990: is the unit right?")
    row["timestamp"] = time
    for name in ("position", "dwell_ms", "quantity"):
        if row.get(name, 0) < 0:
            raise Misfit(f"{name} is negative")
    if not 0 < row.get("propensity", 1) <= 1:
        raise Misfit("propensity is not in (0, 1]")
    if not event.keys() <= _KNOWN:
        row["extra"] = _extra({name: event[name] for name in event if name not in _KNOWN}, bounds.extra_bytes)
    return row


def microseconds(moment: object) -> int:
    """Microseconds since 1970 of ISO 8601 text or of a number that is that already.

    Raises:
        Misfit: neither.
    """
    try:
        if isinstance(moment, str):
            time = datetime.fromisoformat(moment.strip(" "))
            return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND
        if isinstance(moment, int | float) and not isinstance(moment, bool) and moment == int(moment):
            return int(moment)
    except (ValueError, OverflowError):
        pass
    raise Misfit(_UNREADABLE)


def _text(name: str, value: object, longest: int) -> str:
    if not isinstance(value, str):
        if not isinstance(value, int) or isinstance(value, bool):
            raise Misfit(f"{name} is not text")
        value = str(value)  # shops number their users: 17850 and "17850" are the same person
    value = value.strip(" ")
    if len(value) > longest:
        raise Misfit(f"{name} is longer than {longest} characters")
    if _CONTROL.search(value):
        raise Misfit(f"{name} has control characters")
    return value


def _whole(name: str, value: object, largest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Misfit(f"{name} is not a number")
    if isinstance(value, float) and not value.is_integer():
        raise Misfit(f"{name} is not a whole number")
    if abs(value) > largest:
        raise Misfit(f"{name} is out of range")
    return int(value)


def _real(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Misfit(f"{name} is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Misfit(f"{name} is not finite")
    return number


def _extra(columns: dict[str, Any], largest: int) -> str:
    try:
        text = json.dumps(columns, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (RecursionError, ValueError):
        raise Misfit("unknown columns cannot be kept: too deeply nested, or not finite") from None
    if len(text.encode("utf-8", "surrogatepass")) > largest:
        raise Misfit(f"unknown columns are longer than {largest} bytes")
    return text
