"""The recommender's calls to the servers behind it, against servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import uvloop
from grpc import aio
from kserve import InferInput, InferRequest, InferResponse, Model
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from longtail.errors import InvalidInput
from serving.hop import CLOSE_S, Hop, HopFailed
from serving.process import free_port
from serving.server import AGE_VARIABLE, Server, _Grpc
from serving.tensors import arrays_of, raw_arrays, raw_request, raw_response, raw_version, response_of, version_of

ARRAYS = {
    "item": np.arange(5, dtype=np.int32), "kind": np.array([1, 2, 3], np.int8), "time": np.array([7], np.int64),
    "scores": np.arange(6, dtype=np.float32).reshape(3, 2), "none": np.empty((0, 4), np.float32),
}  # fmt: skip
METHOD = "/inference.GRPCInferenceService/ModelInfer"
Serve = Callable[[pb.ModelInferRequest, Any], Awaitable[object]]


@contextlib.asynccontextmanager
async def listening(serve: Serve, port: int = 0) -> AsyncIterator[int]:
    """A server that answers with whatever `serve` makes: a message, or bytes that are none."""

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            assert details.method == METHOD
            return grpc.unary_unary_rpc_method_handler(
                serve, pb.ModelInferRequest.FromString,
                lambda said: said if isinstance(said, bytes) else said.SerializeToString(),
            )  # fmt: skip

    server = aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def against(serve: Serve, ask: Callable[[Hop], Awaitable[object]], runner: Callable = asyncio.run) -> Any:
    """What `ask` makes of a hop to a server that answers each call as `serve` does."""

    async def both() -> object:
        async with listening(serve) as port:
            hop = Hop("m", f"127.0.0.1:{port}")
            try:
                return await asyncio.wait_for(ask(hop), 60)
            finally:
                await hop.close()

    return runner(both())


async def echo(request: pb.ModelInferRequest, _: Any) -> pb.ModelInferResponse:
    return raw_response(request.model_name, raw_arrays(request.inputs, request.raw_input_contents), "v1")


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_arrays_travel_both_ways_as_they_are_on_either_loop(runner: Callable) -> None:
    async def ask(hop: Hop) -> list[dict[str, np.ndarray]]:
        return [await hop(ARRAYS, "v1") for _ in range(3)]

    for found in against(echo, ask, runner):
        assert list(found) == list(ARRAYS)
        for name, values in ARRAYS.items():
            np.testing.assert_array_equal(found[name], values)
            assert found[name].dtype == values.dtype and found[name].flags.aligned
            assert not found[name].flags.writeable


def test_what_is_sent_is_the_open_inference_protocol_as_kserve_reads_it() -> None:
    message = raw_request("m", {**ARRAYS, "turned": np.arange(6, dtype=np.int64).reshape(2, 3).T}, "v1")
    message = pb.ModelInferRequest.FromString(message.SerializeToString())
    for name, values in arrays_of(InferRequest.from_grpc(message)).items():
        np.testing.assert_array_equal(values, ARRAYS.get(name, np.arange(6).reshape(2, 3).T))
    assert version_of(InferRequest.from_grpc(message)) == raw_version(message) == "v1"
    assert raw_version(raw_request("m", {}, None)) is None
    answer = InferResponse.from_grpc(raw_response("m", ARRAYS, "v1", "7"))
    assert answer.id == "7" and answer.parameters["bundle_version"].string_param == "v1"
    for tensor in answer.outputs:
        np.testing.assert_array_equal(tensor.as_numpy(), ARRAYS[tensor.name])


def test_calls_at_once_get_their_own_answers_over_one_connection_of_any_size() -> None:
    peers = set()

    async def serve(request: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        peers.add(context.peer())
        arrays = raw_arrays(request.inputs, request.raw_input_contents)
        await asyncio.sleep(0.01 * (3 - arrays["n"][0] % 4))  # the later one is answered first
        return raw_response("m", {"n": np.repeat(arrays["n"], 2_000_000)}, "v1")

    async def ask(hop: Hop) -> None:
        many = await asyncio.gather(*(hop({"n": np.array([n])}) for n in range(4)))
        assert [int(found["n"][-1]) for found in many] == list(range(4)) and len(peers) == 1

    against(serve, ask)


def test_a_call_that_is_given_up_ends_on_the_server_too_and_the_next_one_is_answered() -> None:
    ended = asyncio.Event()

    async def serve(request: pb.ModelInferRequest, _: Any) -> pb.ModelInferResponse:
        if raw_arrays(request.inputs, request.raw_input_contents)["n"][0] == 0:
            try:
                await asyncio.sleep(3600)
            finally:
                ended.set()
        return await echo(request, _)

    async def ask(hop: Hop) -> None:
        await hop({"n": np.array([7])})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await hop({"n": np.array([0])})
        assert (await hop({"n": np.array([1])}))["n"][0] == 1
        await ended.wait()

    against(serve, ask)


def test_closing_waits_for_the_calls_in_flight_and_the_next_call_connects_again() -> None:
    asked = asyncio.Event()

    async def serve(request: pb.ModelInferRequest, _: Any) -> pb.ModelInferResponse:
        asked.set()
        await asyncio.sleep(0.2)
        return await echo(request, _)

    async def ask(hop: Hop) -> None:
        call = asyncio.create_task(hop(ARRAYS))
        await asked.wait()
        await asyncio.wait_for(hop.close(), CLOSE_S * 10)
        assert (await call)["time"][0] == 7
        assert (await hop(ARRAYS))["time"][0] == 7

    against(serve, ask)


def test_a_server_that_was_started_again_is_found_again() -> None:
    async def both() -> None:
        port = free_port()
        hop = Hop("m", f"127.0.0.1:{port}")
        with pytest.raises(HopFailed) as failed:
            await hop(ARRAYS)
        assert failed.value.cause == "unavailable"
        for _ in range(2):
            async with listening(echo, port):
                async with asyncio.timeout(30):
                    while True:
                        with contextlib.suppress(HopFailed):
                            await hop(ARRAYS)
                            break
                        await asyncio.sleep(0.05)
        await hop.close()

    asyncio.run(both())


def said(**fields: Any) -> pb.ModelInferResponse:
    message = raw_response("m", {}, "v1")
    message.MergeFrom(pb.ModelInferResponse(**fields))
    return message


ONE = {"name": "n", "datatype": "INT64", "shape": [1]}


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (grpc.StatusCode.UNAVAILABLE, "unavailable"),
        (grpc.StatusCode.INVALID_ARGUMENT, "invalid_argument"),
        (grpc.StatusCode.CANCELLED, "cancelled"),
        (RuntimeError("a mistake"), "unknown"),
        (b"nonsense", "malformed"),
        (said(outputs=[ONE]), "malformed"),
        (said(outputs=[ONE], raw_output_contents=[b"1234567"]), "malformed"),
        (said(outputs=[{**ONE, "shape": [2**62, 2**62]}], raw_output_contents=[b""]), "malformed"),
        (said(outputs=[{**ONE, "shape": [-1, -1]}], raw_output_contents=[b"12345678"]), "malformed"),
        (said(outputs=[{**ONE, "datatype": "BYTES"}], raw_output_contents=[b"12345678"]), "malformed"),
        (raw_response("m", ARRAYS, "another"), "other_bundle"),
        (pb.ModelInferResponse(), "other_bundle"),
    ],
)
def test_whatever_a_server_says_is_an_answer_or_a_cause(answer: Any, cause: str) -> None:
    async def serve(_: pb.ModelInferRequest, context: Any) -> object:
        if isinstance(answer, grpc.StatusCode):
            await context.abort(answer, "no")
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask(hop: Hop) -> None:
        with pytest.raises(HopFailed) as failed:
            await hop(ARRAYS, "v1")
        assert failed.value.cause == cause

    against(serve, ask)


def test_nobody_at_the_address_is_a_cause_and_not_the_end() -> None:
    async def ask(hop: Hop) -> None:
        for _ in range(2):
            with pytest.raises(HopFailed) as failed:
                await Hop("m", "127.0.0.1:1")(ARRAYS)
            assert failed.value.cause == "unavailable"

    against(echo, ask)


class Sums(Model):
    """Proposes the sum of `item`; `by_kserve` says that KServe's own way led here."""

    def __init__(self) -> None:
        super().__init__("m")
        self.ready, self.by_kserve = True, False

    async def propose(self, arrays, version):
        if "item" not in arrays:
            raise InvalidInput("item: is missing")
        if version == "broken":
            raise RuntimeError("a mistake")
        return {"sum": np.array([arrays["item"].sum()])}, version or "v1"

    async def predict(self, payload, headers=None):
        self.by_kserve = True
        return response_of(payload, *await self.propose(arrays_of(payload), None))


def ask_server(message: pb.ModelInferRequest) -> tuple[pb.ModelInferResponse, bool]:
    """The answer of KServe's gRPC server with our servicer on uvloop; whether it went KServe's way."""
    model, port = Sums(), free_port()

    async def both() -> pb.ModelInferResponse:
        server = Server(free_port(), port)
        server.register_model(model)
        ours = _Grpc(f"127.0.0.1:{port}", server, model)
        running = asyncio.create_task(ours.start(1))
        try:
            async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = GRPCInferenceServiceStub(channel)
                return await stub.ModelInfer(message, timeout=60, wait_for_ready=True)
        finally:
            await ours.stop(None)
            await running

    return uvloop.run(both()), model.by_kserve


def test_a_server_answers_raw_tensors_without_kserves_objects_and_others_with_them() -> None:
    answer, by_kserve = ask_server(raw_request("m", ARRAYS, "v7"))
    found = raw_arrays(answer.outputs, answer.raw_output_contents)
    assert found["sum"][0] == ARRAYS["item"].sum() and raw_version(answer) == "v7" and not by_kserve
    typed = InferInput("item", [2], "INT32", [3, 4])
    answer, by_kserve = ask_server(InferRequest("m", [typed]).to_grpc())
    assert InferResponse.from_grpc(answer).outputs[0].as_numpy().tolist() == [7] and by_kserve


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (raw_request("m", {"other": np.zeros(1, np.int64)}, None), "INVALID_ARGUMENT: item: is missing"),
        (raw_request("m", ARRAYS, "broken"), "INTERNAL"),
        (raw_request("nobody", ARRAYS, None), "NOT_FOUND"),
        (pb.ModelInferRequest(model_name="m", inputs=[ONE], raw_input_contents=[b"", b""]), "INVALID_ARGUMENT: 1 tens"),
        (
            pb.ModelInferRequest(model_name="m", inputs=[ONE], raw_input_contents=[b"123"]),
            "INVALID_ARGUMENT: n: 3 ",
        ),
    ],
)
def test_a_server_says_what_is_wrong(message: pb.ModelInferRequest, status: str) -> None:
    with pytest.raises(aio.AioRpcError) as failed:
        ask_server(message)
    assert f"{failed.value.code().name}: {failed.value.details()}".startswith(status)


def test_connections_grow_old_so_that_new_pods_are_found_and_no_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    port, ports = free_port(), set()

    async def both() -> None:
        server, model = Server(free_port(), port), Sums()
        server.register_model(model)
        ours = _Grpc(f"127.0.0.1:{port}", server, model)
        running = asyncio.create_task(ours.start(1))
        hop, until = Hop("m", f"127.0.0.1:{port}"), asyncio.get_running_loop().time() + 60
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 60)
        while len(ports) < 3 and asyncio.get_running_loop().time() < until:
            await hop(ARRAYS, "v1")
            open_now = psutil.Process().connections("tcp")
            ports.update(c.laddr.port for c in open_now if c.raddr and c.raddr.port == port)
        await hop.close()
        await ours.stop(None)
        await running

    monkeypatch.setenv(AGE_VARIABLE, "0.2")
    uvloop.run(both())
    assert len(ports) == 3, "each connection has a port of its own"


@pytest.mark.parametrize("age", ["-1", "soon", "nan"])
def test_an_age_that_is_none_is_refused(age: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AGE_VARIABLE, age)
    with pytest.raises(InvalidInput, match=AGE_VARIABLE):
        Server(free_port(), free_port())
