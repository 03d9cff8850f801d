"""One log line for each list that is not what it should be, and never more lines than somebody can read."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from longtail.engine.schema import Recommendation
from longtail.metrics import LOG_LINES_DROPPED

logger = logging.getLogger("longtail.engine")

LINES_A_SECOND = 5
_window: dict[str, tuple[int, int]] = {}


def report(lists: Sequence[Recommendation], surface: str, ms: float) -> None:
    """Log the lists that went without a stage: request id, surface, level, cause and milliseconds.

    More than `LINES_A_SECOND` lines of one cause are counted instead of written.
    """
    for answer in lists:
        if answer.cause is None or not _room(answer.cause):
            continue
        fields = {
            "request_id": answer.request_id, "surface": surface, "level": answer.level, "cause": answer.cause,
            "variant": answer.variant, "ms": round(ms, 2),
        }  # fmt: skip
        logger.warning("%s list: %s", answer.level, answer.cause, extra={"fields": fields})


def _room(cause: str) -> bool:
    second = int(time.monotonic())
    begun, lines = _window.get(cause, (second, 0))
    if begun != second:
        begun, lines = second, 0
        if len(_window) > 1000:
            _window.clear()
    _window[cause] = (begun, lines + 1)
    if lines >= LINES_A_SECOND:
        LOG_LINES_DROPPED.inc()
        return False
    return True
