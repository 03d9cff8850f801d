"""KServe's model server on an address of our choice: its own binds all interfaces, whatever is asked."""

from __future__ import annotations

import asyncio
import logging
import os

from grpc import aio
from kserve import Model, ModelServer
from kserve.constants.constants import FASTAPI_APP_IMPORT_STRING
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.rest.server import RESTServer

HOST_VARIABLE = "LONGTAIL_HOST"
MAX_MESSAGE = 256 * 1024 * 1024


def host() -> str:
    """Where servers listen: loopback, unless `LONGTAIL_HOST` says otherwise (0.0.0.0 in a container)."""
    return os.environ.get(HOST_VARIABLE, "127.0.0.1")


class _Probing(DataPlane):
    """Readiness probes ask the model's own `probe` where it has one; requests only look at its flag."""

    async def model_ready(self, model_name: str, disable_predictor_health_check: bool = False) -> bool:
        probe = getattr(self.model_registry.get_model(model_name), "probe", None)
        if probe is None or disable_predictor_health_check:
            return await super().model_ready(model_name, True)
        return await probe()


class _Grpc(GRPCServer):
    """KServe's gRPC server without its log line per call, bound to one address."""

    def __init__(self, address: str, server: ModelServer) -> None:
        super().__init__(
            server.grpc_port, server.dataplane, server.model_repository_extension, {}, grace_period=server.grace_period
        )
        self._address = address

    async def start(self, max_workers: int) -> None:
        servicer = InferenceServicer(self._data_plane, self._model_repository_extension)
        options = [("grpc.max_send_message_length", MAX_MESSAGE), ("grpc.max_receive_message_length", MAX_MESSAGE)]
        self._server = aio.server(interceptors=(ExceptionToStatusInterceptor(),), options=options)
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        self._server.add_insecure_port(self._address)
        await self._server.start()
        await self._server.wait_for_termination()


class Server(ModelServer):
    """One process, one model: REST always, gRPC where a port is given."""

    def __init__(self, http_port: int, grpc_port: int | None, grace_s: int = 5) -> None:
        super().__init__(
            http_port=http_port, grpc_port=grpc_port or 0, enable_grpc=grpc_port is not None, workers=1,
            enable_latency_logging=False, grace_period=grace_s,
        )  # fmt: skip
        self.dataplane = _Probing(self.registered_models)
        # One line per request costs more than some stages of the request.
        logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
        # KServe's client logs a traceback per failed call; the engine counts each, and logs it in one line.
        logging.getLogger("kserve.trace").setLevel(logging.CRITICAL)

    def serve(self, model: Model) -> None:
        """Serve one loaded model until SIGTERM or SIGINT, then drain."""
        self._register_and_check_atleast_one_model_is_ready([model])
        self._rest_server = RESTServer(
            FASTAPI_APP_IMPORT_STRING, self.dataplane, self.model_repository_extension, self.http_port,
            grace_period=self.grace_period,
        )  # fmt: skip
        self._rest_server.config.host = host()
        self.servers.append(self._rest_server.start())
        if self.enable_grpc:
            self._grpc_server = _Grpc(f"{host()}:{self.grpc_port}", self)
            self.servers.append(self._grpc_server.start(self.max_threads))
        asyncio.run(self._serve_all())

    async def _serve_all(self) -> None:
        self.register_signal_handler()
        await self._serve()
