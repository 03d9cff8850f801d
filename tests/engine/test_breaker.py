"""Breaker, limiter and guard: what they let through, and that they come back by themselves."""

from __future__ import annotations

import asyncio

import pytest

from longtail.engine.breaker import Breaker, BreakerConfig, BreakerOpen
from longtail.engine.hops import Guard, Late
from longtail.engine.limiter import Limiter, LimiterConfig, Overloaded


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return Breaker("ranker", BreakerConfig(window_s=10, min_calls=4, failure_rate=0.5, open_s=1), clock)


def call(breaker: Breaker, ok: bool | None) -> None:
    breaker.leave(breaker.enter(), ok)


def test_it_opens_when_half_of_the_calls_fail_and_not_on_the_first_ones(breaker):
    for ok in (True, False, False):
        call(breaker, ok)
    assert breaker.state == "closed"
    call(breaker, False)
    assert breaker.state == "open"
    with pytest.raises(BreakerOpen):
        breaker.enter()


def test_one_trial_after_a_moment_closes_it_or_opens_it_again(breaker, clock):
    for _ in range(4):
        call(breaker, False)
    clock.now = 1.0
    assert breaker.state == "half_open"
    trial = breaker.enter()
    with pytest.raises(BreakerOpen):  # one at a time
        breaker.enter()
    breaker.leave(trial, False)
    assert breaker.state == "open"
    clock.now = 2.0
    call(breaker, True)
    assert breaker.state == "closed"
    call(breaker, False)  # the failures of before are forgotten
    assert breaker.state == "closed"


def test_a_trial_that_nobody_waited_for_makes_room_for_the_next(breaker, clock):
    for _ in range(4):
        call(breaker, False)
    clock.now = 1.0
    call(breaker, None)
    assert breaker.state == "half_open"
    call(breaker, True)
    assert breaker.state == "closed"


def test_old_failures_and_calls_that_say_nothing_do_not_count(breaker, clock):
    for _ in range(3):
        call(breaker, False)
    clock.now = 11.0
    for _ in range(5):
        call(breaker, None)
    call(breaker, False)
    assert breaker.state == "closed"


def test_late_answers_from_before_it_opened_do_not_close_it(breaker):
    early = breaker.enter()
    for _ in range(4):
        call(breaker, False)
    breaker.leave(early, True)
    assert breaker.state == "open"


def test_many_calls_cost_bounded_memory_and_the_counts_stay_right(breaker, clock):
    for n in range(5000):
        clock.now = n * 0.001
        call(breaker, n % 3 < 2)  # a third fails: under the rate
    assert breaker.state == "closed" and breaker._failed == sum(not ok for _, ok in breaker._calls)


def guard(slots: int = 2, wait_s: float = 0.0, deadline_s: float = 0.05, min_calls: int = 3) -> Guard:
    return Guard(
        Breaker("hop", BreakerConfig(min_calls=min_calls, open_s=0.05)), Limiter("hop", LimiterConfig(slots, wait_s)),
        deadline_s,
    )  # fmt: skip


async def soon(answer: int = 7, after_s: float = 0.0) -> int:
    await asyncio.sleep(after_s)
    return answer


def far() -> float:
    return asyncio.get_running_loop().time() + 10


def test_without_a_slot_a_call_is_turned_away_at_once_and_slots_come_back():
    async def main() -> None:
        hop = guard(slots=2)
        results = await asyncio.gather(*[hop.call(soon, far()) for _ in range(5)], return_exceptions=True)
        assert results[:2] == [7, 7] and all(isinstance(r, Overloaded) for r in results[2:])
        assert hop.limiter.in_flight == 0 and await hop.call(soon, far()) == 7
        assert hop.breaker.state == "closed"  # a full part is not a broken one

    asyncio.run(main())


def test_a_short_wait_finds_a_slot_in_order_and_a_long_queue_is_refused():
    async def main() -> None:
        hop = guard(slots=1, wait_s=0.2, deadline_s=1)
        order: list[int] = []

        async def work(n: int) -> None:
            await asyncio.sleep(0.01)
            order.append(n)

        calls = [hop.call(lambda n=n: work(n), far()) for n in range(4)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert order == [0, 1] and [type(r) for r in results[2:]] == [Overloaded, Overloaded]
        assert hop.limiter.in_flight == 0

    asyncio.run(main())


def test_slots_survive_any_mix_of_timeouts_and_cancellations():
    async def main() -> None:
        limiter = Limiter("hop", LimiterConfig(2, 0.01))

        async def use(n: int) -> None:
            await limiter.enter()
            try:
                await asyncio.sleep(0.001 * (n % 13))
            finally:
                limiter.leave()

        for _ in range(20):
            tasks = [asyncio.create_task(use(n)) for n in range(12)]
            await asyncio.sleep(0.004)
            for task in tasks[::3]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert limiter.in_flight == 0 and not limiter._waiting

    asyncio.run(main())


def test_a_stalled_part_is_cut_off_at_the_deadline_then_left_alone_then_found_again():
    async def main() -> None:
        hop = guard(slots=9)
        for _ in range(3):
            with pytest.raises(Late):
                await hop.call(lambda: soon(after_s=5), far())
        with pytest.raises(BreakerOpen):
            await hop.call(soon, far())
        await asyncio.sleep(0.06)
        assert await hop.call(soon, far()) == 7
        assert hop.breaker.state == "closed"

    asyncio.run(main())


def test_too_little_time_left_is_not_the_parts_fault():
    async def main() -> None:
        hop = guard(min_calls=1)
        clock = asyncio.get_running_loop().time
        for until in (clock() + 0.005, clock() - 1):
            with pytest.raises(Late):
                await hop.call(lambda: soon(after_s=5), until)
        assert hop.breaker.state == "closed"

    asyncio.run(main())
