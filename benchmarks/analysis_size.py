"""Time and memory of judging an experiment over a large log.

    python -m benchmarks.analysis_size [--events 10000000] [--users 500000]

Makes a log of 56 days, splits people by the product's hash, and analyses four
metrics in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import pyarrow as pa

from longtail.experiments.assignment import places
from longtail.schema import DAY_US

START = 19_755 * DAY_US  # 2024-02-02
FILE = """
name: large
variants: {control: {share: 0.5}, new: {share: 0.5, bundle: challenger}}
metric: revenue
guardrails: [conversion]
also: [ctr, sessions]
minimum_effect: 0.02
dates: {start: 2024-03-01, end: 2024-03-29}
"""
ANALYSE = """
import json, sys, time
from benchmarks.analysis_size import peak_mb
from longtail.experiments.analysis import analyse
from longtail.experiments.config import Experiment
from longtail.experiments.decision import decide
began = time.monotonic()
result = analyse(Experiment.load(sys.argv[1]), sys.argv[2], 2**60)
told = {"seconds": time.monotonic() - began, "rss_mb": peak_mb()}
print(json.dumps({**told, "units": result.units, "sentence": decide(result).sentence}))
"""


def peak_mb() -> float:
    """The most memory that this process has held; `getrusage` would count what it was forked from, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def make(folder: Path, events: int, users: int) -> None:
    """Write events.parquet of about so many events; some people come much more often than others."""
    variant = pa.table({"u": range(users), "new": places([f"u{n}" for n in range(users)], "large") >= 0.5})
    with duckdb.connect() as con:
        con.register("split", variant)
        con.execute("SELECT setseed(0.5)")
        con.execute(f"""
            COPY (
                SELECT 'e' || n AS event_id, 'u' || u AS user_id, 'i' || n % 1000 AS item_id, kind AS event_type,
                    make_timestamptz({START} + day * {DAY_US} + ((n * 7919) % 64800 + 10000) * 1000000) AS timestamp,
                    's' || u || '-' || day AS session_id, 'homepage' AS surface,
                    CASE WHEN kind = 'purchase' THEN round(exp(3 + draw), 2) END AS value,
                    CASE WHEN new THEN 'new' ELSE 'control' END AS variant
                FROM (
                    SELECT n, CAST(floor(random() ** 1.7 * {users}) AS BIGINT) AS u,
                        CAST(floor(random() * 56) AS INT) AS day, random() AS draw,
                        CASE n % 10 WHEN 0 THEN 'purchase' WHEN 1 THEN 'click' WHEN 2 THEN 'click' WHEN 3 THEN 'view'
                            WHEN 4 THEN 'view' WHEN 5 THEN 'add_to_cart' ELSE 'impression' END AS kind
                    FROM range({events}) r(n)
                ) JOIN split USING (u)
            ) TO '{folder}/events.parquet' (FORMAT parquet)
        """)


def main() -> None:
    """Make, analyse, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=500_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, file = Path(name), Path(name) / "experiment.yaml"
        began = time.monotonic()
        make(folder, given.events, given.users)
        file.write_text(FILE)
        print(f"made {given.events:,} events in {time.monotonic() - began:.0f} s", flush=True)
        done = subprocess.run([sys.executable, "-c", ANALYSE, file, folder], check=True, capture_output=True, text=True)
    print(json.dumps(json.loads(done.stdout), indent=2))
    print(f"processor seconds: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime:.0f}")


if __name__ == "__main__":
    main()
