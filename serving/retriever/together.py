"""Calls that wait at the same moment are answered together: a quarter less work for each, and the same candidates.

Nobody is waited for: where one call is there, it is answered at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from longtail.events import Histories, Requests
from longtail.retrieval import Ask, Candidates, Retriever
from longtail.second_thread import SecondThread, in_turn

MOST = 4  # more saves little and keeps the first one waiting

Waiting = tuple[Retriever, Requests, Ask, "asyncio.Future[Candidates]"]


class Together:
    """Candidates of calls, on the event loop itself: to another thread and back takes a tenth of a call's time.

    The sources of a call that comes alone are shared with a second thread.
    """

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self._second = SecondThread()

    async def candidates(self, retriever: Retriever, requests: Requests, ask: Ask) -> Candidates:
        """See `Retriever.candidates`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Candidates] = loop.create_future()
        self._waiting.append((retriever, requests, ask, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._answer)
        return await future

    def _answer(self) -> None:
        """Answer the call that came first and those like it."""
        group = [self._waiting.popleft()]
        while self._waiting and len(group) < MOST and alike(group[0], self._waiting[0]):
            group.append(self._waiting.popleft())
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._answer)
        group = [call for call in group if not call[3].done()]  # some callers have given up
        if not group:
            return
        retriever, _, ask, _ = group[0]
        requests = [call[1] for call in group]
        alone = len(group) == 1 and not self._waiting
        try:
            share = self._second.share() if alone else in_turn
            found = retriever.candidates(joined(requests), ask.n, ask.also, ask.weights, share)
        except Exception as error:  # noqa: BLE001 - each caller hears of it, and its server's edge tells
            for *_, future in group:
                future.set_exception(error)
            return
        for (*_, future), part in zip(group, split(found, [len(r) for r in requests]), strict=True):
            future.set_result(part)


def alike(first: Waiting, other: Waiting) -> bool:
    """Whether two calls can be answered as one."""
    plain = all(ask.also is None and ask.weights is None for ask in (first[2], other[2]))
    return plain and first[0] is other[0] and first[2].n == other[2].n


def joined(parts: Sequence[Requests]) -> Requests:
    """One batch of several."""
    if len(parts) == 1:
        return parts[0]
    histories = [part.history for part in parts]
    starts = np.cumsum([0, *(h.indptr[-1] for h in histories)])
    indptr = [h.indptr[1:] + start for h, start in zip(histories, starts[:-1], strict=True)]
    flat = {f.name: np.concatenate([getattr(h, f.name) for h in histories])
            for f in fields(Histories) if f.name != "indptr"}  # fmt: skip
    history = Histories(np.concatenate([[0], *indptr]).astype(np.int64), **flat)
    time, user, segment = (np.concatenate([getattr(p, n) for p in parts]) for n in ("time", "user", "segment"))
    return Requests(time, user, segment, history)


def split(found: Candidates, sizes: Sequence[int]) -> list[Candidates]:
    """The candidates of each of the batches that `joined` made one."""
    if len(sizes) == 1:
        return [found]
    firsts = np.cumsum([0, *sizes])
    bounds = np.searchsorted(found.rows, firsts)
    out = []
    for first, start, stop in zip(firsts[:-1], bounds[:-1], bounds[1:], strict=True):
        part = found.take(np.arange(start, stop))
        out.append(replace(part, rows=part.rows - first))
    return out
