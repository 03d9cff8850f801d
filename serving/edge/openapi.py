"""The OpenAPI document of the recommender and the collector, made from the models that check the requests."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any

import orjson

from serving.edge.app import PREDICT
from serving.edge.schemas import components, ref
from serving.edge.v2 import NAME
from serving.edge.v2_rest import INFER

EVENTS = "/v1/events"
ABOUT = (
    "Lists of what each person will want next, and the events that teach it. Every well-formed request gets a list; "
    "its `level` tells how much of the system stood behind it."
)
REFUSALS = {
    "400": "The request is wrong; the error names the field.",
    "401": "An API key is needed, or this one is not known.",
    "408": "The body did not arrive in time.",
    "413": "The body is too long.",
    "429": "Too many requests: `Retry-After` tells the seconds to wait.",
    "500": "A mistake in the server; its log tells of this request id.",
}


@cache
def document() -> bytes:
    """OpenAPI 3.1 as JSON."""
    return orjson.dumps(build())


def build() -> dict[str, Any]:
    """OpenAPI 3.1 as plain values."""
    batch = {"events": [{"event_id": "e1", "user_id": "u1", "item_id": "i7", "event_type": "click",
                         "timestamp": "2024-05-01T12:00:00Z"}]}  # fmt: skip
    wrong = {"anyOf": [ref("Error"), ref("Received")]}  # of several events, each is told its reason
    tensors = {"inputs": [{"name": "user_id", "shape": [2], "datatype": "BYTES", "data": ["u1", "u2"]},
                          {"name": "k", "shape": [1], "datatype": "INT64", "data": [10]}]}  # fmt: skip
    predict = {"instances": [{"user_id": "u1", "surface": "homepage", "k": 10}]}
    model = f"/v2/models/{NAME}"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Longtail", "version": metadata.version("longtail"), "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"bearer": []}, {"key": []}],
        "tags": [
            {"name": "recommender", "description": "Lists, and the health of the server that makes them."},
            {"name": "collector", "description": "Events in. A server of its own, on another port."},
        ],
        "paths": {
            PREDICT: {"post": _post("recommend", "Lists for people", ref("Request"), predict, ref("Predictions"))},
            INFER: {
                "post": _post(
                    "infer", "Lists for many people, as tensors", ref("TensorRequest"), tensors, ref("TensorResponse")
                )
            },
            model: {"get": _get("metadata", "Names, types and shapes of the tensors")},
            f"{model}/ready": {"get": _get("ready", "Whether a real list came through just now", down=True)},
            "/metrics": {"get": _get("metrics", "Counters and timings for Prometheus", "text/plain")},
            EVENTS: {
                "post": _post(
                    "send_events", "Events, one or many", {"anyOf": [ref("Event"), ref("EventBatch")]}, batch,
                    ref("Received"), "collector", wrong,
                ),
            },
        },
        "components": {
            "schemas": components(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer KEY"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
            },
            "parameters": {
                "RequestId": {
                    "name": "X-Request-Id", "in": "header", "required": False,
                    "description": "Id of this call in the server's log; made up if left out or strange.",
                    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:/+=@-]{1,128}$"},
                }
            },
            "headers": {
                "RequestId": {"description": "Id of this call in the server's log.", "schema": {"type": "string"}},
                "RetryAfter": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}},
            },
        },
    }  # fmt: skip


def _post(
    name: str, summary: str, body: dict[str, Any], example: dict[str, Any], answer: dict[str, Any],
    tag: str = "recommender", wrong: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    responses = {"200": _response("Done.", answer)}
    responses |= {code: _response(text, ref("Error")) for code, text in REFUSALS.items()}
    if wrong is not None:
        responses["400"] = _response("No event is right, or the request is wrong as a whole.", wrong)
    if tag == "collector":
        responses["503"] = _response("Events cannot be stored now: none was lost, send them again.", ref("Error"))
    for code in responses.keys() & {"429", "503"}:
        responses[code]["headers"]["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    return {
        "operationId": name, "summary": summary, "tags": [tag],
        "parameters": [{"$ref": "#/components/parameters/RequestId"}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body, "example": example}}},
        "responses": responses,
    }  # fmt: skip


def _get(name: str, summary: str, kind: str = "application/json", down: bool = False) -> dict[str, Any]:
    schema = {"type": "object"} if kind == "application/json" else {"type": "string"}
    responses = {"200": _response("Done.", schema, kind)}
    if down:
        responses["503"] = _response("Not ready.", ref("Error"))
    return {"operationId": name, "summary": summary, "tags": ["recommender"], "responses": responses}


def _response(text: str, schema: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {
        "description": text,
        "headers": {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}},
        "content": {kind: {"schema": schema}},
    }
