"""The collector's configuration, read from YAML; every key has a default that suits one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from longtail.events.incoming import Bounds
from longtail.events.spool import HORIZON_DAYS, Limits
from longtail.yaml_model import load_yaml

MIB = 1 << 20


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaConfig(_Strict):
    """Where events go when `sink` is kafka: bootstrap `servers`, the `topic`, and how long a delivery may take."""

    servers: Annotated[str, Field(min_length=1)]
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")] = "longtail-events"
    delivery_s: Annotated[float, Field(ge=0.1, le=300)] = 10.0


class LimitsConfig(_Strict):
    """What is too much: events a request, events that wait to be written, sizes, and how far a clock may be ahead."""

    batch: Annotated[int, Field(ge=1, le=100_000)] = 2000
    pending: Annotated[int, Field(ge=1, le=10_000_000)] = 20_000
    spool_mb: Annotated[float, Field(gt=0)] = 1024.0
    free_mb: Annotated[float, Field(ge=0)] = 64.0
    text: Annotated[int, Field(ge=16, le=65_536)] = Bounds.text
    extra_bytes: Annotated[int, Field(ge=0, le=1 << 20)] = Bounds.extra_bytes
    ahead_s: Annotated[float, Field(ge=0, le=86_400)] = Bounds.ahead_us / 1e6

    @property
    def bounds(self) -> Bounds:
        """As `incoming.clean` takes them."""
        return Bounds(int(self.ahead_s * 1e6), self.text, self.extra_bytes)

    @property
    def spool(self) -> Limits:
        """As the spool takes them."""
        return Limits(int(self.spool_mb * MIB), int(self.free_mb * MIB))


class SealConfig(_Strict):
    """The spool is sealed into Parquet every `every_s` seconds, sooner when `rows` events wait."""

    every_s: Annotated[float, Field(gt=0)] = 300.0
    rows: Annotated[int, Field(ge=1)] = 100_000


class CollectorConfig(_Strict):
    """All of it. `horizon_days`: for so long an event id is remembered, and an event sent again counts once."""

    sink: Literal["spool", "kafka"] = "spool"
    kafka: KafkaConfig | None = None
    limits: LimitsConfig = LimitsConfig()
    seal: SealConfig = SealConfig()
    horizon_days: Annotated[int, Field(ge=1, le=400)] = HORIZON_DAYS

    @model_validator(mode="after")
    def _has_servers(self) -> CollectorConfig:
        if self.sink == "kafka" and self.kafka is None:
            raise ValueError("sink is kafka: kafka.servers must say where it is")
        return self

    @staticmethod
    def load(path: Path | None) -> CollectorConfig:
        """The file's configuration, or the defaults.

        Raises:
            InvalidInput: a mistake in the file, with its line and key.
        """
        return load_yaml(path, CollectorConfig) if path else CollectorConfig()
