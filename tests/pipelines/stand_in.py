"""The HTTP API of Kubeflow Pipelines (v2beta1) as far as its client speaks it here, strict about what it is sent."""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import kfp_server_api
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

PREFIX = "/apis/v2beta1/"
BODIES = {"experiments": "V2beta1Experiment", "runs": "V2beta1Run", "recurringruns": "V2beta1RecurringRun"}
IDS = {"experiments": "experiment_id", "runs": "run_id", "recurringruns": "recurring_run_id"}


class Wrong(Exception):
    """What a caller sent does not fit the API's types."""


def check(value: Any, kind: str, where: str = "body") -> None:
    """Refuse what the API's own model `kind` has no place for."""
    if found := re.fullmatch(r"list\[(.+)\]", kind):
        for n, entry in enumerate(value):
            check(entry, found[1], f"{where}[{n}]")
    elif found := re.fullmatch(r"dict\(str, (.+)\)", kind):
        for name, entry in value.items():
            check(entry, found[1], f"{where}.{name}")
    elif (model := getattr(kfp_server_api, kind, None)) is not None:
        allowed = getattr(model, "allowable_values", None)
        if allowed is not None:
            if value not in allowed:
                raise Wrong(f"{where}: {value!r} is none of {allowed}")
            return
        types = {key: model.openapi_types[name] for name, key in model.attribute_map.items()}
        for key, entry in value.items():
            if key not in types:
                raise Wrong(f"{where}.{key}: unknown field of {kind}")
            check(entry, types[key], f"{where}.{key}")
    elif kind == "str" and where.endswith("max_concurrency"):
        int(value)  # 64 bits: JSON may carry them as a number or as a string
    elif kind in ("str", "int", "bool", "float") and not isinstance(
        value, {"float": (int, float)}.get(kind, eval(kind))
    ):
        raise Wrong(f"{where}: {value!r} is no {kind}")


def check_pipeline(spec: dict[str, Any]) -> None:
    """Refuse a pipeline that kfp's protocol buffers do not know, its Kubernetes settings among it."""
    json_format.ParseDict(spec.get("pipeline_spec", spec), PipelineSpec())
    platform = spec.get("platform_spec", {})
    json_format.ParseDict(platform, PlatformSpec())
    for config in (
        platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {}).values()
    ):
        json_format.ParseDict(config, KubernetesExecutorConfig())


class Kubeflow:
    """What a server holds. `progress` is what each further look at a run finds; the last one stays."""

    def __init__(self, token: str = "") -> None:
        self.token = token
        self.held: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in BODIES}
        self.seen: list[tuple[str, str, str]] = []  # method, path, authorization
        self.progress: list[dict[str, Any]] = []
        self.broken = 0  # so many answers to come are 503
        self.url = ""

    @property
    def runs(self) -> list[dict[str, Any]]:
        return list(self.held["runs"].values())

    @property
    def schedules(self) -> list[dict[str, Any]]:
        return list(self.held["recurringruns"].values())

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, dict[str, Any]]:
        kind, _, name = path.removeprefix(PREFIX).partition("/")
        if kind == "healthz":
            return 200, {"multi_user": False}
        if kind not in BODIES:
            return 404, {"message": f"no such path {path}"}
        held = self.held[kind]
        if method == "POST":
            try:
                check(body, BODIES[kind])
                if "pipeline_spec" in body:
                    check_pipeline(body["pipeline_spec"])
            except (Wrong, json_format.ParseError) as error:
                return 400, {"message": str(error)}
            made = body | {IDS[kind]: str(uuid.uuid4())} | ({"state": "PENDING"} if kind == "runs" else {})
            held[made[IDS[kind]]] = made
            return 200, made
        if name and name not in held:
            return 404, {"message": f"{kind} {name} not found"}
        if method == "DELETE":
            del held[name]
            return 200, {}
        if name:
            if kind == "runs" and self.progress:
                held[name] |= self.progress.pop(0) if len(self.progress) > 1 else self.progress[0]
            return 200, held[name]
        found = [
            entry
            for entry in held.values()
            if query.get("experiment_id", entry.get("experiment_id")) == entry.get("experiment_id")
        ]
        for predicate in json.loads(query.get("filter", "{}")).get("predicates", []):
            assert predicate["operation"] in (1, "EQUALS")
            found = [entry for entry in found if entry[predicate["key"]] == predicate["stringValue"]]
        return 200, {{"recurringruns": "recurringRuns"}.get(kind, kind): found[::-1]}


@contextmanager
def kubeflow(token: str = "") -> Iterator[Kubeflow]:
    """A server on loopback for as long as this lasts."""
    state = Kubeflow(token)

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            split = urlparse(self.path)
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            given = self.headers.get("Authorization", "")
            state.seen.append((self.command, split.path, given))
            query = {name: values[0] for name, values in parse_qs(split.query).items()}
            if state.broken:
                state.broken -= 1
                code, answer = 503, {"message": "starting"}
            elif state.token and given != f"Bearer {state.token}":
                code, answer = 401, {"message": "Request not authenticated"}
            else:
                code, answer = state.answer(self.command, split.path, query, body)
            raw = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_DELETE = do

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
