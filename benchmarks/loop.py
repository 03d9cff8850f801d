"""What becomes of a shop whose recommender learns from its own lists: 90 simulated days, each night a training.

    python -m benchmarks.loop [--shop search] [--seeds 10] [--days 90] [--keep runs/loop] [--arms ...] [--picture FILE]

In the shop `feed` people see nothing but lists. In `search` each session also finds 1.4 items by itself, so that
nearly half of what shows interest is none of the recommender's making.

All systems start from the log of the same shop, which leaned to its bestsellers for four weeks. From then on each
shows its own lists, is trained every night on the log that they left, and so makes its own future. What lists are worth
is the simulator's truth, which no system sees. `--keep` stores each run; what is there already is not run again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.loop_picture import draw
from benchmarks.loop_shop import World, spread, worth
from benchmarks.loop_systems import Popular, Setting, TwoStage
from benchmarks.loop_table import table
from longtail.datasets.simulator import SimulatorConfig

SHOPS = {"feed": 0.0, "search": SimulatorConfig.own_views}  # what a session finds by itself
ARMS: dict[str, Callable[[int], TwoStage | Popular]] = {
    "longtail": lambda seed: TwoStage(Setting(correction=True, exploration=True), seed),
    "plain": lambda seed: TwoStage(Setting(correction=False, exploration=False), seed),
    "popularity": lambda seed: Popular(),
    "correction only": lambda seed: TwoStage(Setting(correction=True, exploration=False), seed),
    "exploration only": lambda seed: TwoStage(Setting(correction=False, exploration=True), seed),
}
WARM = 28  # days of the common past
WEEK = 7
FIRST_FIT = WARM - 23  # from this day on the past is asked what it would have proposed, for the first night's windows


def shop_of(kind: str, seed: int, days: int) -> SimulatorConfig:
    """The simulated shop: some 140 people a day, 400 items of which a third arrive in time."""
    total = WARM + days
    return SimulatorConfig(
        users=800, items=400, days=total, events=2_500 * total, seed=seed, list_size=10, best_first=True,
        own_views=SHOPS[kind],
    )  # fmt: skip


def run(kind: str, seed: int, days: int, arm: str) -> dict[str, np.ndarray]:
    """One system in one shop; every figure by day, float64 [days]."""
    world, system = World(shop_of(kind, seed, days)), ARMS[arm](seed)
    for day in range(WARM):
        world.live()
        if day >= FIRST_FIT:
            system.train(world.seen(), world.now, ready=False)
    world = world.under(system)
    figures: dict[str, list[float]] = {}
    exposure = []
    for _ in range(days):
        system.train(world.seen(), world.now)
        lived = worth(world.live(), world.truth)
        exposure.append(lived.exposure)
        found = {name: value for name, value in asdict(lived).items() if name != "exposure"}
        found |= spread(np.array(exposure[-WEEK:]), world.truth, world.day - 1)
        for name, value in found.items():
            figures.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in figures.items()}


def path_of(folder: Path, kind: str, seed: int, days: int, arm: str) -> Path:
    """Where a run is kept."""
    return folder / f"{kind}-{arm.replace(' ', '-')}-{seed}-{days}.npz"


def kept(folder: Path, kind: str, seed: int, days: int, arm: str) -> dict[str, np.ndarray]:
    """`run`, or what it gave before."""
    path = path_of(folder, kind, seed, days, arm)
    if not path.is_file():
        started, cpu = time.perf_counter(), time.process_time()
        figures = run(kind, seed, days, arm)
        folder.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part.npz")
        np.savez(beside, **figures)  # type: ignore[arg-type]
        beside.rename(path)
        spent = f"{time.process_time() - cpu:.0f} s CPU, {time.perf_counter() - started:.0f} s"
        print(f"{kind}, seed {seed}, {arm}: {spent}", file=sys.stderr, flush=True)
    with np.load(path) as stored:
        return dict(stored)


def main() -> None:
    """Run what is missing, print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shop", choices=list(SHOPS), default="feed")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--keep", type=Path, default=Path("runs/loop"))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--made", action="store_true", help="run nothing: only what is kept already")
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    found: dict[str, dict[int, dict[str, np.ndarray]]] = {arm: {} for arm in given.arms}
    for seed in seeds:
        for arm in given.arms:
            if not given.made or path_of(given.keep, given.shop, seed, given.days, arm).is_file():
                found[arm][seed] = kept(given.keep, given.shop, seed, given.days, arm)
    found = {arm: runs for arm, runs in found.items() if runs}
    print(table(found))
    if given.picture:
        draw(found, given.picture)


if __name__ == "__main__":
    main()
