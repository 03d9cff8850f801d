"""The fast path: recommendations are answered here, in v1 and v2; everything else by KServe's own app.

KServe's path through FastAPI costs more than some stages of the engine; this one is a few function calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import orjson
from kserve import InferRequest, InferResponse

from longtail.errors import LongtailError
from serving.edge.guard import Entry, Guard, Guarded
from serving.edge.http import (
    JSON,
    RAW,
    App,
    Body,
    ClientGone,
    Header,
    Receive,
    Refusal,
    Scope,
    Send,
    header,
    refuse,
    respond,
)
from serving.edge.v2_rest import INFER, JSON_LENGTH, read, write

PREDICT = "/v1/models/recommender:predict"


class Answers(Protocol):
    """What the edge asks of the recommender; `InvalidInput` names a wrong field or tensor."""

    async def answer(self, body: bytes) -> bytes:
        """A whole v1 body in, a whole v1 answer out."""

    async def infer(self, request: InferRequest) -> InferResponse:
        """A v2 request in, its lists as tensors out."""


class Page(Protocol):
    """What a browser or a tool can read."""

    content: bytes
    content_type: bytes
    headers: Sequence[Header]


class Edge:
    """ASGI app in front of `inner`: guards every request, answers v1, v2 and `pages` (by path) itself."""

    def __init__(self, inner: App, model: Answers, guard: Guard, pages: Mapping[str, Page] | None = None) -> None:
        self._model, self._guard, self._pages = model, guard, pages or {}
        self._inner = Guarded(inner, guard)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] != "http":
            return await self._inner(scope, receive, send)
        entry = self._guard.check(scope)
        if entry.refusal is not None:
            return await refuse(entry.refusal, receive, send, entry.request_id)
        path, method = scope["path"], scope["method"]
        if path in (PREDICT, INFER):
            if method == "POST":
                return await self._recommend(entry, scope, receive, send)
            refusal = Refusal(405, f"{path} is asked by POST", "method", ((b"allow", b"POST"),))
            return await refuse(refusal, receive, send, entry.request_id)
        page = self._pages.get(path) if method in ("GET", "HEAD") else None
        if page is not None:
            return await respond(send, 200, page.content, entry.request_id, page.content_type, page.headers)
        return await self._inner.let_in(entry, scope, receive, send)

    async def _recommend(self, entry: Entry, scope: Scope, receive: Receive, send: Send) -> None:
        config = self._guard.config
        kind: bytes = JSON
        headers: tuple[Header, ...] = ()
        try:
            body = await Body(receive, config.max_body_bytes, config.body_timeout_s).read()
            if scope["path"] == PREDICT:
                status, answer = 200, await self._model.answer(body)
            else:
                status = 200
                answer, kind, headers = await self._infer(scope, body)
        except Refusal as refusal:
            return await refuse(refusal, receive, send, entry.request_id)
        except ClientGone:
            return None
        except LongtailError as error:
            status, answer = error.http_status, orjson.dumps({"error": str(error)})
        except Exception as error:  # noqa: BLE001 - the server's edge: one bad request must not end a connection
            status, answer = 500, self._inner.failures.told(entry.request_id, error)
        return await respond(send, status, answer, entry.request_id, kind, headers)

    async def _infer(self, scope: Scope, body: bytes) -> tuple[bytes, bytes, tuple[Header, ...]]:
        """(answer, content type, headers) of a v2 body."""
        request = read(body, header(scope, JSON_LENGTH))
        answer, json_length = write(request, await self._model.infer(request))
        if json_length is None:
            return answer, JSON, ()
        return answer, RAW, ((JSON_LENGTH, b"%d" % json_length),)
