"""The guard in front of gRPC: the same keys and rates as on HTTP."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from longtail.metrics import REFUSED
from serving.edge.guard import Guard, address_of
from serving.edge.http import REQUEST_ID

# Health and metadata may be asked without a key, like their paths on HTTP.
PUBLIC = frozenset({"ServerLive", "ServerReady", "ModelReady"})
_STATUS = {401: grpc.StatusCode.UNAUTHENTICATED, 429: grpc.StatusCode.RESOURCE_EXHAUSTED}
_PEER = re.compile(r"ipv[46]:\[?([^\]]+?)\]?:\d+")


class GuardInterceptor(aio.ServerInterceptor):
    """Refuses calls with UNAUTHENTICATED or RESOURCE_EXHAUSTED; answers carry `x-request-id`."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Wrap the method's handler; all of the protocol's methods are unary."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        public = handler_call_details.method.rsplit("/", 1)[-1] in PUBLIC
        inner = handler.unary_unary

        async def guarded(request: Any, context: Any) -> Any:
            metadata = dict(context.invocation_metadata() or ())
            request_id = str(metadata.get(REQUEST_ID.decode()) or uuid.uuid4().hex)[:128]
            await context.send_initial_metadata(((REQUEST_ID.decode(), request_id),))
            if not public:
                _, refusal = self._guard.admit(key_of(metadata), _address(context.peer()))
                if refusal is not None:
                    REFUSED.labels(refusal.kind).inc()
                    context.set_trailing_metadata(tuple((n.decode(), v.decode()) for n, v in refusal.headers))
                    await context.abort(_STATUS[refusal.status], refusal.reason)
            return await inner(request, context)

        return grpc.unary_unary_rpc_method_handler(guarded, handler.request_deserializer, handler.response_serializer)


def key_of(metadata: dict[str, str]) -> bytes:
    """The API key of a call: `x-api-key`, or `authorization: Bearer KEY`."""
    bearer = metadata.get("authorization", "")
    found = metadata.get("x-api-key") or (bearer[7:].strip() if bearer[:7].lower() == "bearer " else "")
    return found.encode()


def _address(peer: str) -> str:
    found = _PEER.fullmatch(peer)
    return address_of({"client": (found.group(1), 0)}) if found else peer
