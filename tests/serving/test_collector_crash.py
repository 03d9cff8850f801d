"""Kill -9 under load: whatever had a 200 is counted once, and the live store knows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.features.redis_server import RedisServer, why_no_redis
from tests.serving.collector_crash import Tally, kafka_run, spool_run
from tests.serving.kafka import why_no_kafka

pytestmark = pytest.mark.serving


def check(tally: Tally) -> None:
    assert (tally.lost, tally.counted_twice, tally.live_lost, tally.live_twice) == (0, 0, 0, 0), tally
    assert tally.events > 200 and tally.unanswered_requests > 0 and tally.seals > 1 and tally.copies > tally.events


def test_killing_the_collector_loses_and_doubles_nothing(tmp_path: Path):
    check(spool_run(tmp_path, kills=3))


def test_nor_with_the_live_store_in_redis(tmp_path: Path):
    if cause := why_no_redis():
        pytest.skip(cause)
    with RedisServer() as redis:
        check(spool_run(tmp_path, kills=2, live=redis.url, seed=1))


@pytest.mark.slow
def test_killing_kafka_the_collector_and_the_consumer_loses_and_doubles_nothing(tmp_path: Path):
    if cause := why_no_kafka():
        pytest.skip(cause)
    check(kafka_run(tmp_path, kills=2))
