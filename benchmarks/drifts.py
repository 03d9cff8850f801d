"""What monitoring finds when something is put wrong, how soon, and how often it calls when nothing is.

    python -m benchmarks.drifts [--seeds 3] [--quiet 40] [--most 14]

A simulated shop lives with the lists of a trained bundle (`served_shop`), its servers' logs are checked day by day as
`longtail monitor` does. After 42 days it goes on in several worlds: one where nothing happens, and one for each fault.
The bundle is not trained again, so the checks of ages are left out: they would be right on every day.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.served_shop import NO_FAULT, Fault, Served, train
from longtail.datasets.simulated_world import Drift
from longtail.datasets.simulator import SimulatorConfig
from longtail.monitoring import lasting
from longtail.monitoring.config import Override, Watch
from longtail.monitoring.history import History
from longtail.monitoring.run import HISTORY, Watched, check_day
from longtail.monitoring.signal import Signal
from longtail.ranking.ranker import RankerConfig
from longtail.retrieval.two_tower import TwoTowerConfig
from longtail.training import TrainingConfig

WATCH = Watch(checks={name: Override(enabled=False) for name in ("model_age", "index_age", "features_age")})
TRAINED, BEFORE = 45, WATCH.before.days + lasting.DAYS  # days
EVENTS = 6_000  # a day, places of lists among them
BUSINESS = {"ctr", "conversion", "revenue", "purchase_value", "lasting_change"}
MODEL = {"feature_drift", "prediction_drift"}
SPREAD = {"exposure_gini", "exposure_coverage", "exposure_entropy", "exposure_top1"}


BROKEN = {"feature_parity", "source_share"}


@dataclass(frozen=True)
class World:
    """What changes, and the checks that may say so: another one that fires is a false alarm."""

    seen_by: set[str]
    tastes: float = 0.0
    prices: float = 1.0
    fault: Fault = NO_FAULT

    def drift(self, day: int) -> Drift | None:
        """The world's own change from `day` on."""
        changed = self.tastes or self.prices != 1.0
        return Drift(day, tastes=self.tastes, prices=self.prices) if changed else None


def worlds(source: str) -> dict[str, World]:
    """All worlds; `source` is the one that goes missing."""
    return {
        "tastes move by 0.7": World(BUSINESS | MODEL | SPREAD | {"source_share"}, tastes=0.7),
        "prices rise by a third": World(BUSINESS | MODEL | SPREAD, prices=1.33),
        "a feature arrives empty": World(MODEL | BUSINESS | SPREAD | BROKEN | {"feature_missing"},
                                         fault=Fault(missing="pair_since")),
        "a feature arrives in another unit": World(MODEL | BUSINESS | SPREAD | BROKEN,
                                                   fault=Fault(scaled="item_price")),
        "a source is missing": World(MODEL | BUSINESS | SPREAD | {"source_share"}, fault=Fault(dead=source)),
        "three bots": World({"bot_traffic", "events_volume", "events_hours", "missing_values"} | BUSINESS,
                            fault=Fault(bots=3)),
        "everybody gets the bestsellers": World(SPREAD | MODEL | BUSINESS | {"source_share", "new_item_share"},
                                                fault=Fault(popular=True)),
    }  # fmt: skip


@dataclass
class Found:
    """What a world came to: days until the first right alarm (0: not within the limit), events until then, by whom."""

    days: int
    events: int
    checks: list[str]


def check(served: Served, watched: Watched, history: History) -> list[Signal]:
    """Live and check a day."""
    day = served.live()
    return check_day(served.state, watched, history, day, WATCH, 2**60)


def until_found(served: Served, world: World, watched: Watched, history: History, most: int) -> Found:
    """Days go by until a check says it."""
    events = 0
    for n in range(1, most + 1):
        signals = check(served, watched, history)
        events += int(next(s.value for s in signals if s.name == "events_volume"))
        events += sum(len(row.items) for row in served.rows)
        fired = sorted({s.name for s in signals if s.fired})
        if world.seen_by & set(fired):
            return Found(n, events, fired)
    return Found(0, events, [])


def one_seed(seed: int, quiet: int, most: int, folder: Path) -> dict:
    """All worlds of one seed."""
    days = TRAINED + BEFORE + max(quiet, most) + 1
    config = SimulatorConfig(users=1500, items=500, days=days, events=EVENTS * days, seed=seed, guest_share=0.0)
    tower = TwoTowerConfig(dim=16, layers=1, epochs=1)
    ranker = RankerConfig(rounds=80, max_depth=5, threads=1)
    train(folder, config, TRAINED, TrainingConfig(windows=3, requests=1500, depth=60, two_tower=tower, ranker=ranker))
    served = Served.open(folder, folder / "state", config, TRAINED)
    watched, history = Watched.open(folder / "bundle"), History(folder / "quiet" / HISTORY)
    for _ in range(BEFORE):
        check(served, watched, history)
    shown = Counter(source for row in served.rows for source in row.source)
    source = shown.most_common(1)[0][0]
    out: dict = {"seed": seed, "source": source, "worlds": {}}
    for name, world in worlds(source).items():
        beside = folder / "world"
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(folder / "state", beside / "state")
        shutil.copytree(folder / "quiet", beside / "history")
        other = served.fork(beside / "state", world.drift(served.day), world.fault)
        found = until_found(other, world, watched, History(beside / "history" / HISTORY), most)
        out["worlds"][name] = vars(found)
        print(f"seed {seed}, {name}: {vars(found)}", flush=True)
    alarms: list[list[str]] = []
    for _ in range(quiet):
        fired = [s for s in check(served, watched, history) if s.fired]
        alarms.append(sorted({s.name for s in fired}))
        for s in fired:
            print(f"seed {seed}, nothing wrong on {s.day}: {s.name} {s.part}: {s.reason}", flush=True)
    return out | {"quiet": quiet, "alarms": alarms}


def main() -> None:
    """All seeds; a table for the benchmark page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--quiet", type=int, default=40, help="days without a fault, a seed")
    parser.add_argument("--most", type=int, default=14, help="days until a fault counts as not found")
    parser.add_argument("--out", type=Path, help="JSON file for everything that was found")
    given = parser.parse_args()
    began, results = time.process_time(), []
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        with tempfile.TemporaryDirectory() as name:
            results.append(one_seed(seed, given.quiet, given.most, Path(name)))
        if given.out:
            given.out.write_text(json.dumps(results, indent=1))
    print("\n| what was put wrong | found | days until then | events until then | first to say so |")
    print("| --- " * 5 + "|")
    for name in results[0]["worlds"]:
        found = [r["worlds"][name] for r in results]
        hits = [f for f in found if f["days"]]
        checks = Counter(c for f in hits for c in f["checks"])
        told = ", ".join(f"{c} ({n})" for c, n in checks.most_common())
        spans = [
            f"{min(f[k] for f in hits):,} to {max(f[k] for f in hits):,}" if hits else "–" for k in ("days", "events")
        ]
        print(f"| {name} | {len(hits)} of {len(found)} | {spans[0]} | {spans[1]} | {told} |")
    days = [alarms for r in results for alarms in r["alarms"]]
    called = Counter(check for alarms in days for check in alarms)
    rate = 100 * float(np.mean([bool(a) for a in days])) if days else 0.0
    print(f"\n{len(days)} days without a fault: {rate:.1f} of 100 with an alarm, by check: {dict(called)}")
    print(f"processor seconds: {time.process_time() - began:.0f}")


if __name__ == "__main__":
    main()
