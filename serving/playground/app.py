"""The playground's server: static files of the page, and the few questions that it asks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mimetypes
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from longtail.errors import InvalidInput, LongtailError
from longtail.schema import EVENT_STRENGTH
from serving.playground.shelf import Shelf
from serving.playground.upstream import Upstream

PAGE = Path(__file__).with_name("page")
MAX_BODY = 256 * 1024
MAX_IDS = 200
MAX_PEOPLE = 60
MAX_TEXT = 64
MAX_K = 100
MAX_EVENTS = 50
PREDICT = "/v1/models/recommender:predict"
HEADERS = {
    # Titles and picture addresses come from a shop's catalogue: nothing in them may run or load code.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
    "connect-src 'self'; img-src 'self' data: http: https:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
logger = logging.getLogger("longtail.playground")


@dataclass(frozen=True)
class Playground:
    """What the page talks to: a bundle to name things, a recommender, and a collector where there is one."""

    shelf: Shelf
    recommender: Upstream
    collector: Upstream | None = None

    async def about(self, request: Request) -> Response:
        """What does not change: the bundle, its surfaces, regions, categories, and words for sources and features."""
        shelf = self.shelf
        return answer(
            {
                "version": shelf.manifest.version,
                "created": shelf.manifest.created,
                "items": len(shelf.items),
                "people": len(shelf.people),
                "surfaces": shelf.surfaces,
                "regions": shelf.segments,
                "categories": shelf.categories[:2000],
                "sources": {source["name"]: source.get("reason", "") for source in shelf.sources},
                "features": shelf.features,
                "event_types": [name for name, strength in EVENT_STRENGTH.items() if strength > 0],
                "max_k": MAX_K,
                "collects": self.collector is not None,
            }
        )

    async def state(self, request: Request) -> Response:
        """Which of the servers answer now, and for each that does not the line that says what to do."""
        servers = {"recommender": self.recommender} | ({"collector": self.collector} if self.collector else {})
        out = {}
        for name, server in servers.items():
            up = await server.up()
            out[name] = {"up": up, "url": server.url, "says": None if up else server.silent()}
        return answer(out)

    async def recommend(self, request: Request) -> Response:
        """Pass one instance to the recommender; its list comes back with the details of the items in it."""
        instance = await body_of(request)
        k = instance.get("k", 20)
        if isinstance(k, int) and k > MAX_K:
            raise InvalidInput(f"k: at most {MAX_K} here")
        found, ms = await self.recommender.post(PREDICT, {"instances": [instance]})
        try:
            made = found["predictions"][0]
            ids = [str(item["item_id"]) for item in made["items"]]
        except (KeyError, IndexError, TypeError):
            raise InvalidInput(f"the recommender at {self.recommender.url} answers in another format") from None
        return answer({"list": made, "items": self.shelf.details(ids), "ms": round(ms, 2)})

    async def events(self, request: Request) -> Response:
        """Pass events to the collector; without one there is nothing to pass them to."""
        if self.collector is None:
            raise InvalidInput("no collector: start the playground with --collector URL")
        events = (await body_of(request)).get("events")
        if not isinstance(events, list) or not 0 < len(events) <= MAX_EVENTS:
            raise InvalidInput(f"events: a list of 1 to {MAX_EVENTS}")
        if not all(isinstance(event, dict) for event in events):
            raise InvalidInput("events: each must be an object")
        verdict, ms = await self.collector.post("/v1/events", {"events": events})
        return answer({"verdict": verdict, "ms": round(ms, 2)})

    async def items(self, request: Request) -> Response:
        """Details of items by id: `?ids=a,b`."""
        ids = [i for i in request.query_params.get("ids", "").split(",") if i]
        if len(ids) > MAX_IDS:
            raise InvalidInput(f"ids: at most {MAX_IDS}")
        return answer(self.shelf.details(ids))

    async def users(self, request: Request) -> Response:
        """Known people: `?q=` a part of a pseudonym, a region or a taste; `?limit=`."""
        text = request.query_params.get("q", "").strip()[:MAX_TEXT]
        limit = request.query_params.get("limit", "24")
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:6]) <= MAX_PEOPLE:
            raise InvalidInput(f"limit: a number from 1 to {MAX_PEOPLE}")
        # A search over millions of people must not hold up a list.
        found = await run_in_threadpool(self.shelf.people.find, text, int(limit))
        users = [person | {"last": self.shelf.ids(person["last"])} for person in found]
        ids = [item for user in users for item in user["last"]]
        return answer({"users": users, "items": self.shelf.details(list(dict.fromkeys(ids)))})

    def app(self) -> Starlette:
        """The ASGI application."""

        @contextlib.asynccontextmanager
        async def connected(_: Starlette) -> AsyncIterator[None]:
            yield
            for server in filter(None, (self.recommender, self.collector)):
                await server.close()

        routes = [
            Route("/api/about", self.about),
            Route("/api/state", self.state),
            Route("/api/items", self.items),
            Route("/api/users", self.users),
            Route("/api/recommend", self.recommend, methods=["POST"]),
            Route("/api/events", self.events, methods=["POST"]),
            *(Route(path, file) for path, file in static().items()),
        ]
        # Without a look at Host, a page anywhere on the web could reach this server through a name of its own.
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
        return Starlette(
            routes=routes, middleware=[hosts], lifespan=connected,
            exception_handlers={LongtailError: refused, Exception: broken},
        )  # fmt: skip


def static() -> dict[str, Callable]:
    """A handler for each file of the page, kept in memory: there are a dozen, and they are small."""
    out = {}
    for path in sorted(p for p in PAGE.iterdir() if p.is_file()):
        kind = {".woff2": "font/woff2", ".js": "text/javascript"}.get(path.suffix) or mimetypes.guess_type(path)[0]
        name = "/" if path.name == "index.html" else f"/{path.name}"
        out[name] = _file(path.read_bytes(), kind or "text/plain")
    return out


def _file(content: bytes, kind: str) -> Callable:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'

    async def file(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=HEADERS | {"etag": tag})
        return Response(content, media_type=kind, headers=HEADERS | {"etag": tag})

    return file


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object of a request of our own page.

    Raises:
        InvalidInput: it is too long, no JSON object, or another site's page sent it.
    """
    origin = request.headers.get("origin")
    if origin is not None and origin.split("://")[-1] != request.headers.get("host"):
        raise InvalidInput("another site's page may not ask here")
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise InvalidInput("body: send application/json")
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > MAX_BODY:
            raise InvalidInput(f"body: at most {MAX_BODY // 1024} KiB")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidInput("body: is not JSON") from None
    if not isinstance(found, dict):
        raise InvalidInput("body: must be a JSON object")
    return found


def answer(content: object, status: int = 200) -> Response:
    """JSON; values that it cannot say (NaN) are null."""
    body = orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY, default=str)
    return Response(body, status, HEADERS | {"cache-control": "no-store"}, "application/json")


async def refused(request: Request, error: Exception) -> Response:
    """A known mistake or a silent server, in one line."""
    return answer({"error": str(error)}, getattr(error, "http_status", 500))


async def broken(request: Request, error: Exception) -> Response:
    """Our own mistake: logged with its trace, and said in one line."""
    logger.error("%s failed", request.url.path, exc_info=error)
    return answer({"error": f"the playground failed ({type(error).__name__}): its log says more"}, 500)
