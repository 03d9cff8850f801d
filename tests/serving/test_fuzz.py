"""Anything may be sent: no answer is a 5xx, none hangs, memory stays flat, and what is right gets a list.

`make fuzz` sends 100,000 and tells what came back; the suite sends a few hundred, the same ones each time.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.parse import quote, urlencode

import grpc
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from schemathesis import GenerationMode

from longtail.schema import EVENT_TYPES
from longtail.surfaces.builtin import BUILTIN
from serving.edge.app import PREDICT
from serving.edge.openapi import EVENTS, build
from serving.edge.v2 import INPUTS, OUTPUTS
from serving.edge.v2_rest import INFER
from serving.process import LOOPBACK, free_port, spawn, stop, tail, wait_until

pytestmark = pytest.mark.serving
ROOT = Path(__file__).resolve().parents[2]
COUNT = int(os.environ.get("LONGTAIL_FUZZ", "600"))
HANGS_S = 30.0
# Bodies sent for each one that hypothesis draws: making one takes longer than answering it, changing one does not.
EACH = 4 if COUNT <= 600 else 15
SHARES = {"predict": 0.38, "infer": 0.2, "events": 0.25, "grpc": 0.05, "openapi": 0.1, "reads": 0.02}


@dataclass
class Target:
    """One running server, what it answered so far, and its memory early on."""

    process: Popen
    port: int
    log: Path
    codes: Counter = field(default_factory=Counter)
    line: http.client.HTTPConnection | None = None
    early_mb: float = 0.0
    sent: int = 0

    def ask(self, method: str, path: str, body: Any, headers: dict, chunked: bool = False) -> tuple[int, bytes]:
        """Send one request on a kept connection; a server that closed it is met again, one that hangs is a failure."""
        for fresh in (False, True):
            if self.line is None or fresh:
                self.line = http.client.HTTPConnection(LOOPBACK, self.port, timeout=HANGS_S)
            try:
                self.line.request(method, path, body=body, headers=headers, encode_chunked=chunked)
                reply = self.line.getresponse()
                found = reply.read()
                break
            except TimeoutError:
                raise AssertionError(f"{method} {path} hangs: {str(body)[:500]}") from None
            except (ConnectionError, http.client.BadStatusLine):
                self.line.close()
                assert not fresh, f"no answer to {method} {path}: {str(body)[:500]}\n{tail(self.log)}"
        self.heard(reply.status, found, body)
        return reply.status, found

    def heard(self, status: int, found: bytes, body: Any) -> None:
        """Judge one answer."""
        self.count(status)
        assert status < 500, f"{status} for {str(body)[:500]}: {found[:300]!r}\n{tail(self.log, 30)}"
        if status == 400 and found[:1] == b"{":
            assert json.loads(found).get("error") or json.loads(found).get("rejected"), found

    def count(self, code: int | str) -> None:
        """One more answer; the memory of the server is noted when it has seen a twentieth of all."""
        self.codes[code] += 1
        self.sent += 1
        if self.sent == COUNT // 20:
            self.early_mb = self.memory_mb()

    def memory_mb(self) -> float:
        """Resident memory of the server."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) / 1024


def started(module: str, words: list, folder: Path, ready: str, port: int) -> Target:
    log = folder / f"{module}.log"
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LONGTAIL_PSEUDONYM_KEY": "ab" * 32}
    process = spawn([sys.executable, "-m", module, *map(str, words)], log, env)

    def answers() -> bool:
        try:
            line = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
            line.request("GET", ready)
            return line.getresponse().status == 200
        except OSError:
            return False

    assert wait_until(answers, process, 90), tail(log, 30)
    return Target(process, port, log)


@pytest.fixture(scope="module")
def recommender(bundle_folder, tmp_path_factory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("fuzz")
    port, rpc = free_port(), free_port()
    words = [bundle_folder, folder, port, rpc]
    target = started("tests.serving.fuzz_server", words, folder, "/v2/models/recommender/ready", port)
    target.rpc = rpc
    yield target
    judge("recommender", target)


@pytest.fixture(scope="module")
def collector(tmp_path_factory) -> Iterator[Target]:
    folder, port = tmp_path_factory.mktemp("fuzz-collector"), free_port()
    words = ["--state", folder / "state", "--port", port]
    target = started("serving.collector", words, folder, "/readyz", port)
    yield target
    judge("collector", target)


def judge(name: str, target: Target) -> None:
    """The server is still there, as large as it was early on, and its log knows of no mistake of its own."""
    now = target.memory_mb() if target.process.poll() is None else float("nan")
    log = target.log.read_text(errors="replace")
    stop(target.process)
    print(f"\n{name}: {target.sent} requests, {dict(target.codes)}, {target.early_mb:.0f} -> {now:.0f} MB")
    assert now == now, f"the {name} died:\n{tail(target.log, 30)}"
    assert now < target.early_mb * 1.1 + 40, f"the {name} grew from {target.early_mb:.0f} to {now:.0f} MB"
    assert "Traceback" not in log, log[max(0, log.index("Traceback") - 300) :][:6000]


def many(kind: str):
    """Settings for this test's share of the requests; the same ones each time, unless more than usual are sent."""
    return settings(
        max_examples=max(20, int(COUNT * SHARES[kind] / (EACH if kind in ("predict", "infer", "events") else 1))),
        deadline=None, database=None, derandomize=COUNT <= 600,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink], print_blob=False,
    )  # fmt: skip


# --- what is sent ---

ODD = (
    "",
    " ",
    "\0",
    "\x7f",
    "a" * 257,
    "a" * 5000,
    "\ud800",
    "💥" * 70,
    "../../etc",
    "' OR 1=1 --",
    "NaN",
    "1e999",
    "null",
)
words = st.sampled_from((*ODD, "u3", "u17", "i10", "i1", "homepage", "north", "c1/d3")) | st.text(max_size=12)
ODD_NUMBERS = (0, -1, 1, 500, 501, 2**31, 2**63, 2**64, 10**400, -0.0, 1e308, float("nan"), float("inf"))
numbers = st.integers() | st.floats() | st.sampled_from(ODD_NUMBERS)
leaves = st.none() | st.booleans() | numbers | words
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4), max_leaves=12
)
moments = st.datetimes().map(lambda t: t.isoformat() + "Z") | st.sampled_from(
    ("2024-02-30T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59Z", "1970-01-01", "now", 0, 1e20, -1)
)
ids = st.sampled_from(("u1", "u3", "u79", "i0", "i1", "i10", "i59", "gone", 17, 0)) | words


def often(times: int) -> st.SearchStrategy[bool]:
    """True so many times of one more."""
    return st.sampled_from((True,) * times + (False,))


def mostly(right: st.SearchStrategy, times: int = 9) -> st.SearchStrategy:
    """What belongs there, so many times of one more, else anything."""
    return often(times).flatmap(lambda as_it_should: right if as_it_should else anything)


def some(**fields: st.SearchStrategy) -> st.SearchStrategy:
    """An object with any of these fields, and now and then one that does not belong there."""
    known = st.fixed_dictionaries({}, optional={name: mostly(value, 40) for name, value in fields.items()})
    extra = st.integers(0, 15).flatmap(
        lambda n: st.dictionaries(words, anything, max_size=2) if n == 0 else st.just({})
    )
    return st.builds(lambda a, b: {**a, **b}, known, extra)


session = some(item_id=ids, event_type=st.sampled_from(EVENT_TYPES), timestamp=moments, quantity=numbers)
context = some(
    events=st.lists(session, max_size=6), items=st.lists(ids, max_size=4), category=words, region=words,
    age=st.integers(-1, 160), device=words, timestamp=moments, request_id=words, session_id=words, trace=st.booleans(),
)  # fmt: skip
instance = some(
    user_id=ids, surface=st.sampled_from(tuple(BUILTIN)) | words, k=st.integers(-1, 60), context=context,
    trace=st.booleans(),
)  # fmt: skip
sold = st.sampled_from(("i3", "i9", "i10"))
plain = st.fixed_dictionaries(
    {},
    optional={
        "user_id": st.sampled_from(("u1", "u3", 17)) | st.uuids().map(str), "k": st.integers(1, 60),
        "surface": st.sampled_from(sorted(BUILTIN.keys() - {"category_page"})),
        "trace": st.booleans(),
        "context": st.fixed_dictionaries(
            {},
            optional={
                "events": st.lists(st.fixed_dictionaries({"item_id": sold}), max_size=5),
                "items": st.lists(sold, max_size=3),
                "region": st.sampled_from(("north", "south", "mars")), "age": st.integers(0, 99),
            },
        ),
    },
)  # fmt: skip
requests = st.one_of(
    st.fixed_dictionaries({"instances": st.lists(instance, min_size=1, max_size=4)}),
    st.fixed_dictionaries({"instances": st.lists(plain, min_size=1, max_size=6)}),
    some(instances=mostly(st.lists(instance, max_size=3))),
    anything,
)
event = some(
    event_id=words | st.uuids().map(str), user_id=ids, item_id=ids, event_type=st.sampled_from(EVENT_TYPES),
    timestamp=moments, session_id=words, surface=words, position=numbers, request_id=words, value=numbers,
    dwell_ms=numbers, device=words, quantity=numbers, propensity=st.floats(0, 1), region=words,
)  # fmt: skip
plain_event = st.fixed_dictionaries(
    {
        "event_id": st.uuids().map(str) | st.sampled_from(("e1", "e2")), "item_id": sold,
        "event_type": st.sampled_from(EVENT_TYPES), "user_id": st.sampled_from(("u1", 17)) | st.uuids().map(str),
    },
    optional={"position": st.integers(0, 50), "quantity": st.integers(1, 9), "session_id": words, "colour": anything},
)  # fmt: skip
batches = st.one_of(
    plain_event,
    st.fixed_dictionaries({"events": st.lists(plain_event | event, min_size=1, max_size=6)}),
    event,
    anything,
)


def tensor_of(names: list[str]) -> st.SearchStrategy:
    return st.integers(0, 4).flatmap(
        lambda rows: some(
            name=st.sampled_from(names), shape=st.sampled_from(([rows], [rows, 1], [1], [rows, 2], [])),
            datatype=st.sampled_from(("BYTES", "INT64", "INT8", "FP32", "FP16", "BOOL", "COMPLEX")),
            data=st.lists(mostly(words), min_size=rows, max_size=rows),
            parameters=some(binary_data_size=st.integers(-1, 40)),
        )
    )  # fmt: skip


def good_tensors(rows: int) -> st.SearchStrategy:
    def text(name: str, values: st.SearchStrategy) -> st.SearchStrategy:
        data = st.lists(values, min_size=rows, max_size=rows)
        return data.map(lambda d: {"name": name, "shape": [rows], "datatype": "BYTES", "data": d})

    k = st.integers(0, 30).map(lambda n: {"name": "k", "shape": [1], "datatype": "INT64", "data": [n]})
    surface = text("surface", st.sampled_from(tuple(BUILTIN)))
    more = st.lists(st.one_of(k, surface, text("context", context.map(dumps)), text("region", words)), max_size=2)
    return st.tuples(text("user_id", words), more).map(lambda found: [found[0], *found[1]])


def dumps(value: Any) -> str:
    return json.dumps(value, default=str)


tensors = st.one_of(
    st.integers(0, 4).flatmap(good_tensors).map(lambda found: {"inputs": found}),
    some(
        id=words, parameters=some(binary_data_output=st.booleans()),
        inputs=st.lists(tensor_of([t["name"] for t in INPUTS]), max_size=4),
        outputs=st.lists(some(name=st.sampled_from([t["name"] for t in OUTPUTS]), parameters=anything), max_size=3),
    ),
    anything,
)  # fmt: skip


@st.composite
def bodies(draw: Any, values: st.SearchStrategy) -> bytes:
    """JSON of a value, usually whole; else cut, spoilt, nested beyond reason, or no JSON at all."""
    how = draw(st.sampled_from(("whole",) * 15 + ("noise", "deep", "cut", "spoilt", "followed")))
    if how == "noise":
        return draw(st.binary(max_size=200))
    if how == "deep":
        many = draw(st.sampled_from((10, 500, 20_000)))
        return draw(st.sampled_from((b"[", b'{"instances":', b'{"a":['))) * many + draw(
            st.just(b"") | st.just(b"]" * many)
        )
    body = dumps(draw(values)).encode()
    if how == "cut":
        return body[: draw(st.integers(0, len(body)))]
    if how == "spoilt" and body:
        at = draw(st.integers(0, len(body) - 1))
        return body[:at] + draw(st.binary(min_size=1, max_size=4)) + body[at + 1 :]
    if how == "followed":
        return body + draw(st.sampled_from((b" ", b"\n", b"{}", b"\0", body)))
    return body


def changed(body: bytes, rng: random.Random) -> bytes:
    """The same JSON with one or two places taken out, doubled, or replaced by another place or something odd."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        at = rng.randrange(len(body) + 1)
        return body[:at] + rng.randbytes(rng.randrange(3)) + body[at + rng.randrange(3) :]
    for _ in range(rng.choice((1, 1, 2))):
        places = list(places_of([value]))
        holder, key = rng.choice(places)
        how = rng.randrange(4)
        if how == 0 and holder is not places[0][0]:
            del holder[key]
        elif how == 1 and isinstance(holder, list):
            holder.insert(0, holder[key])
        elif how == 2:
            other, name = rng.choice(places)
            holder[key] = json.loads(dumps(other[name]))
        else:
            holder[key] = rng.choice((*ODD, *ODD_NUMBERS, [], {}, None, True, [[]], {"": {}}, "u3", "i3", 3))
        value = places[0][0][0]
    return dumps(value).encode()


def places_of(holder: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) below a container, outermost first."""
    for key in list(range(len(holder)) if isinstance(holder, list) else holder):
        yield holder, key
        if isinstance(holder[key], (list, dict)):
            yield from places_of(holder[key])


def each_of(body: bytes, seed: int) -> Iterator[bytes]:
    """The body, and changed ones."""
    yield body
    rng = random.Random(seed)
    for _ in range(EACH - 1):
        yield changed(body, rng)


headers = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(("application/json", "text/plain", "application/octet-stream", "x", "")),
        "X-Request-Id": st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=140),
        "Authorization": st.sampled_from(("Bearer", "Bearer x", "Basic eDp5", "")),
        "ce-id": st.just("1"),
        "Accept": st.just("text/html"),
    },
)
methods = st.sampled_from(("POST",) * 60 + ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"))
in_chunks = often(9).map(lambda whole: not whole)


def pieces(body: bytes, chunked: bool) -> Any:
    return [body[n : n + 700] for n in range(0, len(body), 700)] if chunked else body


# --- what must come back ---


@many("predict")
@given(body=bodies(requests), given_headers=headers, method=methods, chunked=in_chunks, seed=st.integers(0, 2**32))
def test_predict(recommender, body, given_headers, method, chunked, seed):
    for sent in each_of(body, seed):
        status, found = recommender.ask(method, PREDICT, pieces(sent, chunked), given_headers, chunked)
        assert status in (200, 400, 405, 413)
        if status == 200:
            asked, lists = json.loads(sent)["instances"], json.loads(found)["predictions"]
            assert len(lists) == len(asked)
            for instance, answer in zip(asked, lists, strict=True):
                shown = [item["item_id"] for item in answer["items"]]
                assert len(set(shown)) == len(shown) <= (instance.get("k") or 500) and "i0" not in shown
                assert shown or (instance.get("context") or {}).get("category"), "an empty list"


@many("infer")
@given(
    body=bodies(tensors), given_headers=headers, off=st.integers(-2, 9), seed=st.integers(0, 2**32),
    tail_bytes=often(3).flatmap(lambda none: st.none() if none else st.binary(max_size=40)),
)  # fmt: skip
def test_infer(recommender, body, given_headers, tail_bytes, off, seed):
    for sent in each_of(body, seed):
        if tail_bytes is not None:
            length = str(len(sent) + min(off, 0))
            sent, given_headers = sent + tail_bytes, {**given_headers, "Inference-Header-Content-Length": length}
        status, found = recommender.ask("POST", INFER, sent, given_headers)
        assert status in (200, 400, 413)
        if status == 200 and tail_bytes is None:
            json.loads(found)


@many("events")
@given(body=bodies(batches), given_headers=headers, method=methods, chunked=in_chunks, seed=st.integers(0, 2**32))
def test_events(collector, body, given_headers, method, chunked, seed):
    for sent in each_of(body, seed):
        status, found = collector.ask(method, EVENTS, pieces(sent, chunked), given_headers, chunked)
        assert status in (200, 400, 405, 413)
        if status == 200:
            told, asked = json.loads(found), json.loads(sent)
            assert told["accepted"] + told["duplicates"] + len(told["rejected"]) == len(asked.get("events", [asked]))


reads = sorted(path for path, verbs in build()["paths"].items() if "get" in verbs)
words = st.text(max_size=30)


@many("reads")
@given(
    path=st.sampled_from(reads), more=often(4).flatmap(lambda none: st.just("") if none else words),
    query=st.dictionaries(words, words, max_size=2), given_headers=headers, method=st.sampled_from(("GET", "HEAD")),
)  # fmt: skip
def test_reads(recommender, path, more, query, given_headers, method):
    target = path + quote(more, errors="replace") + (f"?{urlencode(query, errors='replace')}" if query else "")
    status, _ = recommender.ask(method, target, None, given_headers)
    assert status in ((200, 404, 405) if more else (200, 405)), target


@many("grpc")
@given(data=st.data())
def test_grpc(recommender, data):
    names = st.sampled_from([t["name"] for t in INPUTS]) | st.text(max_size=5)
    found = data.draw(
        st.lists(
            st.tuples(
                names, st.sampled_from(("BYTES", "INT64", "FP32", "X")), st.lists(st.integers(-1, 4), max_size=3)
            ),
            max_size=4,
        )
    )
    request = pb.ModelInferRequest(model_name="recommender")
    raw = data.draw(st.booleans())
    for name, datatype, shape in found:
        tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
        if raw:
            request.raw_input_contents.append(data.draw(st.binary(max_size=20)))
        else:
            tensor.contents.bytes_contents.extend(data.draw(st.lists(st.binary(max_size=6), max_size=3)))
    if not hasattr(recommender, "channel"):
        recommender.channel = grpc.insecure_channel(f"{LOOPBACK}:{recommender.rpc}")
    try:
        GRPCInferenceServiceStub(recommender.channel).ModelInfer(request, timeout=HANGS_S)
        recommender.count("OK")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, f"{error.code()}: {request}"
        recommender.count("INVALID_ARGUMENT")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", [PREDICT, INFER, EVENTS])
def test_the_document(request, path, mode):
    """What the OpenAPI document calls right and wrong; answers must be as the document says, and right bodies taken."""
    target: Target = request.getfixturevalue("collector" if path == EVENTS else "recommender")
    document = build()
    # Which surfaces there are and what they need is the shop's own affair, so the document leaves it open.
    surfaces = sorted(BUILTIN.keys() - {"category_page"})
    schemas = document["components"]["schemas"]
    schemas["Instance"]["properties"]["surface"]["enum"] = surfaces
    for name in ("Context", "SessionEvent"):  # OpenAPI has no words for a range of time
        schemas[name]["properties"]["timestamp"] = {"enum": [None, "1990-01-01T00:00:00Z", "2099-12-31T23:59:59+14:00"]}
    operation = schemathesis.openapi.from_dict(document)[path]["POST"]
    checks = [
        schemathesis.checks.not_a_server_error, schemathesis.checks.status_code_conformance,
        schemathesis.checks.content_type_conformance, schemathesis.checks.response_schema_conformance,
        schemathesis.checks.response_headers_conformance,
    ]  # fmt: skip
    if mode == GenerationMode.POSITIVE and path == PREDICT:
        checks.append(schemathesis.checks.positive_data_acceptance)

    @settings(many("openapi"), max_examples=max(15, int(COUNT * SHARES["openapi"] / 6)))
    @given(case=operation.as_strategy(mode))
    def run(case: Any) -> None:
        answer = case.call(base_url=f"http://{LOOPBACK}:{target.port}", timeout=HANGS_S)
        target.heard(answer.status_code, answer.content, case.body)
        case.validate_response(answer, checks=checks)

    run()
