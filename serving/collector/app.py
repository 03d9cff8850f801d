"""The collector over HTTP: a plain ASGI app, because a framework would cost more than the work of a request."""

from __future__ import annotations

import asyncio
import logging
import time

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from longtail.errors import InvalidInput, LongtailError
from longtail.metrics import COLLECTOR_ERRORS, COLLECTOR_EVENTS, COLLECTOR_REJECTED, COLLECTOR_REQUESTS
from serving.collector.desk import Desk, Sink
from serving.collector.feed import Feed
from serving.collector.intake import Intake
from serving.collector.log import say, told
from serving.edge.failures import Failures
from serving.edge.guard import Entry, Guard
from serving.edge.http import Body, ClientGone, Header, Receive, Refusal, Scope, Send, refuse, respond

EVENTS = "/v1/events"
RETRY_AFTER: tuple[Header, ...] = ((b"retry-after", b"1"),)


class Collector:
    """ASGI app: `POST /v1/events`, and `/healthz`, `/readyz`, `/metrics` for those who watch it.

    Started and stopped by the server's lifespan events; stopping stores everything that was taken. `tick_s` is the time
    between two rounds of upkeep.
    """

    def __init__(
        self, intake: Intake, sink: Sink, feed: Feed, guard: Guard, pending: int, tick_s: float = 1.0
    ) -> None:  # fmt: skip
        self._intake, self._sink, self._feed, self._guard = intake, sink, feed, guard
        self._pending, self._tick_s = pending, tick_s
        self._failures = Failures()
        self._desk: Desk | None = None
        self._beat: asyncio.Task | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        if scope["type"] != "http":
            return None
        entry = self._guard.check(scope)
        if entry.refusal is not None:
            return await refuse(entry.refusal, receive, send, entry.request_id)
        path, method = scope["path"], scope["method"]
        if path == EVENTS and method == "POST":
            return await self._events(entry, receive, send)
        if method in ("GET", "HEAD") and path in ("/healthz", "/readyz", "/metrics"):
            status, body, kind = self._watched(path)
            return await respond(send, status, body, entry.request_id, kind)
        if path == EVENTS:
            refusal = Refusal(405, f"{EVENTS} takes events by POST", "method", ((b"allow", b"POST"),))
        else:
            refusal = Refusal(404, f"events are sent to {EVENTS}", "path")
        return await refuse(refusal, receive, send, entry.request_id)

    async def _events(self, entry: Entry, receive: Receive, send: Send) -> None:
        config = self._guard.config
        headers: tuple[Header, ...] = ()
        try:
            body = await Body(receive, config.max_body_bytes, config.body_timeout_s).read()
            status, answer = await self._take(body)
        except Refusal as refusal:
            return await refuse(refusal, receive, send, entry.request_id)
        except ClientGone:
            return None
        except LongtailError as error:
            status, answer = error.http_status, orjson.dumps({"error": str(error)})
            headers = RETRY_AFTER if status in (429, 503) else ()
        except Exception as error:  # noqa: BLE001
            status, answer = 500, self._failures.told(entry.request_id, error)
        COLLECTOR_REQUESTS.labels(str(status)).inc()
        return await respond(send, status, answer, entry.request_id, headers=headers)

    async def _take(self, body: bytes) -> tuple[int, bytes]:
        if self._desk is None:
            raise InvalidInput("the collector has not started: serve it with lifespan events")
        judged = self._intake.judge(self._intake.events_of(body), time.time_ns() // 1000)
        new: list[bool] = []
        if judged.rows:
            new = await self._desk.take(judged.rows, judged.live)
        accepted = sum(new)
        COLLECTOR_EVENTS.labels("accepted").inc(accepted)
        COLLECTOR_EVENTS.labels("duplicate").inc(len(new) - accepted)
        COLLECTOR_EVENTS.labels("rejected").inc(len(judged.rejected))
        for rejected in judged.rejected:
            COLLECTOR_REJECTED.labels(rejected["reason"]).inc()
        answer = {"accepted": accepted, "duplicates": len(new) - accepted, "rejected": judged.rejected}
        return 200 if judged.rows else 400, orjson.dumps(answer)

    def _watched(self, path: str) -> tuple[int, bytes, bytes]:
        if path == "/metrics":
            return 200, generate_latest(), CONTENT_TYPE_LATEST.encode()
        if path == "/healthz":
            return 200, b'{"alive":true}', b"application/json"
        trouble = self._sink.trouble() if self._desk is not None else "starting or stopping"
        state = {"ready": trouble is None, "trouble": trouble, "live_behind": self._feed.behind}
        return 200 if trouble is None else 503, orjson.dumps(state), b"application/json"

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._desk = Desk(self._sink, self._feed, self._pending)
        await self._feed.tend()
        self._feed.fill()
        self._beat = asyncio.create_task(self._tend(), name="tend")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        desk, self._desk = self._desk, None
        self._beat.cancel()
        await asyncio.gather(self._beat, return_exceptions=True)
        await desk.close()
        await self._feed.close()
        await self._sink.close()
        say("stopped")
        await send({"type": "lifespan.shutdown.complete"})

    async def _tend(self) -> None:
        while True:
            for part in (self._sink, self._feed):
                try:
                    await part.tend()
                except Exception as error:  # noqa: BLE001
                    COLLECTOR_ERRORS.labels(type(error).__name__).inc()
                    say("upkeep_failed", logging.ERROR, error=told(error))
            await asyncio.sleep(self._tick_s)
