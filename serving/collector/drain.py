"""`python -m serving.collector.drain`: from Kafka into the spool and its Parquet, each event once.

The place in the topic is kept in the same transaction as the rows, so that a crash of either side repeats nothing and
skips nothing; ids that come twice count once.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from prometheus_client import start_http_server

from longtail.errors import InvalidInput, LongtailError
from longtail.events.incoming import Misfit
from longtail.events.spool import Row, Spool
from longtail.metrics import (
    DRAIN_FAILURES,
    DRAIN_LAG,
    DRAINED,
    SPOOL_BYTES,
    SPOOL_ROWS,
    SPOOL_SEAL_FAILURES,
    SPOOL_SEALED,
)
from serving import logs
from serving.collector.config import CollectorConfig, KafkaConfig, SealConfig
from serving.collector.findings import tell
from serving.collector.log import say, told
from serving.collector.message import row_of

GROUP = 5000
WAIT_S = 0.2
LOOK_EVERY_S = 5.0
RETRY_S = 1.0


class Drain:
    """Consumes every partition of a topic into `spool`, from where the spool says it stands."""

    def __init__(self, kafka: KafkaConfig, spool: Spool, seal: SealConfig) -> None:
        self._config, self.spool, self._seal = kafka, spool, seal
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka.servers,
                "group.id": "longtail",  # required by the library; nothing is ever committed to it
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 1000,
                "log_level": 2,
                "error_cb": self._error,
            }
        )
        self._next: dict[int, int] = {}
        self._looked = -LOOK_EVERY_S
        self._down = False

    @property
    def topic(self) -> str:
        """What it reads."""
        return self._config.topic

    def run(self, stopping: Callable[[], bool]) -> None:
        """Consume, store and seal until `stopping()`; what fails is said, counted and tried again."""
        ended = threading.Event()
        sealer = threading.Thread(target=self._seal_now_and_then, args=(ended,), name="seal")
        sealer.start()
        try:
            while not stopping():
                try:
                    self.step()
                except (LongtailError, KafkaException) as error:
                    self._failed(type(error).__name__, str(error))
                    # Whatever was read but not stored is read again.
                    self._next, self._looked = {}, -LOOK_EVERY_S
                    time.sleep(RETRY_S)
        finally:
            ended.set()
            sealer.join()
            self._consumer.close()
            self.spool.close()

    def step(self) -> int:
        """Take what is there, at most `GROUP` messages; how many events were new.

        Raises:
            SpoolFull, Unavailable: the spool does not take them; nothing is lost, the next step takes them again.
            KafkaException: the broker refuses.
        """
        self._look()
        if not self._next:
            time.sleep(WAIT_S)
            return 0
        rows: list[Row] = []
        places: dict[tuple[str, int], int] = {}
        misfits: dict[str, list[tuple[int, int]]] = {}
        for part, offset, content in self._messages():
            expected = self._next[part]
            if offset < expected:
                continue
            if offset > expected >= 0:
                self._gap(part, expected, offset)
            self._next[part] = places[self._config.topic, part] = offset + 1
            try:
                rows.append(row_of(content))
            except Misfit as misfit:
                misfits.setdefault(str(misfit), []).append((part, offset))
        if not places:
            return 0
        new = self.spool.write(rows, places)
        if self._down:
            self._down = False
            say("drain_back")
        for reason, found in misfits.items():
            say("misfits", logging.WARNING, reason=reason, messages=len(found), first=found[0])
        n_misfits = sum(len(found) for found in misfits.values())
        for verdict, n in (("stored", sum(new)), ("duplicate", len(new) - sum(new)), ("misfit", n_misfits)):
            DRAINED.labels(verdict).inc(n)
        return sum(new)

    def lag(self) -> dict[int, int]:
        """Messages of each partition that are not taken yet.

        Raises:
            KafkaException: the broker does not answer.
        """
        behind = {}
        for part, following in self._next.items():
            low, high = self._consumer.get_watermark_offsets(TopicPartition(self._config.topic, part), timeout=1.0)
            behind[part] = high - max(following, low)
        return behind

    def _look(self) -> None:
        """Assign the partitions, and those that were added since; tell how far behind they are."""
        if time.monotonic() < self._looked + LOOK_EVERY_S:
            return
        topic = self._consumer.list_topics(self._config.topic, timeout=5.0).topics[self._config.topic]
        if topic.error is not None:
            raise KafkaException(topic.error)
        self._looked = time.monotonic()
        if set(topic.partitions) != set(self._next):
            kept = self.spool.places(self._config.topic)
            self._next = {part: kept.get(part, OFFSET_BEGINNING) for part in topic.partitions}
            places = [TopicPartition(self._config.topic, part, offset) for part, offset in self._next.items()]
            self._consumer.assign(places)
            say("assigned", topic=self._config.topic, places={str(p): o for p, o in self._next.items()})
        for part, behind in self.lag().items():
            DRAIN_LAG.labels(str(part)).set(max(behind, 0))
            if behind < 0:
                # The topic was made anew: its offsets start over. Ids that are told again count once.
                say("topic_made_anew", logging.ERROR, partition=part, place=self._next[part])
                self._next[part] = OFFSET_BEGINNING
                self._consumer.seek(TopicPartition(self._config.topic, part, OFFSET_BEGINNING))

    def _messages(self) -> Iterator[tuple[int, int, bytes]]:
        """Partition, offset and content of what is there."""
        for message in self._consumer.consume(GROUP, WAIT_S):
            error = message.error()
            if error is not None:
                raise KafkaException(error)
            part, offset = message.partition(), message.offset()
            if part is not None and offset is not None:
                yield part, offset, message.value() or b""

    def _gap(self, part: int, expected: int, offset: int) -> None:
        """Kafka no longer has what comes next: its retention is shorter than this consumer was away."""
        DRAIN_FAILURES.labels("gap").inc()
        say("gap", logging.ERROR, partition=part, first_missing=expected, next_there=offset)

    def _error(self, error: KafkaError) -> None:
        self._failed(error.name(), error.str())

    def _failed(self, kind: str, cause: str) -> None:
        DRAIN_FAILURES.labels(kind).inc()
        if not self._down:
            self._down = True
            say("drain_failed", logging.ERROR, error=cause)

    def _seal_now_and_then(self, ended: threading.Event) -> None:
        last, stopping = time.monotonic(), False
        while not stopping:
            stopping = ended.wait(min(1.0, self._seal.every_s))
            SPOOL_ROWS.set(self.spool.rows)
            SPOOL_BYTES.set(self.spool.bytes)
            try:
                self.spool.forget_ids()
                due = time.monotonic() >= last + self._seal.every_s or self.spool.rows >= self._seal.rows
                if not due and not stopping:
                    continue
                last = time.monotonic()
                sealed = self.spool.seal()
            except Exception as error:  # noqa: BLE001 - the events are safe in the spool, and the next seal may work
                SPOOL_SEAL_FAILURES.inc()
                say("seal_failed", logging.ERROR, error=told(error))
                continue
            if sealed.rows:
                SPOOL_SEALED.inc(sealed.rows)
                say("sealed", rows=sealed.rows, files=sealed.files, seconds=round(sealed.seconds, 3))


def build(state: Path, config_file: Path, metrics_port: int | None = None) -> Drain:
    """The consumer that a configuration describes.

    Raises:
        LongtailError: a mistake in the arguments, or another process has the folder.
    """
    config = CollectorConfig.load(config_file)
    if config.kafka is None:
        raise InvalidInput(f"{config_file}: kafka.servers must say where events are taken from")
    try:
        if metrics_port:
            start_http_server(metrics_port, os.environ.get("LONGTAIL_HOST", "127.0.0.1"))
    except (OSError, OverflowError) as error:
        raise InvalidInput(f"--metrics_port {metrics_port}: {getattr(error, 'strerror', None) or error}") from None
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"--state {state}: cannot be made or is no folder: {error.strerror}") from None
    spool = Spool(state, limits=config.limits.spool, horizon_days=config.horizon_days)
    return Drain(config.kafka, spool, config.seal)


def main(argv: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT."""
    flags = argparse.ArgumentParser(
        prog="python -m serving.collector.drain", description="Takes events from Kafka into date-partitioned Parquet."
    )
    flags.add_argument("--state", type=Path, required=True, help="folder of the spool and its Parquet")
    flags.add_argument("--config", type=Path, required=True, help="the collector's YAML: kafka, limits, seal")
    flags.add_argument(
        "--metrics_port", type=int, help="Prometheus metrics on this port; loopback unless LONGTAIL_HOST says otherwise"
    )
    flags.add_argument("--findings", type=Path, help="monitor.prom of `longtail monitor`, told with the metrics")
    given = flags.parse_args(argv)
    logs.configure("drain")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        drain = build(given.state, given.config, given.metrics_port)
    except LongtailError as error:
        print(f"drain: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    tell(given.findings)
    say("started", topic=drain.topic, state=given.state)
    drain.run(stop.is_set)
    say("stopped")


if __name__ == "__main__":
    main()
