"""Named NumPy arrays in the Open Inference Protocol v2: KServe's objects, and bodies with raw tensors.

The second form is what travels between the servers: a JSON that describes the tensors, then their bytes as they lie in
memory. Triton and KServe read and write it, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson
from kserve import InferOutput, InferRequest, InferResponse

from longtail.errors import InvalidInput

DATATYPE = {"float32": "FP32", "int64": "INT64", "int32": "INT32", "int8": "INT8"}
DTYPE = {datatype: np.dtype(name) for name, datatype in DATATYPE.items()}
_BY_DTYPE = {dtype: datatype for datatype, dtype in DTYPE.items()}  # the name of a dtype is made on each asking
VERSION = "bundle_version"
JSON_LENGTH = b"inference-header-content-length"  # the HTTP header that says where raw tensors begin


class Raw(NamedTuple):
    """What a body with raw tensors says: `arrays` by name are read-only, and aligned, as bytes objects are."""

    arrays: dict[str, np.ndarray]
    version: str | None
    id: str


def response_of(request: InferRequest, arrays: Mapping[str, np.ndarray], version: str) -> InferResponse:
    """An inference response of one tensor per array."""
    outputs = []
    for name, values in arrays.items():
        tensor = InferOutput(name, list(values.shape), DATATYPE[values.dtype.name])
        tensor.set_data_from_numpy(np.ascontiguousarray(values))
        outputs.append(tensor)
    return InferResponse(request.id or "", request.model_name, outputs, parameters={VERSION: version})


def arrays_of(request: InferRequest) -> dict[str, np.ndarray]:
    """The arrays of a request by name."""
    return {tensor.name: tensor.as_numpy() for tensor in request.inputs}


def version_of(request: InferRequest) -> str | None:
    """The parameter `bundle_version`, None where it was not sent."""
    value: Any = (request.parameters or {}).get(VERSION)
    return getattr(value, "string_param", value)


def raw_request(arrays: Mapping[str, np.ndarray], version: str | None) -> tuple[bytes, int]:
    """(body, length of its JSON) of a request that wants raw tensors back."""
    parameters: dict[str, object] = {"binary_data_output": True}
    if version:
        parameters[VERSION] = version
    return _written({"parameters": parameters}, "inputs", arrays)


def raw_response(model: str, arrays: Mapping[str, np.ndarray], version: str, id: str = "") -> tuple[bytes, int]:
    """(body, length of its JSON) of a response to the request of this id."""
    head: dict[str, object] = {"id": id} if id else {}
    return _written({**head, "model_name": model, "parameters": {VERSION: version}}, "outputs", arrays)


def _written(head: dict[str, object], key: str, arrays: Mapping[str, np.ndarray]) -> tuple[bytes, int]:
    head[key] = [
        {
            "name": name, "datatype": _BY_DTYPE[values.dtype], "shape": values.shape,
            "parameters": {"binary_data_size": values.nbytes},
        }
        for name, values in arrays.items()
    ]  # fmt: skip
    written = orjson.dumps(head)
    return b"".join([written, *map(np.ascontiguousarray, arrays.values())]), len(written)


def read_raw(body: bytes, json_length: int, key: str) -> Raw:
    """A body whose tensors, under `key` of its JSON, are all raw.

    Raises:
        InvalidInput: it is no such body, a tensor is of a type that is never sent here, or bytes do not fit a shape.
    """
    arrays, end = {}, json_length
    try:
        head = orjson.loads(memoryview(body)[:json_length])
        version, id = (head.get("parameters") or {}).get(VERSION), head.get("id", "")
        for tensor in head[key]:
            name, datatype, shape = tensor["name"], tensor["datatype"], tuple(tensor["shape"])
            begin, end = end, end + tensor["parameters"]["binary_data_size"]
            if datatype not in DTYPE:
                raise InvalidInput(f"{name}: datatype must be one of {', '.join(DTYPE)}, not {datatype}")
            arrays[name] = _array(name, body[begin:end], DTYPE[datatype], shape)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidInput(
            f"{key}: must be tensors with name, datatype, shape and the parameter binary_data_size, and their bytes"
            f" must follow the JSON, whose length {JSON_LENGTH.decode()} says"
        ) from None
    if end != len(body):
        raise InvalidInput(f"{key}: {end - json_length} bytes are described, {len(body) - json_length} follow the JSON")
    if not isinstance(version, str | None) or not isinstance(id, str):
        raise InvalidInput(f"id and {VERSION}: must be strings")
    return Raw(arrays, version, id)


def _array(name: str, raw: bytes, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    try:
        values = np.frombuffer(raw, dtype).reshape(shape)
    except ValueError:
        values = None
    if values is None or values.shape != shape:  # a -1 in a shape asks NumPy to find out
        raise InvalidInput(f"{name}: {len(raw)} bytes are not {_BY_DTYPE[dtype]} of shape {list(shape)}")
    return values
