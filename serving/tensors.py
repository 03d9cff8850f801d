"""Named NumPy arrays as Open Inference Protocol v2 messages: KServe's objects, and raw tensors in gRPC messages.

The second form is what travels between the servers: bytes as they lie in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

from longtail.errors import InvalidInput

DATATYPE = {"float32": "FP32", "int64": "INT64", "int32": "INT32", "int8": "INT8"}
DTYPE = {datatype: np.dtype(name) for name, datatype in DATATYPE.items()}
_BY_DTYPE = {dtype: datatype for datatype, dtype in DTYPE.items()}  # the name of a dtype is made on each asking
VERSION = "bundle_version"


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


def raw_request(model: str, arrays: Mapping[str, np.ndarray], version: str | None) -> ModelInferRequest:
    """A gRPC request of one raw tensor per array."""
    message = ModelInferRequest(model_name=model)
    _fill(message.inputs, message.raw_input_contents, arrays)
    if version:
        message.parameters[VERSION].string_param = version
    return message


def raw_response(model: str, arrays: Mapping[str, np.ndarray], version: str, id: str = "") -> ModelInferResponse:
    """A gRPC response of one raw tensor per array."""
    message = ModelInferResponse(model_name=model, id=id)
    _fill(message.outputs, message.raw_output_contents, arrays)
    message.parameters[VERSION].string_param = version
    return message


def _fill(tensors: Any, contents: Any, arrays: Mapping[str, np.ndarray]) -> None:
    for name, values in arrays.items():
        tensors.add(name=name, datatype=_BY_DTYPE[values.dtype], shape=values.shape)
        contents.append(values.tobytes())


def raw_version(message: ModelInferRequest | ModelInferResponse) -> str | None:
    """The parameter `bundle_version` of a gRPC message, None where it was not sent."""
    found = message.parameters  # a look-up by key would put the key there
    return (found[VERSION].string_param or None) if VERSION in found else None


def raw_arrays(tensors: Sequence[Any], contents: Sequence[bytes]) -> dict[str, np.ndarray]:
    """The arrays of raw tensors by name, without a copy: read-only, and aligned, as bytes objects are.

    Raises:
        InvalidInput: a tensor is of a type that is never sent here, or its bytes do not fit its shape.
    """
    if len(tensors) != len(contents):
        raise InvalidInput(f"{len(tensors)} tensors and {len(contents)} raw contents: must be as many")
    arrays = {}
    for tensor, raw in zip(tensors, contents, strict=True):
        dtype, shape = DTYPE.get(tensor.datatype), tuple(tensor.shape)
        if dtype is None:
            raise InvalidInput(f"{tensor.name}: datatype must be one of {', '.join(DTYPE)}, not {tensor.datatype}")
        try:
            values = np.frombuffer(raw, dtype).reshape(shape)
        except ValueError:
            values = None
        if values is None or values.shape != shape:  # a -1 in a shape asks NumPy to find out
            raise InvalidInput(f"{tensor.name}: {len(raw)} bytes are not {tensor.datatype} of shape {list(shape)}")
        arrays[tensor.name] = values
    return arrays
