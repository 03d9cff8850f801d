"""What the edge is told: who has a key, how often and how much each may ask."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.edge.keys import NAME

PUBLIC = (
    "/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json",
    "/v2/health/live", "/v2/health/ready", "/v1/models/recommender", "/v2/models/recommender/ready",
)  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Key(_Strict):
    """One API key: its name, and the sha256 that `python -m serving.edge.keys new NAME` prints."""

    name: Annotated[str, Field(pattern=rf"^{NAME.pattern}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Rate(_Strict):
    """Requests of one caller: `burst` at once, then `per_second`."""

    per_second: Annotated[float, Field(gt=0, le=1e6)]
    burst: Annotated[float, Field(ge=1, le=1e6)] = 100


class GuardConfig(_Strict):
    """The edge's configuration. Empty: everyone may ask, as often as they like, 1 MiB at a time.

    `rate` counts by key, and by client address where no key is asked for. `public` paths can be read (GET, HEAD)
    without a key, whatever the rate: probes and Prometheus ask for them.
    """

    keys: tuple[Key, ...] = ()
    rate: Rate | None = None
    max_body_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 1 << 20
    body_timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    public: tuple[str, ...] = PUBLIC

    @model_validator(mode="after")
    def _names_differ(self) -> GuardConfig:
        names = [key.name for key in self.keys]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"keys: {sorted(twice)} named twice; give a new key a new name, then remove the old one")
        return self
