"""Named NumPy arrays as Open Inference Protocol v2 messages, and the gRPC hops of the recommender."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferOutput, InferRequest, InferResponse

from longtail.errors import Unavailable

DATATYPE = {"float32": "FP32", "int64": "INT64", "int32": "INT32", "int8": "INT8"}


def request_of(model: str, arrays: Mapping[str, np.ndarray], version: str | None = None) -> InferRequest:
    """An inference request of one tensor per array; `version` travels as the parameter `bundle_version`."""
    inputs = []
    for name, values in arrays.items():
        tensor = InferInput(name, list(values.shape), DATATYPE[values.dtype.name])
        tensor.set_data_from_numpy(np.ascontiguousarray(values))
        inputs.append(tensor)
    return InferRequest(model, inputs, parameters={"bundle_version": version} if version else None)


def response_of(request: InferRequest, arrays: Mapping[str, np.ndarray], version: str) -> InferResponse:
    """An inference response of one tensor per array."""
    outputs = []
    for name, values in arrays.items():
        tensor = InferOutput(name, list(values.shape), DATATYPE[values.dtype.name])
        tensor.set_data_from_numpy(np.ascontiguousarray(values))
        outputs.append(tensor)
    return InferResponse(request.id or "", request.model_name, outputs, parameters={"bundle_version": version})


def arrays_of(message: InferRequest | InferResponse) -> dict[str, np.ndarray]:
    """The arrays of a message by name."""
    tensors = message.inputs if isinstance(message, InferRequest) else message.outputs
    return {tensor.name: tensor.as_numpy() for tensor in tensors}


def version_of(message: InferRequest | InferResponse) -> str | None:
    """The parameter `bundle_version`, None where it was not sent."""
    value: Any = (message.parameters or {}).get("bundle_version")
    return getattr(value, "string_param", value)


class HopFailed(Unavailable):
    """A downstream server did not answer as it should; `cause` is a short label for metrics."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class Hop:
    """gRPC calls to one downstream model with a deadline and no retries: a late answer is a missing answer."""

    def __init__(self, model: str, address: str, deadline_s: float) -> None:
        self.model, self.address, self.deadline_s = model, address, deadline_s
        self._client: InferenceGRPCClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def _connected(self) -> InferenceGRPCClient:
        # A channel belongs to the loop it was made on, and there is none yet when servers are constructed.
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            options = [
                ("grpc.enable_retries", 0),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                # A restarted server must be found again within a second, not after gRPC's default of up to two minutes.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                ("grpc.lb_policy_name", "round_robin"),
            ]
            self._client = InferenceGRPCClient(self.address, channel_args=options, retries=0, timeout=self.deadline_s)
            self._loop = loop
        return self._client

    async def __call__(self, arrays: Mapping[str, np.ndarray], version: str | None = None) -> dict[str, np.ndarray]:
        """The answer's arrays.

        Raises:
            HopFailed: no answer before the deadline, an error, or an answer of another bundle version.
        """
        try:
            answer = await self._connected().infer(request_of(self.model, arrays, version))
        except grpc.RpcError as error:
            code = error.code().name.lower() if hasattr(error, "code") else "error"
            raise HopFailed(f"{self.model} at {self.address}: {code}", code) from None
        if version and version_of(answer) != version:
            raise HopFailed(f"{self.model} serves bundle {version_of(answer)}, not {version}", "other_bundle")
        return arrays_of(answer)

    async def close(self) -> None:
        """Close the channel, if one was made on this loop."""
        if self._client is not None and self._loop is asyncio.get_running_loop():
            await self._client.close()
            self._client = None
