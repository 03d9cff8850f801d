"""All of serving as real processes: answers, protocol, faults, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from benchmarks.load import Verdict, body_of, steady
from longtail.engine.bundle import ranker_name
from longtail.engine.deployment import Deployment, Variant
from longtail.errors import InvalidBundle, InvalidInput, Unavailable
from serving.local import LocalServing
from serving.ranker.triton import wheel
from tests.serving import small_bundle

pytestmark = pytest.mark.serving
ROOT = Path(__file__).resolve().parents[2]

try:
    wheel()
except Unavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)


@pytest.fixture(scope="module")
def serving(bundle_folder, tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    extra = ["--seed", "1", "--impressions", str(state / "impressions")]
    with LocalServing(bundle_folder, state, clock="data", extra=extra, supervise=False) as running:
        yield running


def post(url: str, body: bytes, content_type: str = "application/json") -> tuple[int, dict]:
    try:
        request = urllib.request.Request(url, body, {"content-type": content_type})
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=15) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def listening(pid: int) -> set[str]:
    """Local addresses that a process listens on."""
    inodes = {os.readlink(f)[8:-1] for f in Path(f"/proc/{pid}/fd").iterdir() if "socket:" in _link(f)}
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {line[1].rsplit(":", 1)[0] for line in lines if line[3] == "0A" and line[9] in inodes}


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def wait_for_level(serving: LocalServing, level: str, user: str = "u3", timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        answer = serving.recommend({"user_id": user, "k": 5})
        assert len(answer["items"]) == 5  # at every moment, on every rung
        if answer["level"] == level:
            return
        time.sleep(0.1)
    raise AssertionError(f"never got {level}, last {answer['level']}: {answer.get('cause')}")


def test_lists_of_a_known_person_a_stranger_and_a_click(serving):
    body = {"instances": [{"user_id": "u3", "k": 4}, {"k": 4}, {"k": 4, "context": {"events": [{"item_id": "i10"}]}}]}
    code, answer = post(serving.url, json.dumps(body).encode())
    lists = [[i["item_id"] for i in p["items"]] for p in answer["predictions"]]
    assert code == 200 and {p["level"] for p in answer["predictions"]} == {"full"}
    assert len({tuple(ids) for ids in lists}) == 3
    first = answer["predictions"][0]["items"][0]
    assert first.keys() >= {"item_id", "score", "source", "reason"}


@pytest.mark.parametrize(
    ("body", "content_type", "field"),
    [
        (b'{"instances": [{"k": 0}]}', "application/json", "instances[0].k"),
        (b'{"instances": {}}', "application/json", "instances"),
        (b"{}", "application/json", "instances"),
        (b"[1]", "application/json", "body"),
        (b"{", "application/json", ""),
        (b"\xff\xfe", "text/plain", "body"),
        (b"", "application/json", ""),
    ],
)
def test_malformed_requests_get_a_400_that_names_the_field(serving, body, content_type, field):
    code, answer = post(serving.url, body, content_type)
    assert code == 400 and field in answer["error"]


def test_another_content_type_is_read_as_json(serving):
    assert post(serving.url, b'{"instances": [{"k": 1}]}', "text/plain")[0] == 200


def test_all_parts_listen_on_loopback_only(serving):
    for process in (*serving.processes.values(), serving.triton.process):
        found = listening(process.pid)
        assert found and found <= {"0100007F", "0000000000000000FFFF00000100007F"}


def test_ready_and_metrics(serving):
    assert status(serving.ready_url) == 200
    with urllib.request.urlopen(f"http://127.0.0.1:{serving.http_port}/metrics", timeout=5) as reply:
        text = reply.read().decode()
    labels = 'level="full",made="live",surface="homepage",variant="champion"'
    assert f"longtail_lists_total{{{labels}}}" in text and "longtail_stage_seconds_bucket" in text


def test_servers_carry_no_training_library(serving):
    """Mapped files tell what a process loaded, whatever its modules say."""
    for name, process in serving.processes.items():
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert "/torch/" not in maps and "mlflow" not in maps, name


def test_dead_parts_lower_the_level_and_never_blank_the_list(serving):
    os.killpg(serving.triton.process.pid, signal.SIGKILL)
    serving.triton.process.wait()
    wait_for_level(serving, "unranked")
    retriever = serving.processes["retriever"]
    os.kill(retriever.pid, signal.SIGSTOP)  # a stalled part counts like a dead one, at its deadline
    wait_for_level(serving, "last_good")
    wait_for_level(serving, "popular_segment", "u11")  # known to the shop, and never asked for until now
    os.killpg(retriever.pid, signal.SIGKILL)
    retriever.wait()
    assert serving.recommend({"k": 3, "user_id": "a stranger"})["level"] == "popular"
    assert status(serving.ready_url) == 200  # the fallback must stay in rotation
    with urllib.request.urlopen(f"http://127.0.0.1:{serving.http_port}/metrics", timeout=5) as reply:
        text = reply.read().decode()
    assert 'longtail_degraded_total{cause="unavailable",stage="ranker"}' in text
    serving._launch("triton")
    serving._launch("retriever")
    wait_for_level(serving, "full")


@pytest.fixture
def watched(serving):
    """The same servers with their supervisor."""
    serving._stopping.clear()
    watcher = threading.Thread(target=serving._watch)
    watcher.start()
    yield serving
    serving._stopping.set()
    watcher.join()


def test_the_supervisor_brings_dead_parts_back(watched):
    os.killpg(watched.triton.process.pid, signal.SIGKILL)
    wait_for_level(watched, "unranked")
    wait_for_level(watched, "full")
    stubs = [p for p in psutil.Process(watched.triton.process.pid).children() if "stub" in p.name()]
    assert stubs
    for stub in stubs:
        stub.kill()
    wait_for_level(watched, "unranked")  # Triton itself still says that it is well
    wait_for_level(watched, "full")


def version(folder: Path) -> str:
    return json.loads((folder / "manifest.json").read_text())["version"]


def test_bundles_swap_under_load_without_a_failed_or_mixed_request(watched, bundle_folder, tmp_path):
    other, altered = tmp_path / "other", tmp_path / "altered"
    small_bundle.make(other, small_bundle.shop(seed=1))
    shutil.copytree(bundle_folder, altered)
    (altered / "fallback.json").write_text("{}")
    versions = [version(bundle_folder), version(other)]
    assert len({*versions}) == 2 and len({ranker_name(bundle_folder), ranker_name(other)}) == 2
    verdict, said = Verdict(), []

    def hear(answer):
        verdict.hear(answer)
        said.append((answer.prediction()["model_version"], answer.prediction()["variant"]))

    def serve(*expected: str) -> None:
        end = time.monotonic() + 120
        while {v["version"] for v in watched.status()["variants"].values()} != {*expected}:
            assert time.monotonic() < end, watched.status()
            time.sleep(0.2)

    def swaps() -> None:
        watched.offer(other)
        serve(versions[1])
        watched.offer(altered)
        end = time.monotonic() + 120
        while watched.status()["refused"] is None:
            assert time.monotonic() < end
            time.sleep(0.2)
        assert "altered" in watched.status()["refused"]["why"]
        halves = {"champion": Variant(bundle=other, share=0.5), "challenger": Variant(bundle=bundle_folder, share=0.5)}
        watched.offer(Deployment(variants=halves))
        serve(*versions)
        time.sleep(1)

    async def both() -> None:
        stopped = asyncio.Event()
        bodies = (body_of(user_id=f"u{n % 40}", k=5) for n in range(10**9))
        load = asyncio.create_task(steady([("127.0.0.1", watched.http_port)], bodies, 20, stopped, hear))
        try:
            await asyncio.to_thread(swaps)
        finally:
            stopped.set()
            await load

    asyncio.run(both())
    assert verdict.failed == verdict.empty == 0 and verdict.answers > 50, verdict
    assert {v for v, _ in said} == {*versions}
    assert {(versions[1], "champion"), (versions[0], "challenger")} <= {*said}
    of_user = {}
    for n in range(40):  # everybody stays with one variant
        answers = [watched.recommend({"user_id": f"u{n}", "k": 1}) for _ in range(2)]
        of_user[n] = {a["variant"] for a in answers}
    assert all(len(names) == 1 for names in of_user.values()) and len(set.union(*of_user.values())) == 2


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_parent_that_ends_leaves_no_process(bundle_folder, tmp_path, how):
    script = (
        "import sys, time, signal\nfrom pathlib import Path\nfrom serving.local import LocalServing\n"
        "signal.signal(signal.SIGTERM, lambda *a: sys.exit(0))\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # one in the background starts with it ignored
        f"s = LocalServing(Path({str(bundle_folder)!r}), Path({str(tmp_path)!r}), clock='data')\n"
        "s.report = lambda m: None\n"
        "try:\n    s.launch()\n"
        "    print(*[p.pid for p in (*s.processes.values(), s.triton.process)], flush=True)\n    time.sleep(600)\n"
        "finally:\n    s.stop()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    pids = [int(p) for p in parent.stdout.readline().split()]
    assert len(pids) == 3
    time.sleep(2)
    parent.send_signal(how)
    parent.wait(120)
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in pids if alive(pid)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_an_altered_bundle_and_a_taken_port_are_one_clear_line(bundle_folder, tmp_path, serving):
    with pytest.raises(InvalidInput, match="is taken"):
        LocalServing(bundle_folder, tmp_path, http_port=serving.http_port).start()
    with pytest.raises(InvalidBundle, match=r"no manifest\.json"):
        LocalServing(tmp_path, tmp_path / "state").start()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_starting_is_heard_at_once(bundle_folder, tmp_path, how):
    words = ["--bundle", str(bundle_folder), "--state", str(tmp_path), "--port", "0", "--clock", "data"]
    started = subprocess.Popen(
        [sys.executable, "-m", "serving.serve", *words], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert "starting bundle" in started.stdout.readline()
    time.sleep(1)
    begin = time.monotonic()
    started.send_signal(how)
    output, _ = started.communicate(timeout=30)
    assert time.monotonic() - begin < 15 and "Traceback" not in output
