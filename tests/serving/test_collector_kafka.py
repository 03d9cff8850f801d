"""The collector with a real Kafka behind it, and the consumer that takes events from there into Parquet."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from longtail.errors import InvalidInput
from serving.collector.drain import build
from tests.serving.collector_crash import DrainProcess
from tests.serving.collector_process import CollectorProcess, sealed, stored
from tests.serving.kafka import Kafka, why_no_kafka
from tests.serving.test_collector import PSEUDONYMS, event, live, until

pytestmark = [pytest.mark.serving, pytest.mark.slow]


def test_a_consumer_that_cannot_start_says_so_in_one_line(tmp_path: Path):
    file = tmp_path / "collector.yaml"
    for content, state, port, says in (
        ("sink: spool\n", "state", None, "kafka.servers must say"),
        ("kafka: {servers: 'x:1', topics: a}\n", "state", None, r"line 1: kafka\.topics: unknown key"),
        ("kafka: {servers: 'x:1'}\n", "state", 65536, "--metrics_port 65536"),
        ("kafka: {servers: 'x:1'}\n", file.name, None, "is no folder"),
    ):
        file.write_text(content)
        with pytest.raises(InvalidInput, match=says):
            build(tmp_path / state, file, port)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    if cause := why_no_kafka():
        pytest.skip(cause)
    with Kafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


def config(kafka: Kafka, topic: str) -> dict:
    return {
        "sink": "kafka", "kafka": {"servers": kafka.servers, "topic": topic, "delivery_s": 3}, "seal": {"every_s": 0.2},
    }  # fmt: skip


def test_events_go_through_kafka_into_parquet_once(kafka: Kafka, tmp_path: Path):
    with CollectorProcess(tmp_path / "collector", config(kafka, "through")) as collector:
        until(lambda: collector.ask("GET", "/readyz")[0] == 200)
        sent = [event(n, user_id="ann", item_id=f"i{n}", session_id="s", colour="red") for n in range(50)]
        assert collector.post(sent)[1]["accepted"] == 50
        assert collector.post(sent[:20])[0] == 200
        assert len(live(collector.state, PSEUDONYMS.of("ann"))) == 50
    drain = DrainProcess(tmp_path / "drained", config(kafka, "through")).start()
    try:
        drain.wait_for({f"e{n}" for n in range(50)})
    finally:
        assert drain.stop() == 0
    assert stored(drain.state) == {f"e{n}": 1 for n in range(50)}
    row = sealed(drain.state)[0]
    assert row["user_id"] == PSEUDONYMS.of("ann") and json.loads(row["extra"]) == {"colour": "red"}
    assert [line["event"] for line in drain.lines()][-1] == "stopped"


def test_while_kafka_is_away_nobody_is_told_that_all_is_well(kafka: Kafka, tmp_path: Path):
    broker = Kafka(tmp_path / "other")
    with CollectorProcess(tmp_path / "collector", config(broker, "away")) as collector:
        status, _, headers = collector.post(event(0))
        assert status == 503 and headers["retry-after"]
        assert collector.ask("GET", "/readyz")[0] == 503 and collector.ask("GET", "/healthz")[0] == 200
        with broker:
            until(lambda: collector.ask("GET", "/readyz")[0] == 200, 30)
            assert collector.post(event(0))[0] == 200
            drain = DrainProcess(tmp_path / "drained", config(broker, "away")).start()
            try:
                drain.wait_for({"e0"})
            finally:
                drain.stop()
    assert stored(drain.state) == {"e0": 1}


def test_what_no_collector_wrote_is_passed_over_and_said(kafka: Kafka, tmp_path: Path):
    producer = Producer({"bootstrap.servers": kafka.servers})
    now = time.time_ns() // 1000
    good = {
        "event_id": "good", "user_id": "0" * 32, "item_id": "i", "event_type": "view", "timestamp": now,
        "received_at": now,
    }  # fmt: skip
    others = [
        b"", b"\xff", b"[]", b"{}", json.dumps({**good, "event_id": "raw", "user_id": "ann@example.org"}).encode(),
        json.dumps({**good, "event_id": "late", "timestamp": now + 10**12}).encode(),
        json.dumps({**good, "event_id": "odd", "received_at": "now"}).encode(),
    ]  # fmt: skip
    for content in (*others, json.dumps(good).encode()):
        producer.produce("mixed", content)
    producer.flush(10)
    drain = DrainProcess(tmp_path / "drained", config(kafka, "mixed")).start()
    try:
        drain.wait_for({"good"})
    finally:
        drain.stop()
    assert stored(drain.state) == {"good": 1}
    said = [line for line in drain.lines() if line["event"] == "misfits"]
    assert sum(line["messages"] for line in said) == len(others)
    assert "ann@example.org" not in drain.log.read_text()


def test_a_topic_made_anew_is_read_from_its_start(kafka: Kafka, tmp_path: Path):
    admin = AdminClient({"bootstrap.servers": kafka.servers})
    with CollectorProcess(tmp_path / "collector", config(kafka, "anew")) as collector:
        drain = DrainProcess(tmp_path / "drained", config(kafka, "anew")).start()
        try:
            assert collector.post([event(n) for n in range(60)])[0] == 200
            drain.wait_for({f"e{n}" for n in range(60)})
            drain.stop()
            admin.delete_topics(["anew"])["anew"].result(10)
            until(lambda: "anew" not in admin.list_topics(timeout=5).topics)
            until(lambda: collector.post([event(n) for n in range(55, 65)])[0] == 200, 30)
            drain.start()
            drain.wait_for({f"e{n}" for n in range(65)})
        finally:
            drain.stop()
    assert stored(drain.state) == {f"e{n}": 1 for n in range(65)}
