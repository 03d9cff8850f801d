"""KServe's model server on an address of our choice: its own binds all interfaces, whatever is asked."""

from __future__ import annotations

import logging
import os

import uvloop
from grpc import aio
from kserve import Model, ModelServer
from kserve.constants.constants import FASTAPI_APP_IMPORT_STRING
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady
from kserve.model_server import app as kserve_app
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.rest.server import RESTServer

from longtail import errors
from serving.edge.app import Edge
from serving.edge.grpc import GuardInterceptor
from serving.edge.guard import Guard
from serving.edge.pages import pages
from serving.quick import Quick

HOST_VARIABLE = "LONGTAIL_HOST"
AGE_VARIABLE = "LONGTAIL_GRPC_CONNECTION_AGE_S"
AGE_S = 30.0
MAX_MESSAGE = 256 * 1024 * 1024
GRACE_MS = 30_000


def host() -> str:
    """Where servers listen: loopback, unless `LONGTAIL_HOST` says otherwise (0.0.0.0 in a container)."""
    return os.environ.get(HOST_VARIABLE, "127.0.0.1")


def connection_age_ms() -> int:
    """How long a gRPC connection lives: `LONGTAIL_GRPC_CONNECTION_AGE_S` seconds, 30 unless set, 0 for ever.

    A client looks its servers up again when a connection ends: else it would never find a pod that came later. Calls in
    flight are answered first.

    Raises:
        InvalidInput: it is not a number of seconds.
    """
    given = os.environ.get(AGE_VARIABLE, str(AGE_S))
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise errors.InvalidInput(f"{AGE_VARIABLE}={given}: must be seconds from 0 (for ever) to a million")
    return int(seconds * 1000) if seconds else 2**31 - 1  # gRPC's word for never


class _Terse(logging.Filter):
    """Drops KServe's traceback for each mistake of a client and each early probe: both are told by their status."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, (InvalidInput, ModelNotFound, ModelNotReady))


class _Probing(DataPlane):
    """Readiness probes ask the model's own `probe` where it has one; requests only look at its flag."""

    async def model_ready(self, model_name: str, disable_predictor_health_check: bool = False) -> bool:
        probe = getattr(self.model_registry.get_model(model_name), "probe", None)
        if probe is None or disable_predictor_health_check:
            return await super().model_ready(model_name, True)
        return await probe()


class _Grpc(GRPCServer):
    """KServe's gRPC server without its log line per call, bound to one address and behind the guard."""

    def __init__(self, address: str, server: Server, guard: Guard) -> None:
        super().__init__(
            server.grpc_port, server.dataplane, server.model_repository_extension, {}, grace_period=server.grace_period
        )
        self._address, self._guard = address, guard
        self._age_ms = server.connection_age_ms

    async def start(self, max_workers: int) -> None:
        options = [
            ("grpc.max_send_message_length", MAX_MESSAGE),
            ("grpc.max_receive_message_length", self._guard.config.max_body_bytes),
            # A caller looks up a name again when a connection ends: only then does it find pods that are new.
            ("grpc.max_connection_age_ms", self._age_ms),
            ("grpc.max_connection_age_grace_ms", GRACE_MS),
        ]
        before = (GuardInterceptor(self._guard), ExceptionToStatusInterceptor())
        self._server = aio.server(interceptors=before, options=options)
        servicer = InferenceServicer(self._data_plane, self._model_repository_extension)
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        self._server.add_insecure_port(self._address)
        await self._server.start()
        await self._server.wait_for_termination()


class Server(ModelServer):
    """One process, one model: REST always, gRPC where a port is given and a guard stands before it."""

    def __init__(self, http_port: int, grpc_port: int | None = None, grace_s: int = 5) -> None:
        """Nothing listens yet.

        Raises:
            InvalidInput: a setting of the environment is wrong.
        """
        self.connection_age_ms = connection_age_ms() if grpc_port is not None else 0
        super().__init__(
            http_port=http_port, grpc_port=grpc_port or 0, enable_grpc=grpc_port is not None, workers=1,
            enable_latency_logging=False, grace_period=grace_s,
        )  # fmt: skip
        self.dataplane = _Probing(self.registered_models)
        logging.getLogger("kserve").addFilter(_Terse())
        # KServe's client logs a traceback per failed call; the engine counts each, and logs it in one line.
        logging.getLogger("kserve.trace").setLevel(logging.CRITICAL)

    def serve(self, model: Model, guard: Guard | None = None) -> None:
        """Serve one loaded model until SIGTERM or SIGINT, then drain.

        With a guard it is the recommender, which faces the world: keys, rates and sizes hold on REST and gRPC, and the
        edge answers `model.answer` and `model.infer` itself instead of KServe's FastAPI. Without, it is the retriever,
        whose `model.propose` takes raw tensors through `Quick`.
        """
        self._register_and_check_atleast_one_model_is_ready([model])
        self._rest_server = RESTServer(
            FASTAPI_APP_IMPORT_STRING, self.dataplane, self.model_repository_extension, self.http_port,
            grace_period=self.grace_period,
        )  # fmt: skip
        self._rest_server.config.host = host()
        # One line per request costs more than some stages of it, and so does making one that nobody gets.
        access = logging.getLogger("uvicorn.access")
        access.handlers, access.propagate = [], False
        kserve_app.router.redirect_slashes = False  # behind a proxy it would name an address that is not the caller's
        self._rest_server.config.app = Edge(kserve_app, model, guard, pages()) if guard else Quick(kserve_app, model)
        self.servers.append(self._rest_server.start())
        if guard and self.enable_grpc:
            self._grpc_server = _Grpc(f"{host()}:{self.grpc_port}", self, guard)
            self.servers.append(self._grpc_server.start(self.max_threads))
        uvloop.run(self._serve_all())

    async def _serve_all(self) -> None:
        self.register_signal_handler()
        await self._serve()
