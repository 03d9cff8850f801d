"""The ranker repository in the real Triton server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import uvloop

from longtail.engine.ranker_repository import write_repository
from longtail.errors import InvalidInput, Unavailable
from serving.hop import Hop, HopFailed

xgboost = pytest.importorskip("xgboost")
F = 7
pytestmark = pytest.mark.serving

FIL_STANDIN = '''
import os, numpy as np, xgboost, json
import triton_python_backend_utils as pb
class TritonPythonModel:
    """Reads what the FIL backend would read: its parameters and the booster file."""
    def initialize(self, args):
        config = json.loads(args["model_config"])
        given = {k: v["string_value"] for k, v in config["parameters"].items()}
        assert config["backend"] == "fil" and given["is_classifier"] == "false"
        name = {"xgboost_ubj": "xgboost.ubj"}[given["model_type"]]
        self.booster = xgboost.Booster(model_file=os.path.join(args["model_repository"], args["model_version"], name))
    def execute(self, requests):
        out, self.keep = [], []
        for r in requests:
            x = np.from_dlpack(pb.get_input_tensor_by_name(r, "input__0"))
            y = self.booster.inplace_predict(x).astype(np.float32).reshape(-1, 1)
            self.keep.append(y)
            out.append(pb.InferenceResponse([pb.Tensor.from_dlpack("output__0", y)]))
        return out
'''


def booster(path: Path, seed: int = 0) -> xgboost.Booster:
    rng = np.random.default_rng(seed)
    data = xgboost.DMatrix(rng.normal(size=(400, F)).astype(np.float32), rng.integers(0, 4, 400))
    data.set_group([40] * 10)
    trained = xgboost.train({"objective": "rank:ndcg", "max_depth": 4, "nthread": 1, "seed": seed}, data, 25)
    trained.save_model(path)
    return trained


def infer(server, rows: np.ndarray, name: str | None = None) -> np.ndarray:
    body = {
        "inputs": [{"name": "input__0", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}]
    }
    url = f"http://127.0.0.1:{server.http_port}/v2/models/{name or server.models[0]}/infer"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=10) as reply:
        output = json.load(reply)["outputs"][0]
    assert output["name"] == "output__0" and output["shape"] == [len(rows), 1]
    return np.array(output["data"], np.float32)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xgboost.Booster]:
    root = tmp_path_factory.mktemp("bundle")
    trained = booster(root / "trained.ubj")
    write_repository(root / "trained.ubj", F, root / "ranker")
    (root / "ranker" / "features.json").write_text("[]")  # as in a bundle
    return root / "ranker", trained


@pytest.fixture(scope="module")
def triton(repository, tmp_path_factory):
    from serving.ranker.triton import Triton, wheel

    try:
        wheel()
    except Unavailable as reason:
        pytest.skip(str(reason))
    with Triton(repository[0], tmp_path_factory.mktemp("state")) as server:
        yield server


def rows(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, F)).astype(np.float32)


def test_scores_are_those_of_the_booster_bit_for_bit(repository, triton):
    for n in (1, 3, 500):
        np.testing.assert_array_equal(infer(triton, rows(n)), repository[1].inplace_predict(rows(n)))


def test_a_response_leaves_no_error_in_the_log(triton):
    infer(triton, rows(2))
    assert "Traceback" not in triton.log.read_text()


def test_missing_values_take_the_branch_they_were_trained_for(repository, triton):
    # JSON cannot carry NaN, raw tensors can: what the recommender sends.
    values = rows(40)
    values[::3, 2] = np.nan

    async def ask() -> np.ndarray:
        hop = Hop(triton.models[0], triton.address)
        try:
            async with asyncio.timeout(60):
                return (await hop({"input__0": values}))["output__0"]
        finally:
            hop.close()

    np.testing.assert_array_equal(uvloop.run(ask())[:, 0], repository[1].inplace_predict(values))


@pytest.mark.parametrize(
    ("model", "values", "cause"),
    [("nobody", rows(1), "not_found"), (None, rows(1)[:, 1:], "bad_request")],
)
def test_what_triton_refuses_is_a_cause(triton, model, values, cause):
    async def ask() -> None:
        hop = Hop(model or triton.models[0], triton.address)
        with pytest.raises(HopFailed) as failed:
            await hop({"input__0": values})
        hop.close()
        assert failed.value.cause == cause

    uvloop.run(ask())


def test_listens_on_loopback_only(triton):
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    local = [line.split()[1] for line in listening.splitlines() if line.split()[1].endswith(f":{triton.http_port:04X}")]
    assert local and all(a.startswith(("0100007F", "0000000000000000FFFF00000100007F")) for a in local)


def test_a_dead_stub_is_noticed_by_inference_and_healed_by_reload(repository, triton):
    group = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and is_stub(p, triton.process.pid)]
    assert group
    for pid in group:
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert not triton.answers()
    assert triton.reload(triton.models[0])
    np.testing.assert_array_equal(infer(triton, rows(9)), repository[1].inplace_predict(rows(9)))


def test_a_load_ends_when_triton_dies_though_a_new_stub_keeps_its_connection_open(repository, tmp_path):
    from serving.ranker.triton import Triton

    def stubs() -> set[str]:
        return {p.name for p in Path("/proc").iterdir() if p.name.isdigit() and is_stub(p, server.process.pid)}

    with Triton(repository[0], tmp_path) as server:
        before = stubs()
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(server.reload, server.models[0])
            end = time.monotonic() + 30
            while not stubs() - before:
                assert time.monotonic() < end and not loading.done()
                time.sleep(0.01)
            server.process.kill()
            assert loading.result(10) is False


def test_several_rankers_come_and_go_while_others_answer(triton, repository, tmp_path):
    other = booster(tmp_path / "other.ubj", seed=5)
    folder = write_repository(tmp_path / "other.ubj", F, tmp_path / "ranker")
    link = repository[0] / folder.name
    link.symlink_to(folder)
    first, second = [n for n in triton.models if n != folder.name][0], folder.name
    try:
        assert not triton.answers(second) and triton.load(second)
        np.testing.assert_array_equal(infer(triton, rows(5), second), other.inplace_predict(rows(5)))
        np.testing.assert_array_equal(infer(triton, rows(5), first), repository[1].inplace_predict(rows(5)))
        assert triton.unload(second)
        assert not triton.answers(second) and triton.answers(first)
    finally:
        link.unlink()
    assert not triton.load(second) and triton.answers()


def test_a_model_folder_is_named_after_all_that_is_in_it(tmp_path):
    booster(tmp_path / "a.ubj")
    names = [write_repository(tmp_path / "a.ubj", n, tmp_path / "r").name for n in (F, F, F + 1)]
    assert names[0] == names[1] != names[2] and sorted(p.name for p in (tmp_path / "r").iterdir()) == sorted({*names})


def is_stub(process: Path, parent: int) -> bool:
    try:
        return int((process / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent
    except (OSError, ValueError):
        return False


def test_stop_leaves_no_process_and_no_shared_memory(repository, tmp_path):
    from serving.ranker.triton import STUB, Triton

    orphan = Path("/dev/shm/longtail_999999999_1_of-a-killed-parent")
    orphan.touch()
    words = [str(tmp_path / STUB), "-c", "import time; time.sleep(600)", orphan.name]
    waiting = subprocess.Popen(words, executable=sys.executable)
    while not Path(f"/proc/{waiting.pid}/cmdline").read_bytes():  # on a busy machine it may have no name for a moment
        time.sleep(0.01)
    server = Triton(repository[0], tmp_path).start()
    assert not orphan.exists() and waiting.wait(10) != 0
    children = [p.name for p in Path("/proc").iterdir() if p.name.isdigit() and is_stub(p, server.process.pid)]
    server.stop()
    assert server.process.poll() is not None
    end = time.monotonic() + 30  # the kernel may take a moment to bury them
    while any(Path("/proc", c).exists() for c in children):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not list(Path("/dev/shm").glob(f"{server._shm_prefix}*"))


def test_the_gpu_configuration_reads_the_same_files_and_gives_the_same_scores(repository, triton, tmp_path):
    """A stand-in for the FIL backend is put where Triton looks for it, so that the default config really loads."""
    from serving.ranker.triton import Triton, backend_folder

    backends = backend_folder(tmp_path / "triton-backends")
    (backends / "fil").mkdir()
    (backends / "fil" / "model.py").write_text(FIL_STANDIN)
    with Triton(repository[0], tmp_path, config_name=None) as server:
        np.testing.assert_array_equal(infer(server, rows(200)), infer(triton, rows(200)))


def test_a_broken_repository_ends_in_one_error_with_the_log(tmp_path, triton):
    from serving.ranker.triton import Triton

    (tmp_path / "b" / "ranker" / "1").mkdir(parents=True)
    with pytest.raises(Unavailable, match="did not become ready"):
        Triton(tmp_path / "b", tmp_path / "state").start(20)


def test_an_unusable_booster_file_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="save_model"):
        write_repository(tmp_path / "none.ubj", F, tmp_path / "ranker")
