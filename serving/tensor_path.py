"""The quick way into a server that speaks tensors; everything else goes to KServe's own app."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import orjson

from longtail.errors import LongtailError
from serving.edge.http import JSON, App, Body, ClientGone, Receive, Refusal, Scope, Send
from serving.tensors import JSON_LENGTH, VERSION, pack, unpack

logger = logging.getLogger("longtail.tensors")
LONGEST, BODY_S = 256 << 20, 10.0


class Answers(Protocol):
    """A model that takes and gives arrays by name."""

    name: str

    async def propose(
        self, arrays: Mapping[str, np.ndarray], version: str | None
    ) -> tuple[Mapping[str, np.ndarray], str]:
        """(arrays, version of the bundle that made them); `LongtailError` says what is wrong."""


class TensorPath:
    """ASGI app in front of `inner`: answers `POST /v2/models/<name>/infer` where all tensors are raw."""

    def __init__(self, inner: App, model: Answers) -> None:
        self._inner, self._model, self._path = inner, model, f"/v2/models/{model.name}/infer"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        length = None
        if scope["type"] == "http" and scope["path"] == self._path and scope["method"] == "POST":
            length = next((value for name, value in scope["headers"] if name == JSON_LENGTH), None)
        if length is None or not length.isdigit():
            return await self._inner(scope, receive, send)
        headers = [(b"content-type", b"application/octet-stream")]
        try:
            body = await Body(receive, LONGEST, BODY_S).read()
            arrays, parameters = unpack("inputs", body, int(length))
            found, version = await self._model.propose(arrays, parameters.get(VERSION))
            parts = pack("outputs", found, {VERSION: version})
            status, answer = 200, b"".join(parts)
            headers.append((JSON_LENGTH, b"%d" % len(parts[0])))
        except ClientGone:
            return None
        except Refusal as refusal:
            status, answer, headers = refusal.status, orjson.dumps({"error": refusal.reason}), [(b"content-type", JSON)]
        except LongtailError as error:
            status, answer, headers = error.http_status, orjson.dumps({"error": str(error)}), [(b"content-type", JSON)]
        except Exception as error:
            logger.exception("a request failed")
            status, headers = 500, [(b"content-type", JSON)]
            answer = orjson.dumps({"error": f"{type(error).__name__}: {error}"})
        start = {"type": "http.response.start", "status": status}
        await send({**start, "headers": [*headers, (b"content-length", b"%d" % len(answer))]})
        await send({"type": "http.response.body", "body": answer})
        return None
