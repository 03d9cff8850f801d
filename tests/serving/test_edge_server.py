"""The recommender's server as a process of its own: KServe's server classes with the edge in front, REST and gRPC."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import grpc
import httpx
import numpy as np
import psutil
import pytest
import uvloop
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from longtail.errors import InvalidInput
from serving.edge.app import PREDICT
from serving.edge.guard import Guard
from serving.edge.keys import digest_of
from serving.edge.v2_rest import INFER
from serving.process import free_port, spawn, stop, wait_until
from serving.server import AGE_VARIABLE, Server, _Grpc

pytestmark = pytest.mark.serving
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import asyncio, sys
from longtail.errors import InvalidInput
from serving.edge.guard import Guard
from serving.server import Server
from tests.serving.test_edge_v2 import Lister

class Recommender(Lister):
    async def answer(self, body):
        if body == b"loop":
            return type(asyncio.get_running_loop()).__module__.encode()
        if body == b"slow":
            await asyncio.sleep(0.5)
        return b"{}"

config, http, rpc = sys.argv[1:]
sys.argv = sys.argv[:1]
Server(int(http), int(rpc)).serve(Recommender(), Guard.load(config))
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    config = folder / "edge.yaml"
    config.write_text(f'max_body_bytes: 4096\nkeys: [{{name: shop, sha256: "{digest_of(b"secret")}"}}]\n')
    (folder / "serve.py").write_text(SCRIPT)
    http, rpc = free_port(), free_port()
    url = f"http://127.0.0.1:{http}"
    words = [sys.executable, folder / "serve.py", config, str(http), str(rpc)]
    process = spawn(words, folder / "log", {"PYTHONPATH": str(ROOT)})

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/v2/models/recommender/ready").status_code == 200
        except httpx.TransportError:
            return False

    assert wait_until(ready, process, 60), (folder / "log").read_text()
    yield process, url, f"127.0.0.1:{rpc}", folder / "log"
    stop(process)


KEY = {"Authorization": "Bearer secret"}


def infer(address: str, users: list[str], headers: list) -> list:
    async def go() -> list:
        tensor = InferInput("user_id", [len(users)], "BYTES")
        tensor.set_data_from_numpy(np.array(users, np.object_))
        async with InferenceGRPCClient(address, retries=0, timeout=5) as client:
            answer = await client.infer(InferRequest("recommender", [tensor]), headers=headers)
        return answer.outputs[0].as_numpy().tolist()

    return asyncio.run(go())


def test_it_runs_on_the_fast_loop(started):
    assert httpx.post(started[1] + PREDICT, content=b"loop", headers=KEY).text.startswith("uvloop")


def test_keys_and_sizes_hold_on_rest_and_grpc(started):
    _, url, address, log = started
    assert httpx.post(url + PREDICT, content=b"x").status_code == 401
    assert httpx.post(url + PREDICT, content=b"x" * 5000, headers=KEY).status_code == 413
    users = {"inputs": [{"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["u1"]}]}
    assert httpx.post(url + INFER, json=users, headers=KEY).json()["outputs"][0]["data"][0] == "u1"
    assert infer(address, ["u1"], [("authorization", "Bearer secret")])[0][0] == b"u1"
    for wrong, code in [
        (lambda: infer(address, ["u1"], []), grpc.StatusCode.UNAUTHENTICATED),
        (lambda: infer(address, ["u" * 5000], [("x-api-key", "secret")]), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (lambda: infer(address, ["u"] * 300, [("x-api-key", "secret")]), grpc.StatusCode.INVALID_ARGUMENT),
    ]:
        with pytest.raises(grpc.RpcError) as error:
            wrong()
        assert error.value.code() == code
    assert "Traceback" not in log.read_text()  # what a client does wrong is no news for the server's log


def test_the_pages_are_there_and_kserve_behind_them(started):
    url = started[1]
    assert httpx.get(url + "/openapi.json").json()["openapi"] == "3.1.0"
    assert "Longtail" in httpx.get(url + "/docs").text
    assert httpx.get(url + "/v2/models/recommender", headers=KEY).json()["inputs"][0]["name"] == "user_id"
    assert 'longtail_refused_total{reason="key"}' in httpx.get(url + "/metrics").text


def test_a_request_in_flight_is_answered_when_it_is_told_to_stop(started):
    process, url, _, log = started

    async def go() -> int:
        async with httpx.AsyncClient() as client:
            slow = asyncio.create_task(client.post(url + PREDICT, content=b"slow", headers=KEY))
            await asyncio.sleep(0.2)
            os.kill(process.pid, signal.SIGTERM)
            return (await slow).status_code

    assert asyncio.run(go()) == 200
    begin = time.monotonic()
    process.wait(15)
    assert time.monotonic() - begin < 10 and "Traceback" not in log.read_text()


def test_grpc_connections_grow_old_so_that_new_pods_are_found_and_no_call_fails(monkeypatch):
    port, ports = free_port(), set()

    async def both() -> None:
        server = Server(free_port(), port)
        ours = _Grpc(f"127.0.0.1:{port}", server, Guard.load(None))
        running = asyncio.create_task(ours.start(1))
        until = asyncio.get_running_loop().time() + 60
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = GRPCInferenceServiceStub(channel)
            while len(ports) < 3 and asyncio.get_running_loop().time() < until:
                assert (await stub.ServerLive(pb.ServerLiveRequest(), wait_for_ready=True)).live
                open_now = psutil.Process().connections("tcp")
                ports.update(c.laddr.port for c in open_now if c.raddr and c.raddr.port == port)
        await ours.stop(None)
        await running

    monkeypatch.setenv(AGE_VARIABLE, "0.2")
    uvloop.run(both())
    assert len(ports) == 3, "each connection has a port of its own"


@pytest.mark.parametrize("age", ["-1", "soon", "nan"])
def test_an_age_that_is_none_is_refused(age, monkeypatch):
    monkeypatch.setenv(AGE_VARIABLE, age)
    with pytest.raises(InvalidInput, match=AGE_VARIABLE):
        Server(free_port(), free_port())
