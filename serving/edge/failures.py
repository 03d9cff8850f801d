"""What nobody expected: counted, logged with its traceback once for each place, and told to clients without details."""

from __future__ import annotations

import logging

import orjson

from longtail.metrics import EDGE_ERRORS

logger = logging.getLogger("longtail.edge")


class Failures:
    """Remembers which places in the code failed before, so that a storm of one mistake does not flood the log."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str, int]] = set()

    def told(self, request_id: bytes, error: Exception) -> bytes:
        """Count and log the error; the body of the 500."""
        EDGE_ERRORS.labels(type(error).__name__).inc()
        place = _place(error)
        known = place in self._seen
        self._seen.add(place)
        name = request_id.decode() or "without an id"
        logger.error("request %s failed: %s: %s", name, place[0], error, exc_info=None if known else error)
        return orjson.dumps({"error": f"internal error; the server's log tells of request {name}"})


def _place(error: Exception) -> tuple[str, str, int]:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__, "", 0
    return type(error).__name__, trace.tb_frame.f_code.co_filename, trace.tb_lineno
