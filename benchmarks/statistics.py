"""Do the statistics of experiments keep their word? Counted on a simulated shop, thousands of times.

    python -m benchmarks.statistics [--runs 2000] [--users 20000] [--seed 7] [--json runs/statistics.json]

People of one simulated log are put into two arms by the product's own hash, with a new salt in each run; the figures
come from the product's own functions. Exit code 1 where a figure leaves its bounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from benchmarks.duels import sensitivity
from longtail.datasets.simulated_world import Truth
from longtail.datasets.simulator import SimulatorConfig, simulate
from longtail.experiments.analysis import BROKEN_BELOW, looked_at
from longtail.experiments.assignment import places
from longtail.experiments.config import Experiment
from longtail.experiments.estimate import Effect, compare, ratio_check
from longtail.experiments.moments import Moments
from longtail.experiments.planning import Outlook, outlook
from longtail.schema import DAY_US

BEFORE, DAYS = 28, 28
CHUNK = 50  # runs that share one draw of what the treated did more
ALPHA = 0.05
LOOKS = ("once", "any_day")
METRICS = {
    "revenue": ("value", None),
    "conversion": ("any", None),
    "clicks": ("clicks", None),
    "ctr": ("clicks", "shown"),
}
PLAN = """
name: benchmark
variants: {{control: {{share: 0.5}}, new: {{share: 0.5}}}}
metric: {metric}
minimum_effect: 0.05
looks: {looks}
dates: {{start: 2024-01-29, end: 2024-02-26}}
"""


@dataclass(frozen=True)
class People:
    """What N people did on each day, float64 [N, days]; `entered` int [N]: the day of the first list."""

    ids: list[str]
    entered: np.ndarray
    sums: dict[str, np.ndarray]

    @staticmethod
    def read(events: Path, start_us: int) -> People:
        """Everybody who saw a list in the days of the test; what they did before it in a day counts as nothing."""
        rows = duckdb.sql(f"""
            WITH told AS (SELECT user_id, event_type, value, timestamp AS time,
                    (timestamp - {start_us}) // {DAY_US} AS day
                FROM read_parquet('{events}') WHERE user_id IS NOT NULL),
            met AS (SELECT user_id, min(time) AS first, min(day) AS entered FROM told
                WHERE event_type = 'impression' AND day >= {BEFORE} GROUP BY user_id)
            SELECT user_id, entered, day, count(*) FILTER (event_type = 'impression') AS shown,
                count(*) FILTER (event_type = 'click') AS clicks,
                count(*) FILTER (event_type = 'purchase' AND value >= 0) AS bought,
                coalesce(sum(value) FILTER (event_type = 'purchase'), 0) AS value
            FROM told JOIN met USING (user_id) WHERE day < {BEFORE} OR time >= first GROUP BY ALL ORDER BY user_id
        """).df()
        ids, at = np.unique(rows["user_id"].to_numpy(object).astype(str), return_inverse=True)
        sums = {}
        for name in ("shown", "clicks", "bought", "value"):
            sums[name] = np.zeros((len(ids), BEFORE + DAYS))
            sums[name][at, rows["day"]] = rows[name]
        entered = np.zeros(len(ids), np.int64)
        entered[at] = rows["entered"] - BEFORE
        return People(ids.tolist(), entered, sums)

    def metric(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numerator and denominator up to the end of each day [N, DAYS] and covariate [N], as the analysis has them."""
        of, per = METRICS[name]
        total = np.cumsum(self.sums["bought" if of == "any" else of][:, BEFORE:], axis=1)
        before = self.sums["bought" if of == "any" else of][:, :BEFORE].sum(1)
        if of == "any":
            total, before = total.clip(max=1), before.clip(max=1)
        if of == "value":
            total, before = (
                total.clip(max=np.quantile(total[:, -1], 0.999)),
                before.clip(max=np.quantile(before, 0.999)),
            )
        below = (self.entered[:, None] <= np.arange(DAYS)).astype(np.float64)
        if per:
            below = np.cumsum(self.sums[per][:, BEFORE:], axis=1)
            shown = self.sums[per][:, :BEFORE].sum(1)
            before = before - shown * before.sum() / shown.sum()
        return total, below, before


class Sums:
    """Sums and products of one metric by unit and day, so that the moments of thousands of splits are one product."""

    def __init__(self, x: np.ndarray, d: np.ndarray, c: np.ndarray, entered: np.ndarray) -> None:
        here = (entered[:, None] <= np.arange(x.shape[1])).astype(np.float64)
        c = c[:, None] * here
        self.flat = np.stack([here, x, d, c, x * x, x * d, d * d, x * c, d * c, c * c]).transpose(1, 0, 2)
        self.whole = self.flat.sum(0)[:, None]

    def arms(self, treated: np.ndarray) -> Moments:
        """Moments [2, days, runs] of the splits `treated` bool [runs, N]."""
        n, _, days = self.flat.shape
        new = (treated.astype(np.float64) @ self.flat.reshape(n, -1)).reshape(len(treated), 10, days)
        return Moments(*(np.stack([getattr(m, f) for m in (_moments(self.flat.sum(0)[None] - new), _moments(new))])
                         for f in ("n", "mean", "cov")))  # fmt: skip


def _moments(sums: np.ndarray) -> Moments:
    """Of sums [runs, 10, days]: moments [days, runs]."""
    n, x, d, c, xx, xd, dd, xc, dc, cc = sums.transpose(1, 2, 0)
    cross = np.stack([np.stack([xx, xd, xc], -1), np.stack([xd, dd, dc], -1), np.stack([xc, dc, cc], -1)], -2)
    return Moments.from_sums(n, np.stack([x, d, c], -1), cross)


def splits(ids: list[str], run: int) -> np.ndarray:
    """bool [CHUNK, N]: who is treated in the runs from `run` on, by the product's hash."""
    return np.stack([places(ids, f"run-{r}") >= 0.5 for r in range(run, run + CHUNK)])


def experiment(metric: str, looks: str = "once") -> Experiment:
    """The file of the test that is planned and judged here."""
    return Experiment.parse(PLAN.format(metric=metric, looks=looks))


class Lifted:
    """Metrics of people who do each thing once more with chance `lift`; of those who never did it, some come to it."""

    def __init__(self, people: People, name: str, rng: np.random.Generator) -> None:
        of, per = METRICS[name]
        self.of, self.rng = of, rng
        self.x, self.d, self.c = people.metric(name)
        self.events = people.sums["clicks" if of == "clicks" else "bought"][:, BEFORE:].astype(np.int64)
        self.entered = people.entered

    def draw(self, lift: float) -> np.ndarray:
        """Numerators up to the end of each day, float64 [N, DAYS]."""
        rng, n = self.rng, len(self.x)
        if self.of == "any":
            rate = self.x[:, -1].mean()
            late = np.full(n, DAYS)
            come = rng.choice(np.flatnonzero(self.x[:, -1] == 0), round(lift * rate * n), replace=False)
            late[come] = rng.integers(self.entered[come], DAYS)
            return np.maximum(self.x, late[:, None] <= np.arange(DAYS))
        step = np.diff(self.x, axis=1, prepend=0.0)
        return np.cumsum(step + rng.binomial(self.events, lift) * step / np.maximum(self.events, 1), axis=1)


def measure(people: People, runs: int, seed: int) -> dict[str, dict[str, float]]:
    """For each metric: false alarms, power against the plan, coverage, and what CUPED brought."""
    found: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in METRICS}
    parts = {name: people.metric(name) for name in METRICS}
    sums = {name: Sums(*parts[name], people.entered) for name in METRICS}
    plans, lifts = {}, {}
    rng = np.random.default_rng(seed)
    for name, (x, _, _) in parts.items():
        everybody = sums[name].arms(np.ones((1, len(x)), bool))[1, :, 0]
        plans[name] = {looks: outlook(experiment(name, looks), everybody, len(x)) for looks in LOOKS}
        lifts[name] = Lifted(people, name, rng)
    for run in range(0, runs, CHUNK):
        treated = splits(people.ids, run)
        for name in METRICS:
            note = found[name]
            days = sums[name].arms(treated)
            effect, reach, p = looked_at(days, 1, DAYS, ALPHA)
            plain = compare(days[0, -1], days[1, -1], cuped=False)
            once = effect.p_value() < ALPHA
            _add(note, false=once[-1], false_plain=plain.p_value() < ALPHA, any_day=p.min(0) < ALPHA,
                 daily=once.any(0), kept=effect.kept[-1], adjusted=effect.difference[-1],
                 plain=plain.difference, reach=reach[-1], growth=_growth(effect))  # fmt: skip
            for looks, planned in plans[name].items():
                x, (_, d, c) = lifts[name].draw(planned.effect), parts[name]
                new = Sums(x, d, c, people.entered).arms(treated)
                both = Moments(*(np.stack([getattr(days, f)[0], getattr(new, f)[1]]) for f in ("n", "mean", "cov")))
                effect, reach, p = looked_at(both, 1, DAYS, ALPHA)
                true = x[:, -1].sum() / parts[name][0][:, -1].sum() - 1
                wide = effect.width(ALPHA) if looks == "once" else reach
                inside = np.abs(effect.lift - true) <= wide * effect.lift_se
                won = effect.p_value()[-1:] if looks == "once" else p
                _add(note, **{f"power_{looks}": won.min(0) < ALPHA, f"end_{looks}": won[-1] < ALPHA,
                              f"covered_{looks}": inside[-1]})  # fmt: skip
    return {name: _summary(note, plans[name]) for name, note in found.items()}


def _growth(effect: Effect) -> np.ndarray:
    """By which power of the days the variance of the summed effect grows, [runs]."""
    spread = (effect.n * effect.se) ** 2
    return np.log(spread[-1] / spread[0]) / np.log(DAYS)


def _add(note: dict[str, list[np.ndarray]], **values: np.ndarray) -> None:
    for name, value in values.items():
        note.setdefault(name, []).append(np.asarray(value, np.float64))


def _summary(note: dict[str, list[np.ndarray]], plans: dict[str, Outlook]) -> dict[str, float]:
    of = {name: np.concatenate(values) for name, values in note.items()}
    return {
        "false alarms, one look": of["false"].mean(), "the same without CUPED": of["false_plain"].mean(),
        "false alarms, looked at daily": of["any_day"].mean(), "one-look test looked at daily": of["daily"].mean(),
        "planned effect, one look": plans["once"].effect, "power, one look": of["power_once"].mean(),
        "planned effect, any day": plans["any_day"].effect, "power, any day": of["power_any_day"].mean(),
        "power, any day, at the end": of["end_any_day"].mean(), "coverage, one look": of["covered_once"].mean(),
        "coverage, any day": of["covered_any_day"].mean(), "variance left by CUPED": of["kept"].mean(),
        "the same, counted": of["adjusted"].var() / of["plain"].var(), "width at the end": of["reach"].mean(),
        "variance grows with days to the power": of["growth"].mean(),
    }  # fmt: skip


def split_faults(people: People, runs: int, seed: int) -> dict[str, float]:
    """How often the split is called broken: when it is sound, and when the treated lose a share of their people."""
    rng = np.random.default_rng(seed)
    n = len(people.ids)
    out = {}
    sound = np.concatenate([splits(people.ids, run).sum(1) for run in range(0, runs, CHUNK)])
    for lost in (0.0, 0.02, 0.05, 0.1, 0.15):
        new = rng.binomial(sound, 1 - lost)
        p = ratio_check(np.stack([n - sound, new], -1), [0.5, 0.5])
        out[f"called broken when {lost:.0%} of one arm are lost"] = float((p < BROKEN_BELOW).mean())
    return out


def judged(metrics: dict[str, dict[str, float]], faults: dict[str, float], duel: dict[str, float]) -> list[str]:
    """Everything that left its bounds."""
    wrong = []

    def hold(name: str, value: float, low: float, high: float) -> None:
        if not low <= value <= high:
            wrong.append(f"{name}: {value:.4f} is not within {low} and {high}")

    for metric, f in metrics.items():
        hold(f"{metric}, false alarms", f["false alarms, one look"], 0.04, 0.06)
        hold(f"{metric}, false alarms without CUPED", f["the same without CUPED"], 0.04, 0.06)
        hold(f"{metric}, false alarms looked at daily", f["false alarms, looked at daily"], 0, 0.05)
        hold(f"{metric}, power", f["power, one look"], 0.77, 0.83)
        hold(f"{metric}, power at any of the daily looks", f["power, any day"], 0.77, 1)
        hold(f"{metric}, power at the last of daily looks", f["power, any day, at the end"], 0.77, 0.83)
        hold(
            f"{metric}, CUPED's variance against what it says",
            f["the same, counted"] / f["variance left by CUPED"],
            0.9,
            1.1,
        )
        hold(f"{metric}, variance left by CUPED", f["variance left by CUPED"], 0, 1.001)
    hold("sound splits called broken", faults["called broken when 0% of one arm are lost"], 0, 0.005)
    hold("15% lost and found", faults["called broken when 15% of one arm are lost"], 0.99, 1)
    hold("interleaving's sensitivity", duel["units of the A/B test for one of interleaving"], 1, np.inf)
    hold("interleaving's power", duel["power of interleaving on these"], 0.77, 0.83)
    return wrong


def main() -> None:
    """Simulate, measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=1_200_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        config = SimulatorConfig(
            users=given.users, items=2_000, days=BEFORE + DAYS, events=given.events, seed=given.seed
        )
        truth: Truth = simulate(Path(folder), config)
        people = People.read(Path(folder) / "events.parquet", config.start_us)
    print(
        f"{len(people.ids):,} people met a list in {DAYS} days ({time.monotonic() - began:.0f} s to simulate)",
        flush=True,
    )
    metrics = measure(people, given.runs, given.seed)
    faults = split_faults(people, given.runs, given.seed)
    duel = sensitivity(truth, given.seed)
    rows = list(next(iter(metrics.values())))
    print(f"\n{given.runs:,} runs" + " " * 30 + "".join(f"{m:>12}" for m in metrics))
    for row in rows:
        print(f"{row:40}" + "".join(f"{metrics[m][row]:12.4f}" for m in metrics))
    for name, value in {**faults, **duel}.items():
        print(f"{name:62}{value:10.4f}")
    wrong = judged(metrics, faults, duel)
    print(f"\n{time.monotonic() - began:.0f} s; " + ("all within bounds" if not wrong else "out of bounds:"))
    for line in wrong:
        print(f"  {line}")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(
            json.dumps({"metrics": metrics, "split": faults, "interleaving": duel, "wrong": wrong}, indent=2)
        )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
