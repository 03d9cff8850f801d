"""What a retraining that monitoring asked for gives back after a drift, against none and one a day, and what it costs.

    python -m benchmarks.regained [--days 12] [--worlds "tastes move by 0.7"] [--out FILE]

The shop of `drifts` lives with a bundle's lists for six quiet weeks. Then, in each world, three shops go on from there:
one keeps its bundle, one is checked every day as `longtail monitor` does and trained in full when the policy below asks
for it (`longtail retrain`'s own decision), one is trained in full every night. All learn from what their servers
logged, read in by `longtail import collected`'s reader; what was trained at night serves the next morning. Quality is
the simulator's truth: how much people wanted what they were shown, in standard deviations, places weighed by the chance
of a look. CPU seconds are of import, training, evaluation and bundle; the libraries are loaded before.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.drifts import BEFORE, EVENTS, TRAINED, World, check, worlds
from benchmarks.loop_shop import worth
from benchmarks.served_shop import Served, learned, train
from longtail.benchmark import known_key
from longtail.datasets.importing import import_shop
from longtail.datasets.simulator import SimulatorConfig
from longtail.monitoring.history import History
from longtail.monitoring.run import HISTORY, Watched
from longtail.ranking.ranker import RankerConfig
from longtail.retraining.decision import DAY_S, Past, decide
from longtail.retraining.policy import Policy
from longtail.retrieval.two_tower import TwoTowerConfig
from longtail.training import TrainingConfig

TRAINING = TrainingConfig(
    windows=3, requests=700, depth=50, two_tower=TwoTowerConfig(dim=16, layers=1, epochs=1),
    ranker=RankerConfig(rounds=60, max_depth=5, threads=1),
)  # fmt: skip
POLICY = Policy.model_validate(
    {
        "rules": [
            {"when": ["ctr", "conversion", "revenue", "purchase_value", "lasting_change"], "do": "full"},
            {"when": ["feature_drift", "prediction_drift"], "do": "full"},
            {"when": ["exposure_gini", "exposure_entropy", "exposure_coverage", "exposure_top1"], "do": "full"},
        ],
        "hold": ["bot_traffic", "missing_values", "events_volume", "feature_missing", "feature_parity", "source_share"],
        "run": {"source": "unused: the benchmark trains"},
    }
)
TASTES, PRICES, QUIET = "tastes move by 0.7", "prices rise by a third", "nothing changes"
ARMS = ("none", "triggered", "daily")


class Arm:
    """One shop after the fault, and what was spent on it."""

    def __init__(self, base: Served, folder: Path, first: Path, world: World, how: str) -> None:
        shutil.copytree(base.state, folder / "state")
        shutil.copytree(base.state.parent / "quiet", folder / "quiet")
        self.served = base.fork(folder / "state", world.drift(base.day), world.fault)
        self.folder, self.first, self.world, self.how = folder, first, world, how
        self.watched, self.history = Watched.open(first / "bundle"), History(folder / "quiet" / HISTORY)
        self.past: list[Past] = []
        self.utility: list[float] = []
        self.trained: list[tuple[int, str]] = []  # days after the fault, and why
        self.cpu_s = 0.0

    def day(self) -> None:
        """Live a day, check it where that may start something, and train at night if that is what this shop does."""
        signals = check(self.served, self.watched, self.history) if self.how == "triggered" else []
        if self.how != "triggered":
            self.served.live()
        self.utility.append(utility(self.served))
        n = len(self.utility)
        if self.how == "daily":
            self._train(n, "every night")
        elif self.how == "triggered":
            now = (self.served.shop.truth.start_us // 1_000_000) + self.served.day * DAY_S
            checked = self.history.read(first=self.history.days()[-60:][0])
            decision = decide(POLICY, checked, self.past, now)
            if decision.action == "full":
                self._train(n, decision.reason)
                self.past.append(Past("full", decision.day, now, 60.0, failed=False))
            elif decision.kept != "quiet":
                print(f"    day {n}: {decision.kept}: {decision.reason}", flush=True)
        fired = sorted({s.name for s in signals if s.fired})
        print(f"    day {n}: utility {self.utility[-1]:.4f} {', '.join(fired)}", flush=True)

    def _train(self, n: int, why: str) -> None:
        out, begun = self.folder / f"trained-{n}", time.process_time()
        shop = grown(self.first, self.served.state, out, self.world.prices)
        learned(shop, out, TRAINING)
        self.cpu_s += time.process_time() - begun
        self.trained.append((n, why))
        self.served.renew(out / "bundle", shop)
        self.watched = Watched.open(out / "bundle")
        print(f"    day {n}: trained: {why}", flush=True)

    def result(self) -> dict:
        """What it came to."""
        return {"utility": self.utility, "trained": self.trained, "cpu_s": round(self.cpu_s, 1)}


def utility(served: Served) -> float:
    """What the lists of the newest day were truly worth, a place, in standard deviations."""
    shown = served.shop.shown
    assert shown is not None
    return worth(shown, served.shop.truth).utility


def grown(first: Path, state: Path, out: Path, prices: float) -> Path:
    """The shop of the first training with all that its servers logged since, and today's prices in its catalogue."""
    shop, new = out / "shop", out / "new"
    items = first / "shop" / "items.parquet"
    import_shop("collected", state, new, key_file=known_key(out), items=items, now=2**60)
    shop.mkdir(parents=True)
    parts = [pq.read_table(folder / "events.parquet") for folder in (first / "shop", new)]
    pq.write_table(pa.concat_tables(parts, promote_options="default"), shop / "events.parquet")
    table = pq.read_table(items)
    price = pc.multiply(table["price"].cast(pa.float64()), prices).cast(table["price"].type)
    pq.write_table(table.set_column(table.column_names.index("price"), "price", price), shop / "items.parquet")
    shutil.copy(first / "shop" / "import.json", shop)
    return shop


def main() -> None:
    """All worlds and arms; a table for the benchmark page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--days", type=int, default=12, help="days after the fault")
    parser.add_argument("--worlds", nargs="*", default=[TASTES, PRICES, QUIET], help="as `drifts` calls them")
    parser.add_argument("--out", type=Path, help="JSON file for everything that was found")
    given = parser.parse_args()
    found: dict[str, dict[str, dict]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = folder / "first"
        days = TRAINED + BEFORE + given.days + 1
        config = SimulatorConfig(
            users=1500, items=500, days=days, events=EVENTS * days, seed=given.seed, guest_share=0.0
        )
        train(first, config, TRAINED, TRAINING)
        base = Served.open(first, folder / "state", config, TRAINED)
        watched, history = Watched.open(first / "bundle"), History(folder / "quiet" / HISTORY)
        before: list[float] = []
        for _ in range(BEFORE):
            check(base, watched, history)
            before.append(utility(base))
        sources = [source for row in base.rows for source in row.source]
        all_worlds = {QUIET: World(set()), **worlds(max(sorted(set(sources)), key=sources.count))}
        for world in given.worlds:
            for how in ARMS:
                print(f"{world}, {how}", flush=True)
                arm = Arm(base, folder / "arm", first, all_worlds[world], how)
                for _ in range(given.days):
                    arm.day()
                found.setdefault(world, {})[how] = arm.result()
                shutil.rmtree(folder / "arm")
                if given.out:
                    given.out.write_text(json.dumps(found, indent=1))
    last = given.days // 2
    print(f"\nutility of the {last} days before: {np.mean(before[-last:]):.3f}\n")
    print(
        f"| world | retraining | trained after days | CPU s | utility, last {last} days | more than none, days above |"
    )
    print("| --- " * 6 + "|")
    for world, arms in found.items():
        none = np.array(arms["none"]["utility"])[-last:]
        for how, one in arms.items():
            own = np.array(one["utility"])[-last:]
            at = ", ".join(str(n) for n, _ in one["trained"]) if how == "triggered" else {"daily": "each"}.get(how, "")
            more = "" if how == "none" else f"{own.mean() - none.mean():+.3f}, {int((own > none).sum())} of {last}"
            print(f"| {world} | {how} | {at} | {one['cpu_s']:.0f} | {own.mean():.3f} | {more} |")


if __name__ == "__main__":
    main()
