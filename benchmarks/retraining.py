"""Refresh, incremental and full training some days after a champion: what each costs, and how good it is.

    python -m benchmarks.retraining --out runs/bench/retraining

The champion learns from the log without its last `--days`. Then each action trains on the whole log, every step in a
process of its own, and is judged on the newest week, which none of them learned from. CPU seconds are user + system
time of the steps' processes; differences in ndcg@10 are paired over the same requests (95% interval by bootstrap).
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from longtail import steps
from longtail.benchmark import known_key
from longtail.evaluation.bootstrap import paired_difference
from longtail.training import TrainingConfig

ACTIONS = ("full", "incremental", "refresh")


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """(CPU seconds, wall seconds) of `work` in a process of its own."""
    queue: multiprocessing.Queue = multiprocessing.get_context("fork").Queue()

    def run() -> None:
        work()
        used = resource.getrusage(resource.RUSAGE_SELF)
        queue.put(used.ru_utime + used.ru_stime)

    began = time.perf_counter()
    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    cpu = queue.get()
    child.join()
    return cpu, time.perf_counter() - began


def train(action: str, shop: Path, out: Path, registry: str, config: TrainingConfig) -> dict[str, dict[str, float]]:
    """All steps of an action but the registration of its bundle; what each step cost."""
    warm = action != "full"
    candidates = (shop, *([out / "champion"] if warm else []), out / "index", out / "candidates", config)
    plan: dict[str, Callable[[], object]] = {}
    if warm:
        plan["fetch_champion"] = lambda: steps.fetch_champion(registry, out / "champion")
        plan["two_tower"] = lambda: steps.warm_two_tower(shop, out / "champion", out / "tower", config, action)
    else:
        plan["two_tower"] = lambda: steps.train_two_tower(shop, out / "tower", config)
    plan["features"] = lambda: steps.build_features(shop, out / "features", config)
    plan["index"] = lambda: steps.build_index(out / "tower", out / "index", config)
    if warm:
        plan["candidates"] = lambda: steps.warm_candidates(*candidates, action)
        plan["ranker"] = lambda: steps.warm_ranker(out / "champion", out / "candidates", out / "ranker", config, action)
    else:
        plan["candidates"] = lambda: steps.build_candidates(*candidates)
        plan["ranker"] = lambda: steps.train_ranker(out / "candidates", out / "ranker", config)
    judge = (shop, out / "index", out / "candidates", out / "ranker", out / "evaluation", config)
    plan["evaluate"] = lambda: steps.evaluate(*judge)
    costs = {}
    for name, work in plan.items():
        cpu, wall = measured(work)
        costs[name] = {"cpu_s": round(cpu, 1), "wall_s": round(wall, 1)}
        print(f"{action} {name}: {cpu:.1f} s CPU, {wall:.1f} s", flush=True)
    return costs


def shops(out: Path, days: float, users: int, items: int, events: int, seed: int) -> tuple[Path, Path]:
    """(the shop without its last days, the whole shop)."""
    from longtail.datasets.importing import simulate_shop
    from longtail.datasets.simulator import SimulatorConfig

    whole, part = out / "shop", out / "part"
    if not whole.is_dir():
        config = SimulatorConfig(users=users, items=items, events=events, seed=seed)
        simulate_shop(whole, config, key_file=known_key(out))
    if not part.is_dir():
        beside = out / "part.half"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        table = pd.read_parquet(whole / "events.parquet")
        early = table["timestamp"] < table["timestamp"].max() - pd.Timedelta(days=days)
        table[early].to_parquet(beside / "events.parquet")
        shutil.copy(whole / "items.parquet", beside)
        shutil.copy(whole / "import.json", beside)
        beside.rename(part)
    return part, whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/retraining"))
    parser.add_argument("--days", type=float, default=7)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--items", type=int, default=1_000)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--config", default="{}", help="training configuration, JSON")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    config, registry = TrainingConfig.parse(given.config), str(given.out / "mlflow")
    part, whole = shops(given.out, given.days, given.users, given.items, given.events, given.seed)
    first = given.out / "champion"
    if not (given.out / "mlflow").is_dir():
        train("full", part, first, registry, config)
        parts = (first / p for p in ("features", "index", "candidates", "ranker", "evaluation", "bundle"))
        measured(lambda: steps.register(part, *parts, registry, config))
    found: dict[str, dict] = {}
    for action in ACTIONS:
        out = given.out / action
        shutil.rmtree(out, ignore_errors=True)
        costs = train(action, whole, out, registry, config)
        figures = json.loads((out / "evaluation" / "figures.json").read_text())
        cases = np.load(out / "evaluation" / "cases.npy")
        full = np.load(given.out / "full" / "evaluation" / "cases.npy")
        lead = paired_difference(cases, full)
        cpu = sum(c["cpu_s"] for n, c in costs.items() if n != "evaluate")
        found[action] = {
            "cpu_s": round(cpu, 1), "ndcg@10": figures["ndcg@10"], "cases": lead.cases,
            "against_full": [lead.mean, lead.low, lead.high], "steps": costs,
        }  # fmt: skip
        print(f"{action}: {cpu:.1f} s CPU, ndcg@10 {figures['ndcg@10']:.4f}, against full {lead.mean:+.4f} "
              f"[{lead.low:+.4f}, {lead.high:+.4f}]", flush=True)  # fmt: skip
    (given.out / "retraining.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
