"""The recommender in the Open Inference Protocol v2: tensors of a batch in, tensors of its lists out.

REST and gRPC both come here as KServe's `InferRequest`. A row is one list: `user_id[b]` asks, `item_id[b]` answers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import orjson
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from pydantic import ValidationError

from longtail.engine.schema import MAX_INSTANCES, Instance, Recommendation, field_of
from longtail.errors import InvalidInput

NAME = "recommender"
INTEGERS = {"INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "UINT8": "B", "UINT16": "H", "UINT32": "I",
            "UINT64": "Q"}  # fmt: skip

# What the metadata endpoints tell. Inputs are [B], and all but user_id and request_id may also be one value for all
# rows. Two-dimensional outputs are [B, k]: shorter lists are padded with "" and 0, `count` tells how much is real.
INPUTS = [
    {"name": "user_id", "datatype": "BYTES", "shape": [-1]},
    {"name": "surface", "datatype": "BYTES", "shape": [-1]},
    {"name": "k", "datatype": "INT64", "shape": [-1]},
    {"name": "region", "datatype": "BYTES", "shape": [-1]},
    {"name": "request_id", "datatype": "BYTES", "shape": [-1]},
    {"name": "context", "datatype": "BYTES", "shape": [-1]},
]
OUTPUTS = [
    {"name": "item_id", "datatype": "BYTES", "shape": [-1, -1]},
    {"name": "score", "datatype": "FP32", "shape": [-1, -1]},
    {"name": "source", "datatype": "BYTES", "shape": [-1, -1]},
    {"name": "count", "datatype": "INT64", "shape": [-1]},
    {"name": "level", "datatype": "BYTES", "shape": [-1]},
    {"name": "model_version", "datatype": "BYTES", "shape": [-1]},
    {"name": "variant", "datatype": "BYTES", "shape": [-1]},
    {"name": "request_id", "datatype": "BYTES", "shape": [-1]},
]
_DATATYPE = {str(tensor["name"]): str(tensor["datatype"]) for tensor in INPUTS}
_OUTPUT_NAMES = [str(tensor["name"]) for tensor in OUTPUTS]
_ONE_A_ROW = ("user_id", "request_id")


def instances_of(request: InferRequest) -> list[Instance]:
    """The rows of a v2 request as instances of the v1 protocol; an empty string means: not given.

    Raises:
        InvalidInput: the message names the tensor, and the row where one is wrong.
    """
    columns: dict[str, list[Any]] = {}
    for tensor in request.inputs:
        if tensor.name not in _DATATYPE:
            raise InvalidInput(f"{tensor.name}: no such input; there are {', '.join(_DATATYPE)}")
        if tensor.name in columns:
            raise InvalidInput(f"{tensor.name}: given twice")
        columns[tensor.name] = _values(tensor)
    for output in request.request_outputs or ():
        if output.name not in _OUTPUT_NAMES:
            raise InvalidInput(f"{output.name}: no such output; there are {', '.join(_OUTPUT_NAMES)}")
    if "user_id" not in columns:
        raise InvalidInput('user_id: missing; send BYTES [B], "" for a guest')
    rows = len(columns["user_id"])
    if not 1 <= rows <= MAX_INSTANCES:
        raise InvalidInput(f"user_id: has {rows} rows; send 1 to {MAX_INSTANCES}")
    for name, values in columns.items():
        if len(values) == 1 and name not in _ONE_A_ROW:
            columns[name] = values * rows
        elif len(values) != rows:
            raise InvalidInput(f"{name}: has {len(values)} values for the {rows} rows of user_id")
    return [_instance({name: values[b] for name, values in columns.items()}, b) for b in range(rows)]


def response_of(request: InferRequest, lists: Sequence[Recommendation]) -> InferResponse:
    """The lists as tensors, those that were asked for; raw bytes where the request came so."""
    asked = _k_of(request)
    width = max([len(r.items) for r in lists] + asked)
    rows = len(lists)
    pad = [width - len(r.items) for r in lists]
    columns: dict[str, list[Any]] = {
        "item_id": [i for r, p in zip(lists, pad, strict=True) for i in [x.item_id for x in r.items] + [""] * p],
        "score": [s for r, p in zip(lists, pad, strict=True) for s in [x.score for x in r.items] + [0.0] * p],
        "source": [s for r, p in zip(lists, pad, strict=True) for s in [x.source for x in r.items] + [""] * p],
        "count": [len(r.items) for r in lists],
        "level": [r.level for r in lists],
        "model_version": [r.model_version for r in lists],
        "variant": [r.variant for r in lists],
        "request_id": [r.request_id for r in lists],
    }
    wanted = [o.name for o in request.request_outputs or ()] or _OUTPUT_NAMES
    shapes = {str(t["name"]): [rows, width] if len(t["shape"]) == 2 else [rows] for t in OUTPUTS}
    kinds = {str(t["name"]): str(t["datatype"]) for t in OUTPUTS}
    raw = request.from_grpc and request.use_binary_outputs
    outputs = [InferOutput(n, shapes[n], kinds[n], None if raw else columns[n]) for n in wanted]
    versions = set(columns["model_version"])
    return InferResponse(
        request.id or "", NAME, outputs, versions.pop() if len(versions) == 1 else None,
        raw_outputs=[packed(kinds[n], columns[n]) for n in wanted] if raw else None,
        from_grpc=request.from_grpc, use_binary_outputs=raw,
    )  # fmt: skip


def packed(datatype: str, values: Sequence[Any]) -> bytes:
    """A tensor as the protocol's raw bytes: strings with their length in front, numbers little-endian.

    KServe's own packing takes a NumPy call for each string, ten times as long.
    """
    if datatype == "BYTES":
        known: dict[str, bytes] = {}
        parts = []
        for value in values:
            if (part := known.get(value)) is None:
                text = value.encode()
                part = known[value] = len(text).to_bytes(4, "little") + text
            parts.append(part)
        return b"".join(parts)
    return struct.pack(f"<{len(values)}{'f' if datatype == 'FP32' else 'q'}", *values)


def _k_of(request: InferRequest) -> list[int]:
    found = request.get_input_by_name("k")
    return [int(k) for k in _values(found)] if found is not None else []


def _values(tensor: InferInput) -> list[Any]:
    """The flat values of an input: str or int."""
    name, wanted = tensor.name, _DATATYPE[tensor.name]
    given = tensor.datatype
    if given != wanted and not (wanted == "INT64" and given in INTEGERS):
        raise InvalidInput(f"{name}: has datatype {given}, must be {wanted}")
    shape = tensor.shape
    if not shape or len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
        raise InvalidInput(f"{name}: has shape {list(shape)}, must be [B]")
    raw = tensor._raw_data
    values = _unpacked(name, given, raw) if raw is not None else _listed(name, tensor.data)
    if len(values) != shape[0]:
        raise InvalidInput(f"{name}: has shape {list(shape)} and {len(values)} values")
    if wanted == "BYTES":
        return [_text(name, b, value) for b, value in enumerate(values)]
    for b, value in enumerate(values):
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidInput(f"{name}[{b}]: must be a whole number")
    return values


def _listed(name: str, data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise InvalidInput(f"{name}: must carry its data as a list")
    nested = bool(data) and all(isinstance(row, list) and len(row) == 1 for row in data)
    return [row[0] for row in data] if nested else data


def _unpacked(name: str, datatype: str, raw: bytes) -> list[Any]:
    if datatype != "BYTES":
        code = INTEGERS[datatype]
        size = struct.calcsize(f"<{code}")
        if len(raw) % size:
            raise InvalidInput(f"{name}: {len(raw)} raw bytes are no whole number of {datatype}")
        return list(struct.unpack(f"<{len(raw) // size}{code}", raw))
    values: list[bytes] = []
    at = 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if at + 4 > len(raw) or end > len(raw):
            raise InvalidInput(f"{name}: raw bytes end inside value {len(values)}")
        values.append(raw[at + 4 : end])
        at = end
    return values


def _text(name: str, row: int, value: Any) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InvalidInput(f"{name}[{row}]: is not UTF-8") from None
    if not isinstance(value, str):
        raise InvalidInput(f"{name}[{row}]: must be a string")
    return value


def _instance(row: dict[str, Any], b: int) -> Instance:
    context: Any = {}
    if row.get("context"):
        try:
            context = orjson.loads(row["context"])
        except ValueError as error:
            raise InvalidInput(f"context[{b}]: is not JSON ({error})") from None
        if not isinstance(context, dict):
            raise InvalidInput(f"context[{b}]: must be a JSON object")
    beside = {name: row[name] for name in ("region", "request_id") if row.get(name)}
    given = {name: row[name] for name in ("user_id", "surface", "k") if row.get(name) not in (None, "")}
    try:
        return Instance.model_validate({**given, "context": context | beside})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        path = problem["loc"]
        if path[0] == "context" and path[1:2] and path[1] in beside:
            path = path[1:]
        rest = field_of(path[1:])
        raise InvalidInput(f"{path[0]}[{b}]{'.' + rest if rest else ''}: {problem['msg']}") from None
