"""Events a second into a real collector, beside what its disk can sync.

    python -m benchmarks.collector [--seconds 5] [--live redis://127.0.0.1:6379/0] [--out FILE.json]

Every 200 means that the events are on disk. Requests are made before the clock starts; the load shares the cores. The
last line is a collector that lets 1,000 events wait while 64 clients send 100 each: how many are turned away, how many
lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orjson

from benchmarks.load import closed_loop, quantiles
from longtail.events.spool import Spool
from serving.process import LOOPBACK, free_port, spawn, stop, tail, wait_until

PATH = "/v1/events"
KEY = {"LONGTAIL_PSEUDONYM_KEY": "a key for benchmarks", "OMP_NUM_THREADS": "1"}
PENDING = 1000
RUNS = ((1, 1), (16, 1), (64, 1), (4, 100), (8, 500))  # (clients, events a request)
TICKS = os.sysconf("SC_CLK_TCK")


def raw(folder: Path, rows: int, seconds: float) -> float:
    """Rows a second that SQLite takes with `synchronous=FULL` and `rows` a commit: id and 300 bytes each."""
    with closing(sqlite3.connect(folder / f"raw-{rows}.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE event (id TEXT PRIMARY KEY, content BLOB)")
        content, n, start = b"x" * 300, 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            connection.execute("BEGIN")
            connection.executemany(
                "INSERT INTO event VALUES (?, ?)", [(f"event-{k}", content) for k in range(n, n + rows)]
            )
            connection.execute("COMMIT")
            n += rows
        return n / (time.perf_counter() - start)


def bodies(run: str, batch: int, requests: int) -> Iterator[bytes]:
    """Requests of a shop: 1,000 people who view, click, put into carts and buy."""
    kinds = ("view", "view", "click", "click", "add_to_cart", "purchase")
    for n in range(requests):
        events = [
            {
                "event_id": f"{run}-{k}", "user_id": f"customer-{k % 1000}", "item_id": f"item-{k % 5003}",
                "event_type": kinds[k % 6], "timestamp": time.time_ns() // 1000, "session_id": f"session-{k % 1000}",
                "surface": "homepage", "position": k % 20, "request_id": f"request-{k // 20}", "device": "mobile",
            }
            for k in range(n * batch, (n + 1) * batch)
        ]  # fmt: skip
        yield orjson.dumps(events[0] if batch == 1 else {"events": events})


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / TICKS


def measure(port: int, pid: int, clients: int, batch: int, seconds: float) -> dict[str, Any]:
    """One closed loop of `clients` that send `batch` events each time, for so many seconds."""
    run = f"{clients}x{batch}"
    made = list(bodies(run, batch, int(seconds * (12_000 if batch == 1 else 60_000 / batch))))
    before, start = cpu_s(pid), time.perf_counter()
    answers = asyncio.run(closed_loop([(LOOPBACK, port)], made, clients, seconds, path=PATH))
    spent, cpu = time.perf_counter() - start, cpu_s(pid) - before
    failed = [a for a in answers if a.status != 200 or orjson.loads(a.body)["accepted"] != batch]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(answers)} requests failed: {failed[0]}")
    events = len(answers) * batch
    return {
        "clients": clients, "batch": batch, "events_s": round(events / spent),
        "requests_s": round(len(answers) / spent), **quantiles([a.ms for a in answers]),
        "cpu_s_per_1000_events": round(cpu / events * 1000, 4),
    }  # fmt: skip


@contextmanager
def collector(state: Path, flags: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(port, process id) of a collector that takes events."""
    port, log = free_port(), state.with_suffix(".log")
    argv = [sys.executable, "-m", "serving.collector", "--state", str(state), "--port", str(port), *flags]
    process = spawn(argv, log, KEY)
    try:
        if not wait_until(lambda: _answers(port), process, 60):
            raise SystemExit(f"the collector did not start:\n{tail(log)}")
        yield port, process.pid
    finally:
        stop(process)


def pressure(folder: Path, seconds: float) -> dict[str, Any]:
    """64 clients send 100 events each to a collector that lets `PENDING` wait; what was accepted must be stored."""
    config, state, batch = folder / "pressure.yaml", folder / "pressure", 100
    config.write_text(f"limits: {{pending: {PENDING}}}\nseal: {{every_s: 3600, rows: 1000000000}}\n")
    made = list(bodies("pressure", batch, int(seconds * 2000)))
    with collector(state, ["--config", str(config)]) as (port, _):
        answers = asyncio.run(closed_loop([(LOOPBACK, port)], made, 64, seconds, path=PATH))
    statuses = Counter(answer.status for answer in answers)
    if statuses.keys() - {200, 429}:
        raise SystemExit(f"answers that should not be: {statuses}")
    accepted = sum(orjson.loads(answer.body)["accepted"] for answer in answers if answer.status == 200)
    with closing(Spool(state)) as spool:
        stored = spool.rows
    return {"requests": len(answers), "turned_away": statuses[429], "accepted": accepted, "lost": accepted - stored}


def main() -> None:
    """Start a collector, measure, print a table."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--seconds", type=float, default=5.0, help="of each row")
    flags.add_argument("--live", help="live store; default SQLite")
    flags.add_argument("--out", type=Path, help="write the figures as JSON, too")
    given = flags.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as scratch:  # not /tmp: that may be memory, which needs no sync
        folder = Path(scratch).resolve()
        figures: dict[str, Any] = {"raw_rows_s": {}, "collector": []}
        for rows in (1, 100, 1000):
            figures["raw_rows_s"][str(rows)] = round(raw(folder, rows, 2.0))
            print(f"raw SQLite, {rows:>4} a commit: {figures['raw_rows_s'][str(rows)]:>7,} rows/s")
        with collector(folder / "state", ["--live", given.live] if given.live else []) as (port, pid):
            print(
                f"{'clients':>7} {'batch':>5} {'events/s':>9} {'p50 ms':>7} {'p99 ms':>7} {'CPU s / 1,000 events':>21}"
            )
            for clients, batch in RUNS:
                row = measure(port, pid, clients, batch, given.seconds)
                figures["collector"].append(row)
                print(
                    f"{clients:>7} {batch:>5} {row['events_s']:>9,} {row['p50_ms']:>7.1f} {row['p99_ms']:>7.1f} "
                    f"{row['cpu_s_per_1000_events']:>21.4f}"
                )
        figures["pressure"] = row = pressure(folder, given.seconds)
        print("pressure: " + ", ".join(f"{name} {n:,}" for name, n in row.items()))
    if given.out:
        given.out.write_text(json.dumps(figures, indent=2) + "\n")


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/readyz", timeout=1) as reply:
            return reply.status == 200
    except OSError:
        return False


if __name__ == "__main__":
    main()
