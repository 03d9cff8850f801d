"""One line for each thing that an operator wants to know: starts, stops, seals, failures."""

from __future__ import annotations

import logging

logger = logging.getLogger("longtail.collector")


def say(event: str, level: int = logging.INFO, **facts: object) -> None:
    """Log an event; `facts` become fields of its line (`serving.logs`)."""
    logger.log(level, event, extra={"fields": {"event": event, **facts}})
