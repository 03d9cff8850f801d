"""Every Prometheus metric of the servers, in one place."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1, 2, 5)

LISTS = Counter("longtail_lists_total", "Lists answered, by degradation level.", ["level"])
DEGRADED = Counter("longtail_degraded_total", "Stages that a request went without, by cause.", ["stage", "cause"])
STAGE_SECONDS = Histogram("longtail_stage_seconds", "Time of each stage of a request.", ["stage"], buckets=_SECONDS)
SHOWN = Counter("longtail_shown_total", "Items shown, by the source that proposed them.", ["source"])
REJECTED = Counter("longtail_rejected_total", "Requests answered 400, by the field that was wrong.", ["field"])
FEATURE_LOG_DROPPED = Counter(
    "longtail_feature_log_dropped_total", "Requests whose features were not logged.", ["cause"]
)
REFUSED = Counter(
    "longtail_refused_total", "Requests stopped at the edge, by reason (key, rate, size, slow).", ["reason"]
)
CONFIG_REFUSED = Counter(
    "longtail_config_refused_total", "Changed configuration files that were wrong and not taken up.", ["file"]
)
EDGE_ERRORS = Counter(
    "longtail_edge_errors_total", "Requests answered 500: a mistake in the server, see its log.", ["error"]
)
