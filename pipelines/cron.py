"""Cron expressions as Kubeflow Pipelines reads them: six fields, seconds first."""

from __future__ import annotations

import re

from longtail.errors import InvalidInput

MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
FIELDS = (
    ("seconds", 0, 59, []),
    ("minutes", 0, 59, []),
    ("hours", 0, 23, []),
    ("day of the month", 1, 31, []),
    ("month", 1, 12, MONTHS),
    ("day of the week", 0, 6, DAYS),
)
NAMED = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")
EVERY = re.compile(r"@every (\d+(\.\d+)?(h|m|s))+")
PART = re.compile(r"(?P<start>[*?]|\w+)(-(?P<stop>\w+))?(/(?P<step>\d+))?")


def checked(cron: str) -> str:
    """The expression with single spaces.

    Raises:
        InvalidInput: it is none; the message names the field.
    """
    fields = cron.split()
    text = " ".join(fields)
    if text in NAMED or EVERY.fullmatch(text):
        return text
    if len(fields) == 5:
        raise InvalidInput(f"the schedule {text!r} has 5 fields: put the seconds before them, as in '0 {text}'")
    if len(fields) != 6:
        raise InvalidInput(
            f"the schedule {text!r} has {len(fields)} fields, it needs 6: seconds, minutes, hours, day of the month, "
            "month, day of the week, as in '0 30 3 * * *' for half past three every night"
        )
    for field, (name, low, high, names) in zip(fields, FIELDS, strict=True):
        for part in field.split(","):
            found = PART.fullmatch(part)
            if found is None or not _fits(found, low, high, names):
                raise InvalidInput(f"the schedule {text!r}: {part!r} is no {name} ({low} to {high})")
    return text


def _fits(part: re.Match[str], low: int, high: int, names: list[str]) -> bool:
    start, stop, step = part["start"], part["stop"], part["step"]
    if step is not None and int(step) < 1:
        return False
    if start in "*?":
        return stop is None
    ends = [_number(end, low, names) for end in (start, stop) if end is not None]
    return all(low <= end <= high for end in ends) and ends == sorted(ends)


def _number(text: str, low: int, names: list[str]) -> int:
    if text.upper() in names:
        return names.index(text.upper()) + low
    return int(text) if text.isdigit() else -1
