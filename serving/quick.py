"""The quick way into a model that takes raw tensors over REST; everything else goes to KServe's own app."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import orjson

from longtail.errors import InvalidInput
from serving.edge.failures import Failures
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
from serving.tensors import JSON_LENGTH, raw_response, read_raw

MAX_BODY, BODY_S = 256 * 1024 * 1024, 30.0


class Answers(Protocol):
    """A model that takes and gives arrays by name."""

    name: str

    async def propose(
        self, arrays: Mapping[str, np.ndarray], version: str | None
    ) -> tuple[Mapping[str, np.ndarray], str]:
        """(arrays, version of the bundle that made them); `InvalidInput` says what is wrong."""


class Quick:
    """ASGI app in front of `inner` that answers inferences of one model whose tensors are raw.

    They are answered with raw tensors. KServe's objects and FastAPI, which it does without, cost more than the call
    itself. A caller that closes its connection has given up: a call that waits for its turn is let go.
    """

    def __init__(self, inner: App, model: Answers) -> None:
        self._inner, self._model, self._failures = inner, model, Failures()
        self._path = f"/v2/models/{model.name}/infer"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            return await self._inner(scope, receive, send)
        json_length = header(scope, JSON_LENGTH)
        if json_length is None:
            return await self._inner(scope, receive, send)
        status, kind, headers = 200, RAW, ()
        try:
            body = await Body(receive, MAX_BODY, BODY_S).read()
            answer, headers = await self._answer(body, json_length, receive)
        except Refusal as refusal:
            return await refuse(refusal, receive, send, b"")
        except ClientGone:
            return None
        except InvalidInput as error:
            status, kind, answer = 400, JSON, orjson.dumps({"error": str(error)})
        except Exception as error:  # noqa: BLE001 - the server's edge: one bad request must not end a connection
            status, kind, answer = 500, JSON, self._failures.told(b"", error)
        return await respond(send, status, answer, b"", kind, headers)

    async def _answer(self, body: bytes, json_length: bytes, receive: Receive) -> tuple[bytes, tuple[Header, ...]]:
        if not json_length.isdigit() or len(json_length) > 12:
            raise InvalidInput(f"{JSON_LENGTH.decode()}: must be the length of the body's JSON")
        asked = read_raw(body, int(json_length), "inputs")
        waiting = asyncio.current_task()
        assert waiting is not None
        gone = asyncio.ensure_future(receive())  # comes back when the caller has closed the connection
        gone.add_done_callback(lambda gone: None if gone.cancelled() else waiting.cancel())
        try:
            found, version = await self._model.propose(asked.arrays, asked.version)
        except asyncio.CancelledError:
            if gone.done() and not gone.cancelled():
                raise ClientGone from None
            raise
        finally:
            gone.cancel()
        answer, length = raw_response(self._model.name, found, version, asked.id)
        return answer, ((JSON_LENGTH, b"%d" % length),)
