"""The collector's process: its flags, its parts, its HTTP server."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from longtail.errors import LongtailError
from longtail.events.spool import Spool
from longtail.features.live import open_live
from longtail.identity import Pseudonymiser, load_key
from serving import logs
from serving.collector.app import Collector
from serving.collector.config import CollectorConfig
from serving.collector.feed import Feed
from serving.collector.intake import Intake
from serving.collector.log import say
from serving.edge.guard import Guard

HOST_VARIABLE = "LONGTAIL_HOST"
GRACE_S = 10
# A seal and the event loop take turns at the interpreter: a request waits no longer than this for its turn.
SWITCH_S = 0.001


def build(
    state: Path, config: CollectorConfig, live: str | None, key_file: Path | None, guard: Path | None
) -> Collector:
    """The collector over a state folder; `live` None is a SQLite store in it.

    Raises:
        LongtailError: a mistake in the arguments, or another process has the folder.
    """
    pseudonymiser = Pseudonymiser(load_key(key_file))
    intake = Intake(pseudonymiser, config.limits.bounds, config.limits.batch)
    state.mkdir(parents=True, exist_ok=True)
    store = open_live(live or f"sqlite://{state.resolve()}/live.db", writer=True)
    watch, pending = Guard.load(guard), config.limits.pending
    if config.kafka is not None and config.sink == "kafka":
        from serving.collector.kafka_sink import KafkaSink

        kafka = KafkaSink(config.kafka, pending)
        return Collector(intake, kafka, Feed(store, kafka.recent), watch, pending)
    from serving.collector.spool_sink import SpoolSink

    spool = SpoolSink(Spool(state, limits=config.limits.spool, horizon_days=config.horizon_days), config.seal)
    return Collector(intake, spool, Feed(store, spool.recent), watch, pending, min(1.0, config.seal.every_s))


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then store what was taken and end."""
    flags = argparse.ArgumentParser(prog="python -m serving.collector", description="Takes events over HTTP.")
    flags.add_argument("--state", type=Path, required=True, help="folder of the spool, its Parquet and the live store")
    flags.add_argument("--port", type=int, required=True, help="TCP port; loopback unless LONGTAIL_HOST says otherwise")
    flags.add_argument("--config", type=Path, help="YAML: sink, kafka, limits, seal, horizon_days")
    flags.add_argument("--live", help="live store: sqlite:///path/live.db (default: in the state folder) or redis://")
    flags.add_argument("--pseudonym_key", type=Path, help="file of the key; or the variable LONGTAIL_PSEUDONYM_KEY")
    flags.add_argument("--guard", type=Path, help="YAML: API keys, rate and size limits")
    given = flags.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    logs.configure("collector")
    sys.setswitchinterval(SWITCH_S)
    try:
        config = CollectorConfig.load(given.config)
        app = build(given.state, config, given.live, given.pseudonym_key, given.guard)
    except LongtailError as error:
        print(f"collector: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    host = os.environ.get(HOST_VARIABLE, "127.0.0.1")
    say("started", sink=config.sink, state=given.state, host=host, port=given.port)
    # uvicorn drains at these signals and raises them again at its end, when there is nothing left to interrupt.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.run(
        app, host=host, port=given.port, loop="uvloop", http="httptools", lifespan="on", access_log=False,
        log_config=None, server_header=False, date_header=False, timeout_graceful_shutdown=GRACE_S, backlog=2048,
    )  # fmt: skip
