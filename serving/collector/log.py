"""One line of JSON for each thing that an operator wants to know: starts, stops, seals, failures."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Literal


def say(event: str, level: Literal["info", "warning", "error"] = "info", **facts: object) -> None:
    """Write a line to standard error; `facts` become further fields."""
    moment = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": moment, "level": level, "part": "collector", "event": event, **facts}
    print(json.dumps(line, ensure_ascii=False, default=str), file=sys.stderr, flush=True)
