"""How an engine serves: what it ranks, how long it waits, how much it takes on."""

from __future__ import annotations

from dataclasses import dataclass, field

from longtail.engine.breaker import BreakerConfig


@dataclass(frozen=True)
class EngineConfig:
    """Deadlines in milliseconds hold for up to `batch` lists of one call, which are made together.

    Each field but `breaker` is a flag of the recommender (`--ranker_ms`) and an environment variable
    (`LONGTAIL_RANKER_MS`).
    """

    variant: str = "champion"
    candidates: int = field(default=500, metadata={"help": "candidates that a request ranks"})
    total_ms: float = field(default=400.0, metadata={"help": "deadline of the whole request, milliseconds"})
    people_ms: float = field(default=60.0, metadata={"help": "deadline for reading a person's history"})
    retriever_ms: float = field(default=250.0, metadata={"help": "deadline of the retriever"})
    features_ms: float = field(default=60.0, metadata={"help": "deadline for reading a person's features"})
    ranker_ms: float = field(default=250.0, metadata={"help": "deadline of the ranker"})
    lists_ms: float = field(default=20.0, metadata={"help": "deadline for reading a list that was made before"})
    retriever_slots: int = field(default=24, metadata={"help": "calls to the retriever in flight at once"})
    ranker_slots: int = field(default=24, metadata={"help": "calls to the ranker in flight at once"})
    slot_wait_ms: float = field(default=20.0, metadata={"help": "longest wait for a slot; then the list goes without"})
    batch: int = field(default=16, metadata={"help": "lists of one call that are made together"})
    last_good: int = field(default=10_000, metadata={"help": "lists remembered for when nothing else comes"})
    cached: int = field(default=10_000, metadata={"help": "lists remembered for surfaces with cache_s"})
    breaker: BreakerConfig = BreakerConfig()
