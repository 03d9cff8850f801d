"""The REST form of the Open Inference Protocol v2: JSON, or JSON followed by raw tensors.

KServe's own reading of a malformed body ends in a 500 here and there; this one names what is wrong.
"""

from __future__ import annotations

from typing import Any

import orjson
from kserve import InferInput, InferRequest, InferResponse
from kserve.protocol.infer_type import RequestedOutput

from longtail.errors import InvalidInput
from serving.edge.v2 import NAME, packed
from serving.tensors import JSON_LENGTH

INFER = f"/v2/models/{NAME}/infer"


def read(body: bytes, json_length: bytes | None) -> InferRequest:
    """The request of a body; `json_length` is the header that tells where raw tensors begin, if any do.

    Raises:
        InvalidInput: the message names what is missing or wrong.
    """
    end = len(body)
    if json_length is not None:
        if not json_length.isdigit() or len(json_length) > 12 or int(json_length) > len(body):
            raise InvalidInput(f"{JSON_LENGTH.decode()}: must be the length of the body's JSON, at most {len(body)}")
        end = int(json_length)
    try:
        request = orjson.loads(body[:end])
    except ValueError as error:
        raise InvalidInput(f"body: is not JSON ({error})") from None
    if not isinstance(request, dict):
        raise InvalidInput('body: must be a JSON object such as {"inputs": [{"name": "user_id", ...}]}')
    raw = body[end:]
    tensors = []
    for n, given in enumerate(_objects(request, "inputs")):
        tensor, raw = _input(given, n, raw)
        tensors.append(tensor)
    if raw:
        raise InvalidInput(f"body: {len(raw)} bytes follow that belong to no input")
    outputs = [
        RequestedOutput(_is(o.get("name"), str, f"outputs[{n}].name"), _parameters(o, f"outputs[{n}]"))
        for n, o in enumerate(_objects(request, "outputs") if "outputs" in request else [])
    ]
    request_id = _is(request.get("id", ""), str, "id")
    return InferRequest(
        NAME, tensors, request_id, parameters=_parameters(request, "the request"), request_outputs=outputs or None
    )


def write(request: InferRequest, response: InferResponse) -> tuple[bytes, int | None]:
    """(body, length of its JSON or None): outputs as raw tensors after the JSON where the request asked for it."""
    everywhere = bool((request.parameters or {}).get("binary_data_output", False))
    asked = {o.name: o.binary_data for o in request.request_outputs or ()}
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for output in response.outputs:
        sent: dict[str, Any] = {"name": output.name, "shape": output.shape, "datatype": output.datatype}
        wants = asked.get(output.name)
        if everywhere if wants is None else wants:
            tail.append(packed(output.datatype, output.data))
            sent["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            sent["data"] = output.data
        outputs.append(sent)
    answer = {"id": response.id, "model_name": response.model_name, "outputs": outputs}
    if response.model_version is not None:
        answer["model_version"] = response.model_version
    head = orjson.dumps(answer)
    return (b"".join([head, *tail]), len(head)) if tail else (head, None)


def _input(given: dict[str, Any], n: int, raw: bytes) -> tuple[InferInput, bytes]:
    """The n-th input, and what it leaves of the raw bytes."""
    name = _is(given.get("name"), str, f"inputs[{n}].name")
    shape = _is(given.get("shape"), list, f"{name}: shape")
    if not all(isinstance(d, int) and not isinstance(d, bool) and d >= 0 for d in shape):
        raise InvalidInput(f"{name}: shape must be whole numbers")
    parameters = _parameters(given, name) or {}
    tensor = InferInput(name, shape, _is(given.get("datatype"), str, f"{name}: datatype"), parameters=parameters)
    size = parameters.get("binary_data_size")
    if size is None:
        tensor.data = _is(given.get("data"), list, f"{name}: data")
        return tensor, raw
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(raw):
        raise InvalidInput(f"{name}: binary_data_size must be 0 to {len(raw)}, the bytes that are left")
    tensor._raw_data = raw[:size]
    return tensor, raw[size:]


def _objects(request: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = _is(request.get(key), list, key)
    for n, entry in enumerate(found):
        _is(entry, dict, f"{key}[{n}]")
    return found


def _parameters(holder: dict[str, Any], where: str) -> dict[str, Any] | None:
    found = holder.get("parameters")
    return None if found is None else _is(found, dict, f"{where}: parameters")


def _is(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        names = {"str": "a string", "list": "a list", "dict": "an object"}
        raise InvalidInput(f"{where}: must be {names[kind.__name__]}")
    return value
