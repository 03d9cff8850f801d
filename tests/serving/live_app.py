"""An ASGI app on a real socket of this process, served as the product serves it: uvicorn, httptools, uvloop."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
import uvloop

from serving.process import LOOPBACK, free_port


@contextmanager
def live(app: Any, **options: Any) -> Iterator[str]:
    """Yields the address of the running app; ends it on exit."""
    port = free_port()
    config = uvicorn.Config(app, LOOPBACK, port, log_config=None, access_log=False, http="httptools", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: uvloop.run(server.serve()), daemon=True)
    thread.start()
    for _ in range(1000):
        if server.started or not thread.is_alive():
            break
        thread.join(0.01)
    assert server.started, "the app did not start"
    try:
        yield f"http://{LOOPBACK}:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def connect(url: str) -> socket.socket:
    """A raw connection to a running app, for what no HTTP client would send."""
    host, port = url.removeprefix("http://").split(":")
    found = socket.create_connection((host, int(port)), timeout=5)
    found.settimeout(5)
    return found


def kserve_app(model: Any) -> Any:
    """KServe's own REST app around a model, made afresh: its module holds only one for a whole process."""
    from fastapi import FastAPI
    from kserve.model_repository import ModelRepository
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.model_repository_extension import ModelRepositoryExtension
    from kserve.protocol.rest.server import RESTServer

    models = ModelRepository()
    models.update(model)
    rest = RESTServer("unused", DataPlane(models), ModelRepositoryExtension(models), 0)
    app = FastAPI()
    rest._register_endpoints(app)
    rest._add_exception_handlers(app)
    return app
