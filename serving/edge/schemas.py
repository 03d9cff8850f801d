"""The schemas of the OpenAPI document: from pydantic where a model checks the body, else from the contract."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from longtail.engine.schema import Recommendation, Request
from longtail.schema import EVENT_EXTRAS, EVENT_SCHEMA, EVENT_TYPES
from serving.edge.describe import DESCRIPTIONS
from serving.edge.v2 import INPUTS, INTEGERS, OUTPUTS

Schema = dict[str, Any]
REF = "#/components/schemas/"
MAX_EVENTS = 2000
_ID: Schema = {"anyOf": [{"type": "string", "minLength": 1, "maxLength": 256}, {"type": "integer"}]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_TEXT: Schema = {"type": "string"}
_NEEDED = ("event_id", "item_id", "event_type")


def ref(name: str) -> Schema:
    """A reference to a component."""
    return {"$ref": REF + name}


def components() -> dict[str, Schema]:
    """Every schema by name, each property with its description."""
    adapters = [("in", "validation", TypeAdapter(Request)), ("out", "serialization", TypeAdapter(Recommendation))]
    _, generated = TypeAdapter.json_schemas(adapters, ref_template=REF + "{model}")  # type: ignore[arg-type]
    found: dict[str, Schema] = {**generated["$defs"], **_plain(), **_tensors(), **_events()}
    found["SessionEvent"]["properties"]["event_type"]["enum"] = list(EVENT_TYPES)
    found["Instance"]["properties"]["context"]["default"] = {}
    for prop in (
        found["SessionEvent"]["properties"]["item_id"],
        found["Instance"]["properties"]["user_id"],
        found["Context"]["properties"]["items"]["items"],
    ):
        _allow_numbers(prop)
    for name, schema in found.items():
        schema.pop("title", None)
        for field, prop in schema.get("properties", {}).items():
            prop.pop("title", None)
            if described := DESCRIPTIONS.get(name, {}).get(field):
                prop["description"] = described
    return found


def _allow_numbers(prop: Schema) -> None:
    """Ids that are whole numbers are taken as text."""
    kept = prop.pop("anyOf", None) or [
        {key: prop.pop(key) for key in ("type", "minLength", "maxLength") if key in prop}
    ]
    prop["anyOf"] = [*kept, {"type": "integer"}]


def _object(about: str, properties: dict[str, Schema], needed: tuple[str, ...] = (), closed: bool = False) -> Schema:
    schema: Schema = {"type": "object", "description": about, "properties": properties}
    if needed:
        schema["required"] = list(needed)
    if closed:
        schema["additionalProperties"] = False
    return schema


def _plain() -> dict[str, Schema]:
    lists = {"type": "array", "items": ref("Recommendation")}
    return {
        "Predictions": _object("The answer of `predict`.", {"predictions": lists}, ("predictions",)),
        "Error": _object("Any answer but 200.", {"error": dict(_TEXT)}, ("error",)),
    }


def _tensors() -> dict[str, Schema]:
    anything: Schema = {"type": "object"}
    shape = {"type": "array", "items": dict(_COUNT), "minItems": 1, "maxItems": 2}
    name_in = {"type": "string", "enum": [t["name"] for t in INPUTS]}
    name_out = {"type": "string", "enum": [t["name"] for t in OUTPUTS]}
    return {
        "TensorRequest": _object(
            "A batch in the Open Inference Protocol.",
            {
                "id": dict(_TEXT),
                "parameters": dict(anything),
                "inputs": {"type": "array", "items": ref("TensorInput"), "minItems": 1},
                "outputs": {"type": "array", "items": ref("TensorChoice")},
            },
            ("inputs",),
        ),
        "TensorInput": _object(
            "One column of the batch.",
            {
                "name": name_in,
                "shape": shape,
                "datatype": {"type": "string", "enum": ["BYTES", *INTEGERS]},
                "parameters": dict(anything),
                "data": {"type": "array", "items": {"type": ["string", "integer"]}},
            },
            ("name", "shape", "datatype"),
        ),
        "TensorChoice": _object("An output to return.", {"name": name_out, "parameters": dict(anything)}, ("name",)),
        "TensorResponse": _object(
            "The lists of a batch.",
            {
                "id": dict(_TEXT),
                "model_name": dict(_TEXT),
                "model_version": dict(_TEXT),
                "outputs": {"type": "array", "items": ref("TensorOutput")},
            },
            ("model_name", "outputs"),
        ),
        "TensorOutput": _object(
            "One column of the answer.",
            {
                "name": dict(name_out),
                "shape": dict(shape),
                "datatype": {"type": "string", "enum": ["BYTES", "INT64", "FP32"]},
                "parameters": dict(anything),
                "data": {"type": "array", "items": {"type": ["string", "number"]}},
            },
            ("name", "shape", "datatype"),
        ),
    }


def _events() -> dict[str, Schema]:
    columns = {field.name: _column(field) for field in (*EVENT_SCHEMA, *EVENT_EXTRAS)}
    columns |= {"event_type": {"type": "string", "enum": list(EVENT_TYPES)}}
    columns |= {"event_id": dict(_ID), "user_id": dict(_ID), "item_id": dict(_ID)}
    rejected = {"index": dict(_COUNT), "event_id": {"type": ["string", "integer", "null"]}, "reason": dict(_TEXT)}
    return {
        "Event": _object("Something that happened. Unknown columns are kept.", columns, _NEEDED),
        "EventBatch": _object(
            "Many events at once.",
            {"events": {"type": "array", "items": ref("Event"), "minItems": 1, "maxItems": MAX_EVENTS}},
            ("events",),
        ),
        "Received": _object(
            "What became of the events. A 200 means that the accepted ones survive a crash.",
            {
                "accepted": dict(_COUNT),
                "duplicates": dict(_COUNT),
                "rejected": {"type": "array", "items": ref("Rejected")},
            },
            ("accepted", "duplicates", "rejected"),
        ),
        "Rejected": _object("An event that was not stored.", rejected, ("index", "reason")),
    }


def _column(field: pa.Field) -> Schema:
    if pa.types.is_timestamp(field.type):
        return {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer"}, {"type": "null"}]}
    if pa.types.is_integer(field.type):
        return {"type": ["integer", "null"]}
    return {"type": ["number", "null"]} if pa.types.is_floating(field.type) else {"type": ["string", "null"]}
