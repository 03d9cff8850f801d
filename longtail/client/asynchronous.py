"""The client for asyncio; the synchronous one runs this."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from longtail import __version__
from longtail.client.results import Event, Json, Receipt, Recommendation, chunks, complete, instance_of
from longtail.client.retrying import Refused, Retrying, said
from longtail.errors import InvalidInput, Unavailable

PREDICT = "/v1/models/recommender:predict"
EVENTS = "/v1/events"
EVENTS_A_CALL = 500
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class AsyncClient:
    """Asks a recommender for lists and tells a collector what happened; safe to share between tasks of one loop.

    `timeout_s` is the deadline of a whole call, tries and waits included; `events_timeout_s` that of each batch of
    events. `events_url` is the collector's address; without it, events cannot be sent. `transport` is httpx's, for
    apps in this process.
    """

    def __init__(
        self, url: str, *, events_url: str | None = None, key: str | None = None, timeout_s: float = 2.0,
        events_timeout_s: float = 10.0, retries: int = 2, hedge_after_s: float | None = None,
        transport: httpx.AsyncBaseTransport | None = None, rng: random.Random | None = None,
    ) -> None:  # fmt: skip
        self.url, self.events_url = _address(url), _address(events_url) if events_url else None
        self._timeout_s, self._events_timeout_s = timeout_s, events_timeout_s
        self._lists = Retrying(retries, hedge_after_s=hedge_after_s)
        self._events = Retrying(retries)
        self._rng = rng or random.Random()
        headers = {"user-agent": f"longtail-client/{__version__}", "content-type": "application/json"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        addresses = [httpx.URL(u) for u in (self.url, self.events_url) if u]
        # A proxy of the environment has no business with this machine's own ports.
        outside = any(address.host not in LOOPBACK for address in addresses)
        self._http = httpx.AsyncClient(headers=headers, timeout=None, transport=transport, trust_env=outside)

    async def recommend(
        self, user_id: str | int | None = None, surface: str = "homepage", k: int | None = None,
        context: Mapping[str, Any] | None = None, trace: bool = False,
    ) -> Recommendation:  # fmt: skip
        """One list; without `user_id` for a guest, without `k` as long as the surface says.

        A hedged request may be answered twice by the server: the answer that lost was logged as shown there, unless
        `context["request_id"]` names the list and the log is read once per id.

        Raises:
            InvalidInput: the recommender refuses the request; the message is its own and names the field.
            Refused: it asks for an API key, or does not know this one.
            Unavailable: no answer within the deadline.
        """
        return (await self.recommend_many([instance_of(user_id, surface, k, context, trace)]))[0]

    async def recommend_many(self, instances: Sequence[Json]) -> list[Recommendation]:
        """A list for each instance of the protocol; raises as `recommend`."""
        answer = await self._post(self._lists, self.url + PREDICT, {"instances": list(instances)}, self._timeout_s)
        try:
            lists = [Recommendation.of(found) for found in answer.json()["predictions"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            lists = []
        if len(lists) != len(instances):
            raise Unavailable(f"{self.url} answers, but not like a recommender: {answer.text[:200]!r}")
        return lists

    async def send_events(self, events: Sequence[Event | Json]) -> Receipt:
        """Tell what happened. Ids and times that are missing are made up, so that a batch sent twice counts once.

        Raises:
            InvalidInput: the client knows no collector, or the collector refuses the whole request.
            Refused: it asks for an API key, or does not know this one.
            Unavailable: no answer within the deadline; events may or may not be stored: send the same ones again.
        """
        if self.events_url is None:
            raise InvalidInput("this client knows no collector: name its address as events_url")
        sent = [event.as_json() if isinstance(event, Event) else complete(event) for event in events]
        receipt = Receipt(0, 0)
        for start, batch in chunks(sent, EVENTS_A_CALL):
            answer = await self._post(
                self._events, self.events_url + EVENTS, {"events": batch}, self._events_timeout_s, (200, 400)
            )
            try:
                receipt = receipt.plus(Receipt.of(answer.json(), start))
            except (ValueError, KeyError, TypeError, AttributeError):
                _raise_for(answer)
                raise Unavailable(f"{self.events_url} answers, but not like a collector") from None
        return receipt

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _post(
        self, retrying: Retrying, url: str, body: Json, deadline_s: float, fine: Sequence[int] = (200,)
    ) -> httpx.Response:
        async def send() -> httpx.Response:
            return await self._http.post(url, json=body)

        answer = await retrying.run(send, deadline_s, url.rsplit("/v1/", 1)[0], self._rng)
        if answer.status_code not in fine:
            _raise_for(answer)
        return answer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _raise_for(answer: httpx.Response) -> None:
    code, message = answer.status_code, said(answer)
    if code in (401, 403):
        raise Refused(message)
    if 400 <= code < 500:
        raise InvalidInput(message if code != 404 else f"{answer.url} is not there ({message})")
    if code >= 500:
        raise Unavailable(f"status {code}: {message}")


def _address(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidInput(f"{url!r} is not an address ({error})") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidInput(f"{url!r} is not an address such as http://127.0.0.1:8080")
    return url.rstrip("/")
