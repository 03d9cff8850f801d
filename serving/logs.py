"""One JSON object a line on standard error, for machines and, with `jq`, for people."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime


class JsonLines(logging.Formatter):
    """time, level, part, logger, message, the fields that the caller gave as `extra={"fields": {...}}`, the error."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(), "part": self._part, "logger": record.name,
            "message": record.getMessage(), **getattr(record, "fields", {}),
        }  # fmt: skip
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = "".join(traceback.format_exception(record.exc_info[1]))
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(part: str, level: int = logging.INFO) -> None:
    """Log everything below `longtail` as JSON lines of a server's part, such as `recommender`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(part))
    logger = logging.getLogger("longtail")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)
