"""Calls that are answered together get what they would have got alone."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from benchmarks.synthetic_retriever import synthetic_requests, synthetic_retriever
from longtail.retrieval import Ask, Candidates, Retriever
from serving.retriever.together import MOST, Together

ITEMS = 400


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    folder: Path = tmp_path_factory.mktemp("retriever") / "retrieval"
    synthetic_retriever(folder, ITEMS)
    return Retriever.load(folder)


def same(a: Candidates, b: Candidates) -> None:
    for field in fields(Candidates):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))


def test_every_call_gets_its_own_candidates_bit_for_bit(retriever: Retriever, monkeypatch: pytest.MonkeyPatch) -> None:
    people = synthetic_requests(30, ITEMS)
    calls = [people.take(np.arange(a, a + 1 + a % 3)) for a in range(24)]
    weights = np.ones(len(retriever.sources), np.float32)
    weights[0] = 0
    asks = [Ask(50, weights) if n % 7 == 3 else Ask(40 if n % 5 == 4 else 50) for n in range(len(calls))]
    alone = [retriever.candidates(c, a.n, a.also, a.weights) for c, a in zip(calls, asks, strict=True)]
    sizes = []
    compute = Retriever.candidates

    def noted(self: Retriever, requests: object, *more: object) -> Candidates:
        sizes.append(len(requests))  # type: ignore[arg-type]
        return compute(self, requests, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Retriever, "candidates", noted)

    async def ask() -> list[Candidates]:
        together = Together()
        return await asyncio.gather(*(together.candidates(retriever, c, a) for c, a in zip(calls, asks, strict=True)))

    for found, expected in zip(asyncio.run(ask()), alone, strict=True):
        same(found, expected)
    assert len(sizes) < len(calls) and sum(sizes) == sum(map(len, calls))


def test_who_gave_up_is_left_out_and_a_mistake_reaches_everyone(retriever: Retriever) -> None:
    people = synthetic_requests(MOST, ITEMS)
    calls = [people.take(np.array([n])) for n in range(MOST)]

    async def ask() -> None:
        together = Together()
        tasks = [asyncio.create_task(together.candidates(retriever, c, Ask(20))) for c in calls]
        await asyncio.sleep(0)
        tasks[0].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        for call, answer in zip(calls[1:], found[1:], strict=True):
            same(answer, retriever.candidates(call, 20))
        broken = Retriever(retriever.sources, None, retriever.depth)  # type: ignore[arg-type]
        found = await asyncio.gather(*(together.candidates(broken, c, Ask(20)) for c in calls), return_exceptions=True)
        assert all(isinstance(answer, AttributeError) for answer in found)
        same(await together.candidates(retriever, calls[0], Ask(20)), retriever.candidates(calls[0], 20))

    asyncio.run(ask())
