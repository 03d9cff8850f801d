"""The retriever's server as a process of its own: raw tensors are answered at once, all else is KServe's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import uvloop
from kserve import InferInput, InferRequest, InferResponse, Model

from longtail.errors import InvalidInput
from serving.hop import Hop
from serving.process import free_port, spawn, stop, wait_until
from serving.tensors import raw_request, response_of
from tests.serving.test_hop import ARRAYS, Arrays

pytestmark = pytest.mark.serving
ROOT = Path(__file__).resolve().parents[2]


class Sums(Model):
    """Proposes the sum of `item`; one where KServe's own way led here."""

    def __init__(self) -> None:
        super().__init__("m")
        self.ready, self.waited, self.given_up = True, 0, 0

    async def propose(self, arrays: Arrays, version: str | None) -> tuple[Arrays, str]:
        if "item" not in arrays:
            raise InvalidInput("item: is missing")
        if version == "broken":
            raise RuntimeError("a mistake")
        if version == "slow":
            self.waited += 1
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.given_up += 1
                raise
        counts = np.array([self.waited, self.given_up])
        return {"sum": np.array([arrays["item"].sum()]), "counts": counts}, version or "v1"

    async def predict(self, payload: InferRequest, headers: dict | None = None) -> InferResponse:
        return response_of(payload, {"by_kserve": np.array([1])}, "v1")


SERVE = """
import sys
from serving.server import Server
from tests.serving.test_quick import Sums
port = int(sys.argv[1])
sys.argv = sys.argv[:1]
Server(port).serve(Sums())
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "log"


@pytest.fixture(scope="module")
def retriever(log: Path) -> Iterator[int]:
    script, port = log.with_name("serve.py"), free_port()
    script.write_text(SERVE)
    process = spawn([sys.executable, script, str(port)], log, {"PYTHONPATH": str(ROOT)})

    def ready() -> bool:
        with contextlib.suppress(OSError):
            return posted(port, None, None, "ready")[0] == 200
        return False

    assert wait_until(ready, process, 60), log.read_text()
    yield port
    stop(process)


def posted(port: int, body: bytes | None, length: object, verb: str = "infer", model: str = "m") -> tuple[int, bytes]:
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(length)}
    if length is None:
        headers = {"Content-Type": "application/json"}
    url = f"http://127.0.0.1:{port}/v2/models/{model}/{verb}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def asked(port: int, arrays: Arrays, version: str | None = None, within_s: float = 60.0) -> Arrays:
    async def go() -> Arrays:
        hop = Hop("m", f"127.0.0.1:{port}")
        try:
            async with asyncio.timeout(within_s):
                return await hop(arrays, version)
        finally:
            hop.close()

    return uvloop.run(go())


def test_a_server_answers_raw_tensors_itself_and_leaves_others_to_kserve(retriever: int) -> None:
    assert asked(retriever, ARRAYS, "v7")["sum"][0] == ARRAYS["item"].sum()
    typed = InferRequest("m", [InferInput("item", [2], "INT32", [3, 4])])
    status, answer = posted(retriever, json.dumps(typed.to_rest()[0]).encode(), None)
    assert status == 200 and json.loads(answer)["outputs"][0]["name"] == "by_kserve"


@pytest.mark.parametrize(
    ("body", "length", "status", "said"),
    [
        (*raw_request({"other": np.zeros(1, np.int64)}, None), 400, "item: is missing"),
        (*raw_request(ARRAYS, "broken"), 500, "internal error"),
        (raw_request(ARRAYS, None)[0], "x", 400, "inference-header-content-length: must be"),
        (raw_request(ARRAYS, None)[0], 10**9, 400, "inputs: must be tensors"),
        (raw_request(ARRAYS, None)[0] + b"1", raw_request(ARRAYS, None)[1], 400, "follow the JSON"),
        (b"", 0, 400, "inputs: must be tensors"),
    ],
)
def test_a_server_says_what_is_wrong(retriever: int, body: bytes, length: object, status: int, said: str) -> None:
    found, answer = posted(retriever, body, length)
    assert found == status and said in json.loads(answer)["error"]


def test_a_server_does_not_work_for_callers_that_have_given_up(retriever: int, log: Path) -> None:
    before = asked(retriever, ARRAYS)["counts"]
    for _ in range(3):
        with pytest.raises(TimeoutError):
            asked(retriever, ARRAYS, "slow", within_s=0.5)
    until = time.monotonic() + 30
    while (asked(retriever, ARRAYS)["counts"] - before).tolist() != [3, 3]:
        assert time.monotonic() < until
    assert "ASGI" not in log.read_text()  # uvicorn's word for a request that came to no end


def test_other_models_and_paths_are_kserves(retriever: int) -> None:
    assert posted(retriever, *raw_request(ARRAYS, None), model="nobody")[0] == 404
    assert posted(retriever, None, None, "ready/")[0] == 404
