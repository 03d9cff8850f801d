"""Events into Kafka: stored when every replica in sync has them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from longtail.errors import Unavailable
from longtail.events.spool import Row, SpoolFull
from longtail.features.live import LiveEvent
from serving.collector.config import KafkaConfig
from serving.collector.log import say

POLL_S = 0.1
PROBE_EVERY_S = 2.0


class KafkaSink:
    """An idempotent producer with `acks=all`; the key of a message is the event's id.

    Whether an id was told before only the consumer knows (`serving.collector.drain`): every row counts as new here.
    """

    def __init__(self, config: KafkaConfig, pending: int) -> None:
        self._config, self._pending = config, pending
        self._producer = self._connect()
        self._trouble: str | None = "Kafka has not answered yet"
        self._probed = -PROBE_EVERY_S
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="kafka", daemon=True)
        self._thread.start()

    async def store(self, rows: Sequence[Row]) -> list[bool]:
        loop = asyncio.get_running_loop()
        delivery = _Delivery(loop, len(rows))
        try:
            for row in rows:
                self._producer.produce(
                    self._config.topic, row.content, row.event_id.encode(), on_delivery=delivery.done
                )
        except BufferError as error:
            raise SpoolFull("too many events wait for Kafka") from error
        except KafkaException as error:
            self._failed(str(error))
            raise Unavailable(f"Kafka takes no events: {error}") from error
        failure = await delivery.outcome
        if failure is not None:
            self._failed(failure.str())
            if failure.fatal():
                self._producer = self._connect()
            raise Unavailable(f"Kafka did not take the events: {failure.str()}")
        self._works()
        return [True] * len(rows)

    async def tend(self) -> None:
        if self._trouble is None or time.monotonic() < self._probed + PROBE_EVERY_S:
            return
        self._probed = time.monotonic()
        try:
            await asyncio.to_thread(self._producer.list_topics, self._config.topic, 1.0)
        except KafkaException as error:
            self._failed(str(error))
        else:
            self._works()

    def trouble(self) -> str | None:
        return self._trouble

    def recent(self, lost: bool) -> Iterator[list[LiveEvent]]:
        """Nothing: what Kafka holds is the consumer's business."""
        return iter(())

    async def close(self) -> None:
        await asyncio.to_thread(self._producer.flush, self._config.delivery_s)
        self._stop.set()
        await asyncio.to_thread(self._thread.join)

    def _connect(self) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._config.servers,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 1,
                "compression.type": "lz4",
                "delivery.timeout.ms": int(self._config.delivery_s * 1000),
                "queue.buffering.max.messages": self._pending + 10_000,
                # A broker that restarts is found again within a second.
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 1000,
                "topic.metadata.refresh.interval.ms": 30_000,
                "log_level": 2,
            }
        )

    def _poll(self) -> None:
        while not self._stop.is_set():
            self._producer.poll(POLL_S)

    def _failed(self, cause: str) -> None:
        if self._trouble is None:
            say("store_failed", logging.ERROR, error=cause)
        self._trouble = cause

    def _works(self) -> None:
        if self._trouble is not None:
            say("store_back")
        self._trouble = None


class _Delivery:
    """Counts the reports of one group in the producer's thread, and tells the loop once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rows: int) -> None:
        self._loop, self._left = loop, rows
        self._failure: KafkaError | None = None
        self.outcome: asyncio.Future[KafkaError | None] = loop.create_future()
        if not rows:
            self.outcome.set_result(None)

    def done(self, error: KafkaError | None, message: Message) -> None:
        self._failure = error or self._failure
        self._left -= 1
        if self._left == 0:
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        if not self.outcome.done():
            self.outcome.set_result(self._failure)
