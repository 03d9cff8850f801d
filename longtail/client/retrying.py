"""When to ask again, how long to wait before, and when to ask a second time beside the first."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx

from longtail.errors import LongtailError, Unavailable

# Answers after which asking again may help; anything else is final.
AGAIN = frozenset({429, 502, 503, 504})
Send = Callable[[], Awaitable[httpx.Response]]


class Refused(LongtailError):
    """The server asks for an API key, or does not know this one."""

    http_status = 401


@dataclass(frozen=True)
class Retrying:
    """Up to `retries` more tries after connection errors, 429, 502, 503 and 504, all within one deadline.

    Between tries it waits a random time up to `backoff_s` doubled each time, at most `longest_s`, and at least what
    `Retry-After` says. With `hedge_after_s`, a try that has no answer by then gets a second one beside it: the first
    good answer wins and the other is cancelled. Set it near the 95th percentile, so that one request in twenty is sent
    twice and a stalled server or connection costs that long instead of the deadline.
    """

    retries: int = 2
    backoff_s: float = 0.05
    longest_s: float = 1.0
    hedge_after_s: float | None = None

    async def run(self, send: Send, deadline_s: float, where: str, rng: random.Random) -> httpx.Response:
        """The first final answer.

        Raises:
            Unavailable: no final answer came within the tries or the deadline; the message tells the last reason.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        reason = "no answer"
        for attempt in range(self.retries + 1):
            wait = 0.0
            try:
                async with asyncio.timeout_at(end):
                    answer = await self._hedged(send)
                if answer.status_code not in AGAIN:
                    return answer
                wait = retry_after(answer)
                reason = f"status {answer.status_code}: {said(answer)}"
            except TimeoutError:
                raise Unavailable(f"no answer from {where} within {deadline_s:g} s (last: {reason})") from None
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
            if attempt == self.retries:
                break
            wait = max(wait, rng.uniform(0, min(self.longest_s, self.backoff_s * 2**attempt)))
            if loop.time() + wait >= end:
                break
            await asyncio.sleep(wait)
        raise Unavailable(f"{where} does not answer ({reason})")

    async def _hedged(self, send: Send) -> httpx.Response:
        """One try, or two beside each other once the first is late."""
        if self.hedge_after_s is None:
            return await send()
        tasks = {asyncio.ensure_future(send())}
        try:
            done, waiting = await asyncio.wait(tasks, timeout=self.hedge_after_s)
            if not done:
                tasks.add(asyncio.ensure_future(send()))
                waiting = set(tasks)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if any(_good(task) for task in done):
                    break
            best = sorted(done, key=_good)[-1]
            return best.result()
        finally:
            for task in tasks:
                task.cancel()
            # Ends the other's connection before this returns; its outcome is of no interest any more.
            await asyncio.gather(*tasks, return_exceptions=True)


def _good(task: asyncio.Future[httpx.Response]) -> bool:
    return task.exception() is None and task.result().status_code not in AGAIN


def retry_after(answer: httpx.Response) -> float:
    """Seconds that the server asks to wait; 0 where it does not say. Dates are not sent by our servers."""
    try:
        return max(0.0, float(answer.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def said(answer: httpx.Response) -> str:
    """What an error answer says, in one line."""
    try:
        found = answer.json()
    except ValueError:
        return answer.text.strip()[:200]
    return str(found.get("error") or found.get("detail") or found) if isinstance(found, dict) else str(found)
