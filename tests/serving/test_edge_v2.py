"""Open Inference Protocol v2 over real REST and real gRPC, as KServe's own clients speak it."""

from __future__ import annotations

import asyncio
import json
import threading

import grpc
import httpx
import kserve
import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferInput, InferRequest, InferResponse, Model
from kserve.model_repository import ModelRepository
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelMetadataRequest
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.infer_type import RequestedOutput
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from longtail.engine.schema import Instance, Item, Recommendation
from longtail.errors import InvalidInput
from longtail.yaml_model import parse_yaml
from serving.edge.app import Edge
from serving.edge.grpc import GuardInterceptor
from serving.edge.guard import Guard, GuardConfig
from serving.edge.keys import digest_of
from serving.edge.v2 import INPUTS, OUTPUTS, instances_of, response_of
from serving.edge.v2_rest import INFER
from serving.process import free_port
from tests.serving.live_app import kserve_app, live


class Lister(Model):
    """Lists that tell what was understood: the first item is the person, each next one a thing of the instance."""

    def __init__(self) -> None:
        super().__init__("recommender")
        self.ready = True

    async def infer(self, request: InferRequest) -> InferResponse:
        return response_of(request, [self.made(i) for i in instances_of(request)])

    async def predict(self, payload, headers=None):
        try:
            return await self.infer(payload)
        except InvalidInput as error:
            raise kserve.errors.InvalidInput(str(error)) from None

    def made(self, i: Instance) -> Recommendation:
        known = [i.user_id or "guest", i.surface, i.context.region or "nowhere", *(e.item_id for e in i.context.events)]
        items = [Item(item_id=n, score=1 / (1 + place), source="ease", reason="r") for place, n in enumerate(known)]
        return Recommendation(
            request_id=i.context.request_id or "made", items=items[: i.k], model_version="v7", variant="champion",
            level="full",
        )  # fmt: skip

    def get_input_types(self):
        return INPUTS

    def get_output_types(self):
        return OUTPUTS


@pytest.fixture(scope="module")
def rest():
    with live(Edge(kserve_app(Lister()), Lister(), Guard(GuardConfig()))) as url:
        yield url


class Server:
    """KServe's servicer behind its own interceptor and the guard, on a loop in a thread."""

    def __init__(self, config: str = "") -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.guard = Guard(parse_yaml(config, GuardConfig))
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> str:
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(10)
        return self.address

    async def _start(self) -> None:
        models = ModelRepository()
        models.update(Lister())
        servicer = InferenceServicer(DataPlane(models), ModelRepositoryExtension(models))
        self.server = grpc.aio.server(interceptors=(GuardInterceptor(self.guard), ExceptionToStatusInterceptor()))
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, self.server)
        self.server.add_insecure_port(self.address)
        await self.server.start()

    def __exit__(self, *given) -> None:
        asyncio.run_coroutine_threadsafe(self.server.stop(0), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


@pytest.fixture(scope="module")
def address():
    with Server() as found:
        yield found


def tensor(name: str, values: list, raw: bool = True, datatype: str | None = None) -> InferInput:
    numeric = name == "k"
    found = InferInput(name, [len(values)], datatype or ("INT64" if numeric else "BYTES"))
    if raw:
        found.set_data_from_numpy(np.array(values, np.int64 if numeric else np.object_))
    else:
        found.data = values if numeric else [v.encode() for v in values]
    return found


def ask(address: str, inputs: list[InferInput], headers: list | None = None, **more) -> InferResponse:
    async def go() -> InferResponse:
        async with InferenceGRPCClient(address, retries=0, timeout=5) as client:
            return await client.infer(InferRequest("recommender", inputs, **more), headers=headers)

    return asyncio.run(go())


def texts(response: InferResponse, name: str) -> list:
    found = next(o for o in response.outputs if o.name == name).as_numpy()
    return [[v.decode() if isinstance(v, bytes) else v for v in row] for row in found.reshape(len(found), -1)]


@pytest.mark.parametrize("raw", [True, False])
def test_a_batch_over_grpc(address, raw):
    context = json.dumps({"events": [{"item_id": "i9"}], "region": "south"})
    answer = ask(
        address,
        [
            tensor("user_id", ["u1", "", "ü3"], raw), tensor("k", [2, 3, 5], raw), tensor("surface", ["cart"], raw),
            tensor("region", ["", "north", ""], raw), tensor("context", ["", "", context], raw),
            tensor("request_id", ["a", "b", ""], raw),
        ],
        request_id="batch-1",
    )  # fmt: skip
    assert answer.id == "batch-1" and answer.model_version == "v7"
    assert texts(answer, "item_id") == [
        ["u1", "cart", "", "", ""], ["guest", "cart", "north", "", ""], ["ü3", "cart", "south", "i9", ""],
    ]  # fmt: skip
    scores = next(o for o in answer.outputs if o.name == "score").as_numpy()
    assert scores.dtype == np.float32 and scores.shape == (3, 5) and scores[0].tolist() == [1, 0.5, 0, 0, 0]
    assert texts(answer, "count") == [[2], [3], [4]] and texts(answer, "request_id") == [["a"], ["b"], ["made"]]
    assert texts(answer, "level") == [["full"]] * 3 and texts(answer, "source")[0] == ["ease", "ease", "", "", ""]


def body_of(*inputs: dict, **more) -> dict:
    return {"inputs": list(inputs), **more}


def json_tensor(name: str, data: list, datatype: str = "BYTES", shape: list | None = None) -> dict:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


def test_a_batch_over_rest_in_json(rest):
    body = body_of(json_tensor("user_id", ["u1", ""]), json_tensor("k", [3], "INT64"), id="x-1")
    answer = httpx.post(rest + INFER, json=body)
    assert answer.status_code == 200
    found = InferResponse.from_rest(answer.json())
    assert found.id == "x-1" and texts(found, "item_id")[1] == ["guest", "homepage", "nowhere"]
    assert [o.name for o in found.outputs] == [t["name"] for t in OUTPUTS]


def test_the_same_over_rest_in_raw_bytes(rest):
    request = InferRequest(
        "recommender", [tensor("user_id", ["u1", "ü"]), tensor("k", [2, 3])],
        parameters={"binary_data_output": True},
    )  # fmt: skip
    body, length = request.to_rest()
    answer = httpx.post(rest + INFER, content=body, headers={"Inference-Header-Content-Length": str(length)})
    assert answer.status_code == 200
    found = InferResponse.from_bytes(answer.content, int(answer.headers["inference-header-content-length"]))
    assert texts(found, "item_id") == [["u1", "homepage", ""], ["ü", "homepage", "nowhere"]]
    assert texts(found, "score")[0] == [1.0, 0.5, 0.0]


def test_only_the_outputs_that_are_asked_for_come(rest, address):
    body = body_of(json_tensor("user_id", ["u1"]), outputs=[{"name": "level"}, {"name": "item_id"}])
    assert [o["name"] for o in httpx.post(rest + INFER, json=body).json()["outputs"]] == ["level", "item_id"]
    answer = ask(address, [tensor("user_id", ["u1"])], request_outputs=[RequestedOutput("count")])
    assert [o.name for o in answer.outputs] == ["count"]


def test_a_column_of_ids_may_be_two_dimensional(rest):
    body = body_of(json_tensor("user_id", [["u1"], ["u2"]], shape=[2, 1]))
    assert httpx.post(rest + INFER, json=body).json()["outputs"][0]["shape"] == [2, 3]


WRONG = [
    ([], "inputs"),
    ([json_tensor("surface", ["home"])], "user_id: missing"),
    ([json_tensor("user_id", [])], "user_id: has 0 rows"),
    ([json_tensor("user_id", ["u"] * 257)], "user_id: has 257 rows"),
    ([json_tensor("user_id", ["u1"], "FP32")], "user_id: has datatype FP32"),
    ([json_tensor("user_id", ["u1"], shape=[2])], "user_id: has shape [2] and 1 values"),
    ([json_tensor("user_id", ["u1"], shape=[1, 2])], "user_id: has shape [1, 2]"),
    ([json_tensor("user_id", ["u1"], shape=[-1])], "user_id: shape"),
    ([json_tensor("user_id", ["u1"], shape=["a"])], "user_id: shape"),
    ([json_tensor("user_id", [17])], "user_id[0]: must be a string"),
    ([json_tensor("user_id", ["u1"]), json_tensor("user_id", ["u1"])], "user_id: given twice"),
    ([json_tensor("user_id", ["u1", "u2"]), json_tensor("k", [5, 0], "INT64")], "k[1]: "),
    ([json_tensor("user_id", ["u1", "u2"]), json_tensor("k", [5, 2.5], "INT64")], "k[1]: must be a whole number"),
    ([json_tensor("user_id", ["u1"]), json_tensor("k", [5, 6], "INT64")], "k: has 2 values for the 1 rows"),
    ([json_tensor("user_id", ["u1", "u2"]), json_tensor("request_id", ["a"])], "request_id: has 1 values"),
    ([json_tensor("user_id", ["u1"]), json_tensor("region", ["x" * 65])], "region[0]: "),
    ([json_tensor("user_id", ["u1"]), json_tensor("context", ["{"])], "context[0]: is not JSON"),
    ([json_tensor("user_id", ["u1"]), json_tensor("context", ["[]"])], "context[0]: must be a JSON object"),
    ([json_tensor("user_id", ["u1"]), json_tensor("context", ['{"age": -1}'])], "context[0].age: "),
    ([json_tensor("user_id", ["u1"]), json_tensor("colour", ["red"])], "colour: no such input"),
    ([{"name": "user_id", "datatype": "BYTES", "shape": [1]}], "user_id: data"),
    ([{"name": "user_id", "shape": [1], "data": ["u"]}], "user_id: datatype"),
    ([{"name": 5}], "inputs[0].name"),
    ([7], "inputs[0]"),
]


@pytest.mark.parametrize(("inputs", "message"), WRONG)
def test_a_wrong_tensor_is_400_and_named(rest, inputs, message):
    answer = httpx.post(rest + INFER, json={"inputs": inputs} if inputs else {})
    assert answer.status_code == 400 and message in answer.json()["error"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'"text"', b'{"inputs": {}}', b'{"inputs": null}'])
def test_a_body_that_is_no_request_is_400(rest, content):
    answer = httpx.post(rest + INFER, content=content)
    assert answer.status_code == 400 and answer.json()["error"]


@pytest.mark.parametrize(
    ("length", "size", "tail", "message"),
    [
        ("x", 6, b"\x02\0\0\0u1", "inference-header-content-length"),
        ("99999", 6, b"\x02\0\0\0u1", "inference-header-content-length"),
        (None, 7, b"\x02\0\0\0u1", "binary_data_size must be 0 to 6"),
        (None, True, b"\x02\0\0\0u1", "binary_data_size"),
        (None, 6, b"\x09\0\0\0u1", "user_id: raw bytes end inside value 0"),
        (None, 3, b"\x09\0\0", "user_id: raw bytes end inside value 0"),
        (None, 6, b"\x02\0\0\0\xff\xff", "user_id[0]: is not UTF-8"),
        (None, 6, b"\x02\0\0\0u1xyz", "3 bytes follow"),
    ],
)
def test_raw_bytes_that_do_not_fit_are_400(rest, length, size, tail, message):
    sent = {"name": "user_id", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [sent]}).encode()
    headers = {"Inference-Header-Content-Length": length or str(len(head))}
    answer = httpx.post(rest + INFER, content=head + tail, headers=headers)
    assert answer.status_code == 400 and message in answer.json()["error"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([tensor("surface", ["home"])], "user_id: missing"),
        ([tensor("user_id", ["u1"]), tensor("k", [0])], "k[0]"),
        ([tensor("user_id", ["u1"]), tensor("k", [1, 2])], "k: has 2 values"),
        ([InferInput("user_id", [1], "BYTES", data=[b"\xff"])], "user_id[0]: is not UTF-8"),
        ([InferInput("user_id", [3], "BYTES", data=[b"u"])], "user_id: has shape [3]"),
    ],
)
def test_a_wrong_tensor_over_grpc_is_an_invalid_argument(address, inputs, message):
    with pytest.raises(grpc.RpcError) as error:
        ask(address, inputs)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT and message in error.value.details()


def test_the_metadata_tells_the_tensors(rest, address):
    told = httpx.get(rest + "/v2/models/recommender").json()
    assert told["inputs"] == INPUTS and told["outputs"] == OUTPUTS

    with grpc.insecure_channel(address) as channel:
        stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
        over_grpc = stub.ModelMetadata(ModelMetadataRequest(name="recommender"), timeout=5)
    assert [t.name for t in over_grpc.inputs] == [t["name"] for t in INPUTS]


def test_keys_and_rates_hold_over_grpc():
    config = f'keys: [{{name: shop, sha256: "{digest_of(b"secret")}"}}]\nrate: {{per_second: 0.01, burst: 2}}'
    with Server(config) as address:
        inputs = [tensor("user_id", ["u1"])]
        with pytest.raises(grpc.RpcError) as error:
            ask(address, inputs)
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
        for headers in ([("x-api-key", "secret")], [("authorization", "Bearer secret")]):
            assert ask(address, inputs, headers=headers).model_version == "v7"
        with pytest.raises(grpc.RpcError) as error:
            ask(address, inputs, headers=[("x-api-key", "secret")])
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(error.value.trailing_metadata())["retry-after"] == "100"
