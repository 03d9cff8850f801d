"""Calls of the recommender to the servers behind it: the Open Inference Protocol v2 over `grpc.aio`, raw tensors."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np
from grpc import aio
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from longtail.errors import InvalidInput, Unavailable
from serving.tensors import raw_arrays, raw_request, raw_version

OPTIONS = [
    ("grpc.enable_retries", 0),  # a late answer is a missing answer
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A restarted server must be found again within a second, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.lb_policy_name", "round_robin"),
]
CLOSE_S = 5.0


class HopFailed(Unavailable):
    """A downstream server did not answer as it should; `cause` is a short label for metrics."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class Hop:
    """Calls to one model of a server at `host:port`, each to the next of the addresses that the host name has.

    No waiting here: deadlines are the caller's, by cancelling, which ends the call on the server too.
    """

    def __init__(self, model: str, address: str) -> None:
        self.model, self.address = model, address
        self._channel: aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def _connected(self) -> GRPCInferenceServiceStub:
        # A channel belongs to the loop it was made on, and there is none yet when servers are constructed.
        loop = asyncio.get_running_loop()
        if self._channel is None or self._loop is not loop:
            self._channel, self._loop = aio.insecure_channel(self.address, OPTIONS), loop
            self._stub = GRPCInferenceServiceStub(self._channel)
        return self._stub

    async def __call__(self, arrays: Mapping[str, np.ndarray], version: str | None = None) -> dict[str, np.ndarray]:
        """The answer's arrays, read-only.

        Raises:
            HopFailed: no connection, an error, or an answer of another bundle version.
        """
        try:
            answer = await self._connected().ModelInfer(raw_request(self.model, arrays, version))
        except aio.AioRpcError as error:
            code = error.code().name.lower()
            said = f"{self.model} at {self.address}: {code} {(error.details() or '')[:200]}"
            raise HopFailed(said, code) from None
        if answer is None:  # what gRPC makes of bytes that are no such message
            raise HopFailed(f"{self.model} at {self.address}: sent no inference response", "malformed")
        try:
            found = raw_arrays(answer.outputs, answer.raw_output_contents)
        except InvalidInput as error:
            raise HopFailed(f"{self.model} at {self.address}: {error}", "malformed") from None
        if version and raw_version(answer) != version:
            raise HopFailed(f"{self.model} serves bundle {raw_version(answer)}, not {version}", "other_bundle")
        return found

    async def close(self) -> None:
        """Close the channel, if one was made on this loop; calls in flight are answered first."""
        channel, self._channel = self._channel, None
        if channel is not None and self._loop is asyncio.get_running_loop():
            await channel.close(CLOSE_S)
