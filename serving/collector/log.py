"""One line for each thing that an operator wants to know: starts, stops, seals, failures."""

from __future__ import annotations

import logging

from longtail.errors import LongtailError

logger = logging.getLogger("longtail.collector")


def told(error: BaseException) -> str:
    """An error in one line: those of our own speak for themselves, others by their kind."""
    return str(error) if isinstance(error, LongtailError) else f"{type(error).__name__}: {error}"


def say(event: str, level: int = logging.INFO, **facts: object) -> None:
    """Log an event; `facts` become fields of its line (`serving.logs`)."""
    logger.log(level, event, extra={"fields": {"event": event, **facts}})
