"""Every Prometheus metric of the servers, in one place."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1, 2, 5)

LISTS = Counter(
    "longtail_lists_total",
    "Lists answered, by degradation level.",
    ["level"],
)
DEGRADED = Counter("longtail_degraded_total", "Stages that a request went without, by cause.", ["stage", "cause"])
STAGE_SECONDS = Histogram("longtail_stage_seconds", "Time of each stage of a request.", ["stage"], buckets=_SECONDS)
SHOWN = Counter("longtail_shown_total", "Items shown, by the source that proposed them.", ["source"])
REJECTED = Counter("longtail_rejected_total", "Requests answered 400, by the field that was wrong.", ["field"])
SHED = Counter("longtail_shed_total", "Calls not made because every slot of the part was taken.", ["hop"])
BREAKER = Gauge(
    "longtail_breaker_state", "Circuit breaker of a downstream part: 0 closed, 1 half open, 2 open.", ["variant", "hop"]
)
IN_FLIGHT = Gauge("longtail_in_flight", "Requests that are being answered now.")
KEPT = Counter("longtail_kept_lists_total", "Looks for a list that was made before, by store and result.",
               ["store", "result"])  # fmt: skip
AGE = Gauge(
    "longtail_age_seconds",
    "Age of what a variant serves: the model and the index since training, the features since their snapshot.",
    ["variant", "what"],
)
IMPRESSIONS = Counter("longtail_impressions_total", "Shown lists that were written to the impression log.")
IMPRESSIONS_DROPPED = Counter(
    "longtail_impressions_dropped_total",
    "Shown lists that were not logged: the queue was full, or the disk.",
    ["cause"],
)
BUNDLE_REFUSED = Counter(
    "longtail_bundle_refused_total", "Bundles and deployment files that were offered and not taken.", ["server"]
)
BUNDLE_TAKEN = Counter("longtail_bundle_taken_total", "Bundles that took over while serving.", ["server"])
REFUSED = Counter(
    "longtail_refused_total", "Requests stopped at the edge, by reason (key, rate, size, slow, method).", ["reason"]
)
CONFIG_REFUSED = Counter(
    "longtail_config_refused_total", "Changed configuration files that were wrong and not taken up.", ["file"]
)
EDGE_ERRORS = Counter(
    "longtail_edge_errors_total", "Requests answered 500: a mistake in the server, see its log.", ["error"]
)
