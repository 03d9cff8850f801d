"""The request and response of a recommendation, validated at the edge."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from longtail.errors import InvalidInput
from longtail.schema import EVENT_TYPES

MAX_INSTANCES = 256
MAX_EVENTS = 500
MAX_ANCHORS = 100
MAX_K = 500

# The rungs of the ladder from the top; `MADE` says whether the list was made for this request.
Level = Literal["full", "unranked", "last_good", "popular_segment", "popular"]
Made = Literal["live", "cache", "precomputed"]


def _text(value: object) -> object:
    # Shops number their users: 17850 and "17850" are the same person.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _event_type(name: str) -> str:
    if name not in EVENT_TYPES:
        raise ValueError(f"must be one of {', '.join(EVENT_TYPES)}")
    return name


def _on_the_calendar(moment: datetime) -> datetime:
    # Beyond, differences and the log's folders by date leave what clocks and file formats can say.
    if not 1990 <= moment.year < 2100:
        raise ValueError("must lie between 1990 and 2100")
    return moment


Moment = Annotated[AwareDatetime, AfterValidator(_on_the_calendar)]
Id = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=256)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SessionEvent(_Strict):
    """What the person did a moment ago, before it reached the event log. `timestamp` defaults to now."""

    item_id: Id
    event_type: Annotated[str, AfterValidator(_event_type)] = "click"
    timestamp: Moment | None = None
    quantity: float = Field(1.0, gt=0, le=1e6)


class Context(BaseModel):
    """Where and when the list is shown. Unknown keys are allowed and ignored, so that callers can send more.

    `items` are what an anchored surface starts from: the item of a product page, the items of a cart. `category` is the
    path of a category page.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    events: Annotated[tuple[SessionEvent, ...], Field(max_length=MAX_EVENTS)] = ()
    items: Annotated[tuple[Id, ...], Field(max_length=MAX_ANCHORS)] = ()
    category: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    region: Annotated[str, Field(max_length=64)] | None = None
    age: Annotated[int, Field(ge=0, le=150)] | None = None
    device: Annotated[str, Field(max_length=64)] | None = None
    timestamp: Moment | None = None
    request_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    session_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    trace: bool = False


class Instance(_Strict):
    """One list to make. Without a `user_id` the person is a guest, known only by `context.events`.

    Without `k` the list is as long as the surface says.
    """

    user_id: Id | None = None
    surface: Annotated[str, Field(min_length=1, max_length=64)] = "homepage"
    k: Annotated[int, Field(ge=1, le=MAX_K)] | None = None
    context: Context = Context()
    trace: bool = False


class Request(BaseModel):
    """The body of `POST /v1/models/recommender:predict`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    instances: Annotated[list[Instance], Field(min_length=1, max_length=MAX_INSTANCES)]


@dataclass(slots=True)  # not frozen: that costs ten microseconds a list
class Item:
    """One place of the list. `score` orders the list; `source` proposed the item; `reason` is for people.

    Lists that are kept and lists that are answered share their items: nobody changes one.
    """

    item_id: str
    score: float
    source: str
    reason: str
    propensity: float = 1.0


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One list. `level` is the rung of the ladder it was made on, `cause` why it is not the first.

    `made` says whether it was made now, kept from an equal request, or computed before. `timings_ms` and `trace` come
    on request.
    """

    request_id: str
    items: list[Item]
    model_version: str
    variant: str
    level: Level
    made: Made = "live"
    cause: str | None = None
    timings_ms: dict[str, float] | None = None
    trace: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """What the protocol sends: plain values, without what is None."""
        items = [
            {"item_id": i.item_id, "score": i.score, "source": i.source, "reason": i.reason, "propensity": i.propensity}
            for i in self.items
        ]
        out: dict[str, Any] = {
            "request_id": self.request_id, "items": items, "model_version": self.model_version,
            "variant": self.variant, "level": self.level, "made": self.made,
        }  # fmt: skip
        extra = {"cause": self.cause, "timings_ms": self.timings_ms, "trace": self.trace}
        return out | {name: value for name, value in extra.items() if value is not None}


def parse_json(body: bytes) -> Request:
    """The validated request of a JSON body, in one pass.

    Raises:
        InvalidInput: the message names each field that is wrong, at most three.
    """
    try:
        return Request.model_validate_json(body)
    except ValidationError as error:
        raise InvalidInput(_in_words(error)) from None


def parse(body: object) -> Request:
    """The validated request of a decoded body.

    Raises:
        InvalidInput: the message names each field that is wrong, at most three.
    """
    try:
        return Request.model_validate(body)
    except ValidationError as error:
        raise InvalidInput(_in_words(error)) from None


def _in_words(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    if problems[0]["type"] == "json_invalid":
        return f"body: is not JSON ({problems[0]['msg'].removeprefix('Invalid JSON: ')})"
    if not problems[0]["loc"]:
        return 'body: must be a JSON object such as {"instances": [{"user_id": "u1", "k": 10}]}'
    shown = "; ".join(f"{field_of(p['loc'])}: {p['msg']}" for p in problems[:3])
    return shown + (f" (and {len(problems) - 3} more)" if len(problems) > 3 else "")


def field_of(location: tuple[int | str, ...]) -> str:
    """`("instances", 0, "k")` as `instances[0].k`."""
    out = ""
    for part in location:
        out += f"[{part}]" if isinstance(part, int) else (f".{part}" if out else str(part))
    return out
