"""Load on a recommender: keep-alive HTTP connections that cost so little that the server is what is measured."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

PATH = "/v1/models/recommender:predict"
QUANTILES = (50, 95, 99)


@dataclass(frozen=True)
class Answer:
    """One request's fate: `at` seconds (monotonic) when it was sent, `ms` until the whole answer was there.

    `status` 0 and a `problem` where no address answered; `body` is kept only where the caller reads it.
    """

    at: float
    ms: float
    status: int
    body: bytes = b""
    problem: str = ""

    def prediction(self) -> dict:
        """The first list of the answer."""
        return orjson.loads(self.body)["predictions"][0]


def body_of(**instance: object) -> bytes:
    """The request body of one instance."""
    return orjson.dumps({"instances": [instance]})


class Connection:
    """One keep-alive connection; on a connection error the next address is tried, as a load balancer would."""

    def __init__(self, addresses: Sequence[tuple[str, int]], path: str = PATH, timeout_s: float = 10.0) -> None:
        self._addresses = addresses  # may change meanwhile: replicas come and go
        self._turn = itertools.count()
        self._at: tuple[str, int] | None = None
        self._path, self._timeout_s = path, timeout_s
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: bytes) -> Answer:
        """Send a request and wait for its answer."""
        begin, problem = time.perf_counter(), ""
        if self._at not in self._addresses:
            self.close()
        for _ in range(len(self._addresses) + 1):  # one more: a kept connection may have gone stale
            try:
                async with asyncio.timeout(self._timeout_s):
                    status, answer = await self._exchange(body)
                return Answer(begin, (time.perf_counter() - begin) * 1e3, status, answer)
            except TimeoutError:
                self.close()
                problem = f"no answer in {self._timeout_s} s"
                break
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                self.close()
                problem = f"{type(error).__name__}: {error}"
        return Answer(begin, (time.perf_counter() - begin) * 1e3, 0, problem=problem)

    async def _exchange(self, body: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._at = self._addresses[next(self._turn) % len(self._addresses)]
            self._streams = await asyncio.open_connection(*self._at)
        reader, writer = self._streams
        head = f"POST {self._path} HTTP/1.1\r\nhost: load\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        status, place = int(answer[9:12]), answer.find(b"content-length:")
        if place < 0:
            raise ValueError("the answer has no content-length")
        length = int(answer[place + 15 : answer.index(b"\r\n", place)])
        found = await reader.readexactly(length)
        if b"connection: close" in answer:
            self.close()
        return status, found

    def close(self) -> None:
        """Drop the connection; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def closed_loop(
    addresses: Sequence[tuple[str, int]], bodies: Iterable[bytes], clients: int, seconds: float = 1e9,
    heard: Callable[[Answer], None] | None = None, path: str = PATH,
) -> list[Answer]:  # fmt: skip
    """Each client sends its next request when its last is answered, until the bodies or the time are over."""
    queue: Iterator[bytes] = iter(bodies)
    answers: list[Answer] = []
    until = time.perf_counter() + seconds

    async def client() -> None:
        connection = Connection(addresses, path)
        for body in queue:
            if time.perf_counter() >= until:
                break
            answer = await connection.post(body)
            answers.append(answer)
            if heard is not None:
                heard(answer)
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


async def steady(
    addresses: Sequence[tuple[str, int]], bodies: Iterable[bytes], per_second: float, stop: asyncio.Event,
    heard: Callable[[Answer], None], timeout_s: float = 10.0,
) -> None:  # fmt: skip
    """A request each 1 / `per_second` s whether or not earlier ones are answered, as people come, until `stop`."""
    idle: list[Connection] = []
    flying: set[asyncio.Task] = set()

    async def one(body: bytes) -> None:
        connection = idle.pop() if idle else Connection(addresses, timeout_s=timeout_s)
        heard(await connection.post(body))
        idle.append(connection)

    due = time.perf_counter()
    for body in bodies:
        if stop.is_set():
            break
        flying.add(task := asyncio.create_task(one(body)))
        task.add_done_callback(flying.discard)
        due += 1 / per_second
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
    await asyncio.gather(*flying)
    for connection in idle:
        connection.close()


def quantiles(ms: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 of milliseconds, as `p50_ms` and so on."""
    return {f"p{q}_ms": round(float(np.percentile(ms, q)), 3) for q in QUANTILES} if len(ms) else {}


@dataclass
class Verdict:
    """What went wrong in a run: every answer must be 200 with a full, safe list."""

    answers: int = 0
    failed: int = 0
    empty: int = 0
    unsafe: int = 0
    levels: dict[str, int] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)
    last_not_full: float = 0.0  # when the newest list below the full rung was asked for

    def hear(self, answer: Answer, unsafe: frozenset[str] = frozenset()) -> None:
        """Count one answer; `unsafe` are items that must never be shown."""
        self.answers += 1
        if answer.status != 200:
            self.failed += 1
            self._problem(answer.problem or f"status {answer.status}: {answer.body[:120]!r}")
            return
        found = answer.prediction()
        shown = [item["item_id"] for item in found["items"]]
        self.levels[found["level"]] = self.levels.get(found["level"], 0) + 1
        self.empty += not shown
        self.unsafe += bool(unsafe.intersection(shown))
        if found["level"] != "full":
            self.last_not_full = max(self.last_not_full, answer.at)
            self._problem(found.get("cause") or "no cause given")

    def _problem(self, text: str) -> None:
        self.problems[text] = self.problems.get(text, 0) + 1
