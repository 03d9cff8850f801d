"""The request and response of a recommendation, validated at the edge."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from longtail.errors import InvalidInput
from longtail.schema import EVENT_TYPES

MAX_INSTANCES = 256
MAX_EVENTS = 500
MAX_K = 500

Level = Literal["full", "unranked", "popular_segment", "popular"]


def _text(value: object) -> object:
    # Shops number their users: 17850 and "17850" are the same person.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _event_type(name: str) -> str:
    if name not in EVENT_TYPES:
        raise ValueError(f"must be one of {', '.join(EVENT_TYPES)}")
    return name


Id = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=256)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SessionEvent(_Strict):
    """What the person did a moment ago, before it reached the event log. `timestamp` defaults to now."""

    item_id: Id
    event_type: Annotated[str, AfterValidator(_event_type)] = "click"
    timestamp: AwareDatetime | None = None
    quantity: float = Field(1.0, gt=0, le=1e6)


class Context(BaseModel):
    """Where and when the list is shown. Unknown keys are allowed and ignored, so that callers can send more."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    events: Annotated[tuple[SessionEvent, ...], Field(max_length=MAX_EVENTS)] = ()
    region: Annotated[str, Field(max_length=64)] | None = None
    age: Annotated[int, Field(ge=0, le=150)] | None = None
    device: Annotated[str, Field(max_length=64)] | None = None
    timestamp: AwareDatetime | None = None
    request_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    trace: bool = False


class Instance(_Strict):
    """One list to make. Without a `user_id` the person is a guest, known only by `context.events`."""

    user_id: Id | None = None
    surface: Annotated[str, Field(min_length=1, max_length=64)] = "homepage"
    k: Annotated[int, Field(ge=1, le=MAX_K)] = 20
    context: Context = Context()
    trace: bool = False


class Request(BaseModel):
    """The body of `POST /v1/models/recommender:predict`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    instances: Annotated[list[Instance], Field(min_length=1, max_length=MAX_INSTANCES)]


class Item(BaseModel):
    """One place of the list. `score` orders the list; `source` proposed the item; `reason` is for people."""

    item_id: str
    score: float
    source: str
    reason: str
    propensity: float = 1.0


class Recommendation(BaseModel):
    """One list. `level` is how far down the ladder it was made, `cause` why; `timings_ms` and `trace` on request."""

    request_id: str
    items: list[Item]
    model_version: str
    variant: str
    level: Level
    cause: str | None = None
    timings_ms: dict[str, float] | None = None
    trace: dict[str, Any] | None = None


def parse(body: object) -> Request:
    """The validated request.

    Raises:
        InvalidInput: the message names each field that is wrong, at most three.
    """
    if not isinstance(body, dict):
        raise InvalidInput('body: must be a JSON object such as {"instances": [{"user_id": "u1", "k": 10}]}')
    try:
        return Request.model_validate(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        shown = "; ".join(f"{field_of(p['loc'])}: {p['msg']}" for p in problems[:3])
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise InvalidInput(shown + more) from None


def field_of(location: tuple[int | str, ...]) -> str:
    """`("instances", 0, "k")` as `instances[0].k`."""
    out = ""
    for part in location:
        out += f"[{part}]" if isinstance(part, int) else (f".{part}" if out else str(part))
    return out
