"""Every Prometheus metric of the servers, in one place."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1, 2, 5)

LISTS = Counter(
    "longtail_lists_total",
    "Lists answered, by variant, surface, rung of the ladder and how they were made (live, cache, precomputed).",
    ["variant", "surface", "level", "made"],
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
EXPOSURES = Counter("longtail_exposures_total", "Exposures to experiments that were written to their log.")
EXPOSURES_DROPPED = Counter(
    "longtail_exposures_dropped_total", "Exposures that were not logged: the queue was full, or the disk.", ["cause"]
)
DRAFTS = Counter("longtail_drafts_total", "Interleaved lists whose drafts were written to their log.")
DRAFTS_DROPPED = Counter(
    "longtail_drafts_dropped_total", "Drafts that were not logged: the queue was full, or the disk.", ["cause"]
)
LOG_LINES_DROPPED = Counter("longtail_log_lines_dropped_total", "Log lines not written: too many of one kind.")
UPKEEP_ERRORS = Counter("longtail_upkeep_errors_total", "Mistakes in the recommender's background work.", ["error"])
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
AUDIT_FAILED = Counter(
    "longtail_audit_failures_total", "Changes in force that could not be written to the audit log, see the log."
)
EDGE_ERRORS = Counter(
    "longtail_edge_errors_total", "Requests answered 500: a mistake in the server, see its log.", ["error"]
)
COLLECTOR_REQUESTS = Counter("longtail_collector_requests_total", "Requests to /v1/events, by status.", ["status"])
COLLECTOR_EVENTS = Counter(
    "longtail_collector_events_total", "Events sent to the collector: accepted, duplicate or rejected.", ["verdict"]
)
COLLECTOR_REJECTED = Counter(
    "longtail_collector_rejected_total", "Events that the collector rejected, by reason.", ["reason"]
)
COLLECTOR_ERRORS = Counter(
    "longtail_collector_errors_total", "Mistakes in the collector itself, see its log.", ["error"]
)
COLLECTOR_PENDING = Gauge("longtail_collector_pending_events", "Events that wait to be stored.")
COLLECTOR_COMMIT_SECONDS = Histogram(
    "longtail_collector_commit_seconds", "Time to make a group of events durable.", buckets=_SECONDS
)
COLLECTOR_COMMIT_ROWS = Histogram(
    "longtail_collector_commit_events", "Events made durable together.", buckets=(1, 3, 10, 30, 100, 300, 1000, 3000)
)
COLLECTOR_LIVE_FAILURES = Counter(
    "longtail_collector_live_failures_total", "Calls that the live store did not take; their events are told again."
)
COLLECTOR_LIVE_BEHIND = Gauge("longtail_collector_live_behind", "Stored events that the live store has yet to take.")
SPOOL_ROWS = Gauge("longtail_spool_events", "Events in the spool that are not sealed yet.")
SPOOL_BYTES = Gauge("longtail_spool_bytes", "Bytes of the events in the spool that are not sealed yet.")
SPOOL_SEALED = Counter("longtail_spool_sealed_events_total", "Events sealed into Parquet.")
SPOOL_SEAL_SECONDS = Histogram(
    "longtail_spool_seal_seconds", "Time of a seal.", buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
)
SPOOL_SEAL_FAILURES = Counter(
    "longtail_spool_seal_failures_total", "Seals that failed; their events stay in the spool."
)
DRAINED = Counter("longtail_drain_events_total", "Events taken from Kafka: stored, duplicate or misfit.", ["verdict"])
DRAIN_FAILURES = Counter("longtail_drain_failures_total", "Errors of the consumer of Kafka, by kind.", ["error"])
DRAIN_LAG = Gauge("longtail_drain_lag", "Messages in Kafka that are not taken yet.", ["partition"])
