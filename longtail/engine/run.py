"""One call on its way through the stages: what went missing, why, and how long each stage took."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from longtail.engine.hops import cause_of
from longtail.metrics import DEGRADED, STAGE_SECONDS

STAGES = ("people", "retriever", "features", "ranker", "rerank", "total")
_SECONDS = {stage: STAGE_SECONDS.labels(stage) for stage in STAGES}


@dataclass
class Run:
    """`causes` name the missing stages, `hops` how the retriever and the ranker answered, `timings` milliseconds."""

    until: float
    begin: float = field(default_factory=time.perf_counter)
    causes: list[str] = field(default_factory=list)
    hops: dict[str, str] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)

    def missing(self, stage: str, error: BaseException) -> None:
        """Note a stage that the call goes on without."""
        cause = cause_of(error)
        DEGRADED.labels(stage, cause).inc()
        self.causes.append(f"{stage}: {cause}")
        if stage in ("retriever", "ranker"):
            self.hops[stage] = cause

    def took(self, stage: str, start: float) -> None:
        """Add the time of a stage, or of a part of it, that began at `start` (of `time.perf_counter`)."""
        seconds = time.perf_counter() - start
        _SECONDS[stage].observe(seconds)
        self.timings[stage] = self.timings.get(stage, 0.0) + seconds * 1e3
