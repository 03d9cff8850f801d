"""A second thread takes a part of the work while a core is idle, and changes no result."""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace

import pytest

from longtail import second_thread
from longtail.second_thread import LOOK_EVERY_S, SecondThread, in_turn

two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@pytest.fixture
def second() -> SecondThread:
    return SecondThread()


def test_each_part_is_done_once_and_both_threads_take_some(second: SecondThread) -> None:
    done: list[tuple[int, int]] = []

    def task(part: int) -> None:
        time.sleep(0.002)  # lets go of the interpreter's lock
        done.append((part, threading.get_ident()))

    second.in_two(task, range(40))
    assert sorted(part for part, _ in done) == list(range(40))
    assert len({thread for _, thread in done}) == 2
    second.in_two(task, [])


@pytest.mark.parametrize("owner", [True, False])
def test_a_mistake_of_either_thread_reaches_the_owner_when_both_have_stopped(second: SecondThread, owner: bool) -> None:
    busy, me = set(), threading.get_ident()

    def task(part: int) -> None:
        busy.add(part)
        time.sleep(0.005)
        busy.discard(part)
        if (threading.get_ident() == me) == owner:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        second.in_two(task, range(20))
    assert not busy
    second.in_two(lambda part: busy.add(part), [7])
    assert busy == {7}, "it works on after a mistake"


@two_cores
def test_work_is_shared_only_while_the_machine_has_a_core_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, second = _Machine(monkeypatch), SecondThread()
    assert second.share() is in_turn, "nothing is known yet"
    clock.passes(LOOK_EVERY_S, idle_cores=0.9)
    assert second.share() == second.in_two
    clock.passes(LOOK_EVERY_S / 2, idle_cores=0.0)
    assert second.share() == second.in_two, "it looks but now and then"
    clock.passes(LOOK_EVERY_S, idle_cores=0.1)
    assert second.share() is in_turn


@two_cores
def test_a_process_that_has_one_core_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, second = _Machine(monkeypatch), SecondThread()
    monkeypatch.setattr(second_thread, "os", SimpleNamespace(sched_getaffinity=lambda _: {0}))
    clock.passes(LOOK_EVERY_S, idle_cores=30.0)
    assert second.share() is in_turn


@two_cores
def test_the_second_thread_stays_off_the_core_of_its_owner(second: SecondThread) -> None:
    cores: dict[int, set[int]] = {}

    def task(part: int) -> None:
        time.sleep(0.002)
        cores[threading.get_ident()] = os.sched_getaffinity(0)

    for _ in range(2):  # what the kernel calls it is known after the first time
        second.in_two(task, range(10))
    own = cores.pop(threading.get_ident())
    (other,) = cores.values()
    assert other < own and len(other) == len(own) - 1


class _Machine:
    """A machine whose clock and idle time a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.idle = 100.0
        monkeypatch.setattr(second_thread, "idle_s", lambda: self.idle)
        monkeypatch.setattr(second_thread, "time", SimpleNamespace(monotonic=lambda: self.now))

    def passes(self, seconds: float, idle_cores: float) -> None:
        self.now += seconds
        self.idle += idle_cores * seconds
