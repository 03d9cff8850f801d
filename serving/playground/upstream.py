"""The servers behind the page: the recommender, and the collector where there is one."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from longtail.errors import InvalidInput, LongtailError, Unavailable

TIMEOUT_S = 10.0
PROBE_S = 2.0


class Overloaded(LongtailError):
    """The server asks to come back later."""

    http_status = 429


@dataclass
class Upstream:
    """One server: how to ask it, and what to say when it does not answer. `key` is sent as its API key."""

    name: str
    url: str
    ready: str
    hint: str
    key: str | None = None
    _client: httpx.AsyncClient | None = field(default=None, init=False, repr=False)

    async def post(self, path: str, body: dict[str, Any]) -> tuple[Any, float]:
        """The parsed answer and the milliseconds until it was there.

        Raises:
            InvalidInput: the server refuses the request; the message is its own.
            Overloaded: it is busy.
            Unavailable: nothing answers, or not sensibly.
        """
        began = time.perf_counter()
        try:
            reply = await self._http.post(self.url + path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(self.silent(error)) from None
        ms = (time.perf_counter() - began) * 1e3
        if reply.status_code == 429:
            wait = reply.headers.get("retry-after", "1")
            raise Overloaded(f"the {self.name} is busy: it asks to come back in {wait[:8]} s")
        if reply.status_code >= 500:
            raise Unavailable(f"the {self.name} failed with {reply.status_code}: {detail(reply.content)}")
        if reply.status_code >= 400:
            raise InvalidInput(f"the {self.name} refused: {detail(reply.content)}")
        try:
            return json.loads(reply.content), ms
        except ValueError:
            raise Unavailable(f"the {self.name} at {self.url} did not answer in JSON") from None

    async def up(self) -> bool:
        """Whether it says that it is ready, asked now."""
        try:
            reply = await self._http.get(self.url + self.ready, timeout=PROBE_S)
        except (httpx.HTTPError, httpx.InvalidURL):
            return False
        return reply.status_code == 200

    def silent(self, error: Exception | None = None) -> str:
        """The line for when nothing answers."""
        why = "it took too long" if isinstance(error, httpx.TimeoutException) else self.hint
        return f"the {self.name} at {self.url} does not answer: {why}"

    async def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    @property
    def _http(self) -> httpx.AsyncClient:
        # Made on the running loop. Proxies of the environment are not for servers on this machine.
        if self._client is None:
            headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
            self._client = httpx.AsyncClient(timeout=TIMEOUT_S, headers=headers, trust_env=False)
        return self._client


def recommender(url: str, key: str | None = None) -> Upstream:
    """The recommender at an address such as http://127.0.0.1:8080."""
    return Upstream("recommender", url.rstrip("/"), "/v2/models/recommender/ready", "run `longtail serve`", key)


def collector(url: str, key: str | None = None) -> Upstream:
    """The collector at an address such as http://127.0.0.1:8082."""
    hint = "run `python -m serving.collector --state FOLDER --port PORT`"
    return Upstream("collector", url.rstrip("/"), "/readyz", hint, key)


def detail(body: bytes) -> str:
    """What an error body says, in one line."""
    try:
        found = json.loads(body)
    except ValueError:
        found = body.decode(errors="replace")
    if isinstance(found, dict):
        rejected = found.get("rejected")
        if isinstance(rejected, list) and rejected and isinstance(rejected[0], dict):
            found = rejected[0].get("reason")  # a collector that took nothing says why of each event
        else:
            found = found.get("error") or found.get("detail") or found
    return " ".join(str(found).split())[:300] or "without a word"
