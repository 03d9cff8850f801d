"""Off-policy estimates against the truth: on simulated shops, and between the two policies of Open Bandit.

    python -m benchmarks.offpolicy [--data FOLDER] [--worlds 20] [--out figures.json]

Simulated: each shop's log is cut into groups of people, each group is one replication; the truth is the target's
expected clicks for every request of the shop, from the simulator. Reported are the error and how often the 95% interval
holds the truth. Exit code 1 when that is outside 95 +- 2 for an estimator, or its value off by more than 1% over all
replications. That the direct method keeps to this too says that its model suits this shop, not that it would another.

Open Bandit: each policy's value from the other's log, beside its own log's mean. Exit code 1 when the two contradict
each other where the overlap suffices.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.offpolicy_bandit import NEEDED, transfers
from benchmarks.offpolicy_shop import PLACES, World, world
from longtail.offpolicy import slates
from longtail.offpolicy.estimators import direct, doubly_robust, ips, self_normalised, switch
from longtail.offpolicy.interval import Estimate, estimate, jackknife, normal_estimate
from longtail.offpolicy.reward_model import cross_fit, linear

COVERAGE, BIAS = 0.02, 0.01


def features(w: World, cell: np.ndarray, items: np.ndarray, place: np.ndarray) -> np.ndarray:
    """float64 [..., F] of items at places in cells: which item, and for each place both policies' scores."""
    item = np.eye(w.taste.shape[1])[items]
    known = np.concatenate([np.ones((*items.shape, 1)), w.taste[cell, items]], axis=-1)
    at = np.eye(PLACES)[place]
    return np.concatenate([item, (at[..., :, None] * known[..., None, :]).reshape(*items.shape, -1)], axis=-1)


class Judged:
    """What all replications of a world share: features of every item at every place of every cell, averaged."""

    def __init__(self, w: World) -> None:
        cells, n = w.target.chance.shape
        place = np.arange(PLACES)
        grid = np.broadcast_to(np.arange(n)[None, :, None], (cells, n, PLACES))
        code = np.broadcast_to(np.arange(cells)[:, None, None], grid.shape)
        self.w = w
        every = features(w, code, grid, np.broadcast_to(place, grid.shape))  # [C, I, K, F]
        self.expected = np.einsum("cik,cikf->ckf", w.target.marginal, every)
        self.first = np.einsum("ci,cikf->ckf", w.target.chance, every)

    def estimates(self, rows: np.ndarray, seed: int) -> dict[tuple[str, str], tuple[Estimate, Estimate]]:
        """Every estimator under every assumption on the lists `rows`, with its own and a plain normal interval."""
        w, lists = self.w, self.w.lists
        cell, items, reward = lists.cell[rows], lists.items[rows], lists.reward[rows]
        k, shown = np.arange(PLACES), np.ones((len(rows), PLACES), bool)
        phi = features(w, cell[:, None], items, np.broadcast_to(k, items.shape))
        row = np.repeat(np.arange(len(rows)), PLACES)
        model = cross_fit(phi.reshape(len(row), -1), reward.ravel(), row, lists.user[rows], linear(20.0), seed=seed)

        def guess(x: np.ndarray) -> np.ndarray:
            return model.predict(x.reshape(len(row), -1), row).reshape(items.shape)

        q_logged, q_target = guess(phi), guess(self.expected[cell])
        given = w.target.given(cell, items)
        old, new = (p.marginal[cell[:, None], items] for p in (w.logging, w.target))
        weights = {
            "cascade": slates.cascade(given, lists.logged[rows], shown),
            "item-position": slates.item_position(new[:, k, k], old[:, k, k], shown),
            "position-based": slates.position_based(new, old, shown, w.examination),
        }
        rest = [self.expected[cell[model.fold != n]].reshape(-1, phi.shape[2]) for n in range(len(model.models))]
        without = [m(x).reshape(-1, PLACES) for m, x in zip(model.models, rest, strict=True)]
        off = np.array([direct(q).value for q in without])
        user = lists.user[rows]
        model_alone = jackknife(direct(q_target).value, off, user)
        out = {("any", "direct"): (model_alone, model_alone)}
        for name, weight in weights.items():
            mean = q_target
            if name == "cascade":
                mean = slates.above(weight) * guess(self._given(cell, items, w.target.chance[cell]))
            looked = w.examination if name == "position-based" else None
            scores = {
                "ips": ips(reward, weight), "self-normalised": self_normalised(reward, weight, shown, looked=looked),
                "doubly robust": doubly_robust(reward, weight, q_logged, mean),
                "switch": switch(reward, weight, q_logged, mean),
            }  # fmt: skip
            out |= {(name, key): (estimate(s, user), normal_estimate(s, user)) for key, s in scores.items()}
        return out

    def _given(self, cell: np.ndarray, items: np.ndarray, chance: np.ndarray) -> np.ndarray:
        """Mean features float64 [N, K, F] of what the target would show below what stands above."""
        p = np.take_along_axis(chance, items, 1)
        gone = np.zeros((*items.shape, self.first.shape[2]))
        for place in range(1, PLACES):
            above = np.broadcast_to(place, items[:, :place].shape)
            gone[:, place] = (p[:, :place, None] * features(self.w, cell[:, None], items[:, :place], above)).sum(1)
        return (self.first[cell] - gone) / (1 - (np.cumsum(p, axis=1) - p))[..., None]


def simulated(worlds: int, groups: int, users: int, events: int, seed: int) -> dict:
    """Error and coverage of every estimator over worlds x groups replications."""
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    sizes = []
    for n in range(worlds):
        started = time.perf_counter()
        w = world(seed + n, users, events)
        judged, truth = Judged(w), float(w.expected.mean())
        people = np.unique(w.lists.user)
        group = np.random.default_rng(seed + n).permutation(np.arange(len(people)) % groups)
        of = group[np.searchsorted(people, w.lists.user)]
        for g in range(groups):
            rows = np.flatnonzero(of == g)
            sizes.append(len(rows))
            for name, (by_skew, plain) in judged.estimates(rows, seed=g).items():
                found.setdefault(name, []).append(
                    (by_skew.value / truth - 1, by_skew.error / truth, by_skew.low <= truth <= by_skew.high,
                     truth < by_skew.low, truth > by_skew.high, plain.low <= truth <= plain.high)
                )  # fmt: skip
        print(f"shop {n + 1} of {worlds}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    rows_ = []
    for (kind, name), cases in found.items():
        off, error, holds, above, below, plain_ = np.array(cases, float).T
        rows_.append(
            {
                "weights": kind, "estimator": name, "bias": off.mean(), "bias error": off.std() / np.sqrt(len(off)),
                "rmse": np.sqrt((off**2).mean()), "stated error": np.sqrt((error**2).mean()),
                "coverage": holds.mean(), "truth below": above.mean(), "truth above": below.mean(),
                "normal coverage": plain_.mean(),
            }
        )  # fmt: skip
    return {"replications": worlds * groups, "lists each": float(np.mean(sizes)), "rows": rows_}


def table(figures: dict) -> str:
    """The simulated figures as a Markdown table, in per cent of the true value."""
    lines = [
        f"{figures['replications']} replications of {figures['lists each']:.0f} lists",
        "| weights | estimator | bias % | rmse % | stated error % | coverage % | truth below / above % | normal % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['weights']} | {r['estimator']} | {100 * r['bias']:+.2f} (+- {196 * r['bias error']:.2f}) "
        f"| {100 * r['rmse']:.1f} | {100 * r['stated error']:.1f} | {100 * r['coverage']:.1f} "
        f"| {100 * r['truth below']:.1f} / {100 * r['truth above']:.1f} | {100 * r['normal coverage']:.1f} |"
        for r in figures["rows"]
    ]
    return "\n".join(lines)


def outside(figures: dict) -> list[str]:
    """What is outside the bounds, in one line each."""
    out = []
    for r in figures["rows"]:
        name = f"{r['weights']} {r['estimator']}"
        if abs(r["coverage"] - 0.95) > COVERAGE:
            out.append(f"{name}: the 95% interval holds the truth in {100 * r['coverage']:.1f}% of the replications")
        if abs(r["bias"]) - 1.96 * r["bias error"] > BIAS:
            out.append(f"{name}: off by {100 * r['bias']:+.1f}% on average")
    return out


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with Open Bandit's impressions.parquet")
    parser.add_argument("--worlds", type=int, default=20)
    parser.add_argument("--groups", type=int, default=100, help="replications of a shop")
    parser.add_argument("--users", type=int, default=40_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    figures = {}
    faults: list[str] = []
    if given.data is not None and (given.data / NEEDED).is_file():
        figures["open bandit"] = bandit = transfers(given.data)
        print(bandit["text"])
        faults += bandit["faults"]
    else:
        print(f"Open Bandit: skipped, --data names no folder with {NEEDED}")
    if given.worlds:
        figures["simulated"] = simulated(given.worlds, given.groups, given.users, given.events, given.seed)
        print(table(figures["simulated"]))
        faults += outside(figures["simulated"])
    if given.out:
        given.out.write_text(json.dumps(figures, indent=1) + "\n")
    for fault in faults:
        print(f"OUTSIDE THE BOUNDS: {fault}")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
