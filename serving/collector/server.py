"""The collector's process: its flags, its parts, its HTTP server."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from longtail.errors import InvalidInput, LongtailError
from longtail.events.spool import Spool
from longtail.features.live import open_live
from longtail.identity import Pseudonymiser, load_key
from serving import logs
from serving.collector.app import Collector
from serving.collector.config import CollectorConfig
from serving.collector.feed import Feed
from serving.collector.findings import tell
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
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"--state {state}: cannot be made or is no folder: {error.strerror}") from None
    store = open_live(live or f"sqlite://{state.resolve()}/live.db", writer=True)
    watch, pending = Guard.load(guard), config.limits.pending
    if config.kafka is not None and config.sink == "kafka":
        from serving.collector.kafka_sink import KafkaSink

        kafka = KafkaSink(config.kafka, pending)
        return Collector(intake, kafka, Feed(store, kafka.recent), watch, pending)
    from serving.collector.spool_sink import SpoolSink

    spool = SpoolSink(Spool(state, limits=config.limits.spool, horizon_days=config.horizon_days), config.seal)
    return Collector(intake, spool, Feed(store, spool.recent), watch, pending, min(1.0, config.seal.every_s))


def bound(host: str, port: int) -> socket.socket:
    """A socket at this address, not listening yet.

    Raises:
        InvalidInput: another process has the port, or there is no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise InvalidInput(
            f"cannot listen on {host} port {port}: {getattr(error, 'strerror', None) or error}"
        ) from None
    return listener


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then store what was taken and end."""
    flags = argparse.ArgumentParser(prog="python -m serving.collector", description="Takes events over HTTP.")
    flags.add_argument("--state", type=Path, required=True, help="folder of the spool, its Parquet and the live store")
    flags.add_argument("--port", type=int, required=True, help="TCP port; loopback unless LONGTAIL_HOST says otherwise")
    flags.add_argument("--config", type=Path, help="YAML: sink, kafka, limits, seal, horizon_days")
    flags.add_argument("--live", help="live store: sqlite:///path/live.db (default: in the state folder) or redis://")
    flags.add_argument("--pseudonym_key", type=Path, help="file of the key; or the variable LONGTAIL_PSEUDONYM_KEY")
    flags.add_argument("--guard", type=Path, help="YAML: API keys, rate and size limits")
    flags.add_argument("--findings", type=Path, help="monitor.prom of `longtail monitor`, told with the metrics")
    given = flags.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    logs.configure("collector")
    sys.setswitchinterval(SWITCH_S)
    host = os.environ.get(HOST_VARIABLE, "127.0.0.1")
    try:
        config = CollectorConfig.load(given.config)
        listener = bound(host, given.port)
        app = build(given.state, config, given.live, given.pseudonym_key, given.guard)
    except LongtailError as error:
        print(f"collector: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    tell(given.findings)
    say("started", sink=config.sink, state=given.state, host=host, port=given.port)
    # uvicorn drains at these signals and raises them again at its end, when there is nothing left to interrupt.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    served = uvicorn.Config(
        app, loop="uvloop", http="httptools", lifespan="on", access_log=False, log_config=None, server_header=False,
        date_header=False, timeout_graceful_shutdown=GRACE_S, backlog=2048,
    )  # fmt: skip
    uvicorn.Server(served).run(sockets=[listener])
