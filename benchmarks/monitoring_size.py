"""Time and memory of checking a day of a large shop.

    python -m benchmarks.monitoring_size [--events 10000000] [--bundle runs/demo/.../bundle]

Writes a day as the servers of a shop would have: about that many events and shown places, lists of eight with the
features of what was shown, and checks it in a process of its own. Without `--bundle` a small one is trained first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.served_shop import train
from longtail.datasets.simulator import SimulatorConfig
from longtail.engine.impressions import SCHEMA
from longtail.engine.parts import Bundle
from longtail.experiments.log import scan
from longtail.monitoring.log import day_of, iso
from longtail.monitoring.reference import Reference
from longtail.ranking.ranker import RankerConfig
from longtail.retrieval.two_tower import TwoTowerConfig
from longtail.schema import DAY_US
from longtail.training import TrainingConfig

PLACES, LISTS_A_FILE = 8, 1000  # as the servers write them
CHECK = """
import json, sys, time
from benchmarks.analysis_size import peak_mb
from longtail.monitoring.run import monitor
began, cpu = time.monotonic(), time.process_time()
signals = monitor(sys.argv[1], sys.argv[2], sys.argv[3], [sys.argv[4]], now=2**60)
told = {"seconds": time.monotonic() - began, "processor_seconds": time.process_time() - cpu}
told["rss_mb"] = peak_mb()
told["verdicts"] = len(signals)
told["fired"] = sorted({s.name for s in signals if s.fired})
told["unmeasured"] = sorted({s.name for s in signals if s.value != s.value})
print(json.dumps(told))
"""


def small_bundle(folder: Path) -> Path:
    """A bundle on a simulated shop, trained in half a minute."""
    config = SimulatorConfig(users=1500, items=2000, days=60, events=250_000, seed=1)
    tower = TwoTowerConfig(dim=16, layers=1, epochs=1)
    ranker = RankerConfig(rounds=60, max_depth=5, threads=1)
    return train(folder, config, 60, TrainingConfig(windows=3, requests=1500, depth=60, two_tower=tower, ranker=ranker))


def write_day(state: Path, bundle: Path, day: str, events: int) -> tuple[int, int]:
    """The log of a day: (events, lists). Four of five rows are places of lists, one is what people did."""
    opened, reference = Bundle.open(bundle, contents=False), Reference.read(bundle)
    assert reference is not None
    rng = np.random.default_rng(0)
    lists, told = events * 4 // 5 // PLACES, events // 5
    ids = pa.array(opened.catalogue.item_ids, pa.string())
    people = pa.array([f"person{n}" for n in range(lists // 3)], pa.string())
    popular = 1 / np.arange(1, len(ids) + 1) ** 0.8
    shares = np.cumsum(popular / popular.sum())
    start = day_of(day)
    folder = state / "impressions" / f"date={day}"
    folder.mkdir(parents=True)
    names = pa.array(opened.sources, pa.string())
    for first in range(0, lists, LISTS_A_FILE):
        n = min(LISTS_A_FILE, lists - first)
        # The rows of a list are consecutive, so that its items are different ones.
        at = (rng.integers(0, len(reference.features), n)[:, None] + np.arange(PLACES)) % len(reference.features)
        item = (np.searchsorted(shares, rng.random(n)).clip(max=len(ids) - 1)[:, None] + np.arange(PLACES)) % len(ids)
        bounds = pa.array(np.arange(n + 1) * PLACES, pa.int32())
        many = lambda values, bounds=bounds: pa.ListArray.from_arrays(bounds, values)  # noqa: E731
        features = [row.astype("<f4").tobytes() for row in reference.features[at]]
        micros = start + np.sort(rng.integers(0, DAY_US, n))
        empty = pa.ListArray.from_arrays(pa.array(np.zeros(n + 1, np.int32)), pa.array([], pa.int64()))
        columns = {
            "request_id": pa.array([f"r{first + j}" for j in range(n)]),
            "user_id": people.take(pa.array((first + np.arange(n)) // 3 % len(people))),
            "session_id": pa.nulls(n, pa.string()),
            "surface": pa.array(["homepage", "cart"]).take(pa.array(rng.integers(0, 2, n))),
            "time": pa.array(micros),
            "items": many(ids.take(pa.array(item.ravel()))),
            "propensity": many(pa.array(np.ones(n * PLACES))),
            "score": many(pa.array(reference.score[at].ravel().astype(float))),
            "source": many(names.take(pa.array(rng.integers(0, len(names), n * PLACES)))),
            "segment": pa.array(np.full(n, -1, np.int32)),
            "history_item": empty.cast(pa.list_(pa.int32())),
            "history_time": empty,
            "candidates": many(pa.array(item.ravel())),
            "features": pa.array(features, pa.binary()),
        }
        same = {"variant": "champion", "model_version": opened.version, "level": "full", "made": "live"}
        columns |= {name: pa.array([value] * n) for name, value in same.items()}
        table = pa.table({f.name: columns[f.name].cast(f.type) for f in SCHEMA})
        pq.write_table(table, folder / f"part-{first:08d}.parquet")
    target = state / "events" / f"date={day}"
    target.mkdir(parents=True)
    with duckdb.connect() as con:
        con.execute("SET memory_limit = '3GB'; SELECT setseed(0.5)")
        catalogue = scan([str(bundle / "catalogue" / "items.parquet")])
        con.execute(f"CREATE TABLE items AS SELECT item_id, row_number() OVER () AS n FROM {catalogue}")
        con.execute(f"""
            COPY (
                SELECT 'e' || drawn.n AS event_id, 'person' || u AS user_id, item_id, kind AS event_type,
                    make_timestamptz(moment) AS timestamp, 's' || u AS session_id, 'homepage' AS surface,
                    NULL::INTEGER AS position, CASE WHEN kind = 'click' THEN 'r' || request END AS request_id,
                    CASE WHEN kind = 'purchase' THEN round(exp(3 + draw), 2) END AS value, NULL::BIGINT AS dwell_ms,
                    'mobile' AS device, 1.0 AS quantity, NULL::DOUBLE AS propensity, 'north' AS region,
                    NULL::VARCHAR AS device_id, make_timestamptz(moment + 3000000) AS received_at,
                    NULL::VARCHAR AS extra
                FROM (
                    SELECT e.n, CAST(floor(random() * {len(people)}) AS BIGINT) AS u, random() AS draw,
                        CAST(floor(random() * {lists}) AS BIGINT) AS request,
                        {start} + CAST(floor(random() * {DAY_US}) AS BIGINT) AS moment,
                        CAST(floor(random() * {len(ids)}) AS BIGINT) + 1 AS item,
                        CASE WHEN e.n % 10 = 0 THEN 'purchase' WHEN e.n % 10 = 1 THEN 'add_to_cart'
                            WHEN e.n % 10 < 4 THEN 'view' ELSE 'click' END AS kind
                    FROM range({told}) e(n)
                ) drawn JOIN items ON items.n = drawn.item
            ) TO '{target}/part-0.parquet' (FORMAT parquet)
        """)  # fmt: skip
    return told, lists


def main() -> None:
    """Make, check, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--bundle", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = given.bundle or small_bundle(folder)
        day = iso(Bundle.open(bundle, contents=False).as_of + DAY_US)
        began = time.monotonic()
        told, lists = write_day(folder / "state", bundle, day, given.events)
        size = sum(p.stat().st_size for p in (folder / "state").rglob("*.parquet")) / 2**30
        print(
            f"{told:,} events and {lists:,} lists, {size:.1f} GB, written in {time.monotonic() - began:.0f} s",
            flush=True,
        )
        asked = [sys.executable, "-c", CHECK, str(folder / "state"), str(bundle), str(folder / "out"), day]
        done = subprocess.run(asked, check=True, capture_output=True, text=True)
    print(json.dumps(json.loads(done.stdout.splitlines()[-1]), indent=1))


if __name__ == "__main__":
    main()
