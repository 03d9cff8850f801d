"""The client for code without asyncio: the asynchronous one on a loop of its own, in a thread of its own."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from longtail.client.asynchronous import AsyncClient
from longtail.client.results import Event, Json, Receipt, Recommendation
from longtail.errors import InvalidInput

Result = TypeVar("Result")


class Client:
    """`AsyncClient` for everybody else, with the same arguments, methods and errors; safe to share between threads."""

    def __init__(
        self, url: str, *, events_url: str | None = None, key: str | None = None, timeout_s: float = 2.0,
        events_timeout_s: float = 10.0, retries: int = 2, hedge_after_s: float | None = None,
        transport: httpx.AsyncBaseTransport | None = None, rng: random.Random | None = None,
    ) -> None:  # fmt: skip
        self._client = AsyncClient(
            url, events_url=events_url, key=key, timeout_s=timeout_s, events_timeout_s=events_timeout_s,
            retries=retries, hedge_after_s=hedge_after_s, transport=transport, rng=rng,
        )  # fmt: skip
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="longtail-client", daemon=True)
        self._thread.start()

    def recommend(
        self, user_id: str | int | None = None, surface: str = "homepage", k: int | None = None,
        context: Mapping[str, Any] | None = None, trace: bool = False,
    ) -> Recommendation:  # fmt: skip
        """One list; see `AsyncClient.recommend`."""
        return self._wait(self._client.recommend(user_id, surface, k, context, trace))

    def recommend_many(self, instances: Sequence[Json]) -> list[Recommendation]:
        """A list for each instance; see `AsyncClient.recommend_many`."""
        return self._wait(self._client.recommend_many(instances))

    def send_events(self, events: Sequence[Event | Json]) -> Receipt:
        """Tell what happened; see `AsyncClient.send_events`."""
        return self._wait(self._client.send_events(events))

    def close(self) -> None:
        """Close the connections and end the thread; safe to call twice."""
        if self._loop.is_closed():
            return
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._loop.is_closed():
            work.close()
            raise InvalidInput("this client is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C while waiting must not leave the request running
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
