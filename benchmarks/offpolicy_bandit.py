"""Open Bandit (Saito et al., 2021): the value of each of its two policies from the other's log.

One row is one place of a list: a click, and the chance of the item at that place. `random` shows all items alike.
`bts` (Thompson sampling) is updated every few minutes: what it would have done at another row's time is estimated from
its own rows with the same item at the same place, the five nearest in time. Such rows are there the more often the
higher the chance was; the harmonic mean takes that out. Over all items the chances are made to sum to 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from longtail.offpolicy.diagnostics import overlap
from longtail.offpolicy.estimators import direct, doubly_robust, ips, self_normalised, switch
from longtail.offpolicy.interval import Estimate, estimate, jackknife
from longtail.offpolicy.reward_model import cross_fit, linear

NEEDED = "impressions.parquet"
POLICIES = ("random", "bts")
NEAREST = 5
PEOPLE = [f"user_feature_{n}" for n in range(4)]
LEAST_EFFECTIVE = 200.0  # rows of equal weight: fewer hold less than one click at this shop's half a per cent


def transfers(folder: Path) -> dict:
    """Every campaign and direction; `faults` where the overlap suffices and the estimate contradicts the other log."""
    frame = pd.read_parquet(folder / NEEDED)
    rows, faults = [], []
    for campaign, of in frame.groupby("campaign"):
        parts = {p: of[of["policy"] == p].sort_values("timestamp").reset_index(drop=True) for p in POLICIES}
        chances = {"random": _even(of), "bts": _nearest(parts["bts"], int(of["item_id"].max()) + 1)}
        for target, logging in (POLICIES, POLICIES[::-1]):
            own = parts[target]["click"].to_numpy(np.float64)
            truth = estimate(ips(own, np.ones(len(own))), np.arange(len(own)))
            found, weight = _judge(parts[logging], chances[target])
            spread = overlap(weight, np.ones(len(weight), bool))
            for name, value in found.items():
                off = value.value - truth.value
                noise = np.hypot(value.error, truth.error)
                agrees = abs(off) <= 1.96 * noise
                usable = spread.effective >= LEAST_EFFECTIVE
                rows.append(
                    {
                        "campaign": campaign, "target": target, "log": logging, "estimator": name,
                        "value": value.value, "low": value.low, "high": value.high, "own value": truth.value,
                        "own low": truth.low, "own high": truth.high, "z": off / noise, "agrees": bool(agrees),
                        "effective": spread.effective, "mean weight": spread.mean_weight,
                        "max weight": spread.max_weight, "top share": spread.top_share,
                    }
                )  # fmt: skip
                if usable and not agrees:
                    faults.append(f"{campaign}, {target} from {logging}: {name} is off by z = {off / noise:.1f}")
    return {"rows": rows, "faults": faults, "text": _table(rows)}


def _even(of: pd.DataFrame):
    n = of["item_id"].nunique()
    return lambda time, position: np.full((len(time), n), 1 / n)


def _nearest(log: pd.DataFrame, n: int):
    """Chances float64 [N, n] of every item at times and positions, from the nearest row of the log."""
    known = {}
    for (position, item), of in log.groupby(["position", "item_id"]):
        known[position, item] = (of["timestamp"].astype("int64").to_numpy(), of["propensity_score"].to_numpy())

    def chance(time: np.ndarray, position: np.ndarray) -> np.ndarray:
        out = np.zeros((len(time), n))
        for (at, item), (times, values) in known.items():
            rows = np.flatnonzero(position == at)
            first = np.searchsorted(times, time[rows])[:, None] + np.arange(-NEAREST, NEAREST)
            far = np.abs(times[first.clip(0, len(times) - 1)] - time[rows, None]).astype(np.float64)
            far[(first < 0) | (first >= len(times))] = np.inf
            nearest = np.take_along_axis(first, np.argsort(far, axis=1)[:, :NEAREST], 1)
            there = (nearest >= 0) & (nearest < len(times))
            inverse = np.where(there, 1 / values[nearest.clip(0, len(times) - 1)], 0)
            out[rows, item] = there.sum(1) / inverse.sum(1)
        return out / out.sum(1, keepdims=True)

    return chance


def _judge(log: pd.DataFrame, target) -> tuple[dict[str, Estimate], np.ndarray]:
    """Every estimator on one log, and the weights float64 [N]."""
    reward = log["click"].to_numpy(np.float64)
    item, position = log["item_id"].to_numpy(), log["position"].to_numpy()
    chance = target(log["timestamp"].astype("int64").to_numpy(), position)
    rows = np.arange(len(log))
    weight = chance[rows, item] / log["propensity_score"].to_numpy()
    context = np.concatenate([np.eye(3)[position - 1], pd.get_dummies(log[PEOPLE]).to_numpy(np.float64)], axis=1)
    affinity = np.stack(log["user_item_affinity"].to_list())
    items = np.eye(chance.shape[1])
    phi = np.concatenate([context, items[item], affinity[rows, item][:, None]], axis=1)
    mean = np.concatenate([context, chance, (chance * affinity).sum(1)[:, None]], axis=1)
    model = cross_fit(phi, reward, rows, rows, linear(200.0))  # a row is a person's only one
    q_logged, q_target = model.predict(phi, rows), model.predict(mean, rows)
    every = np.ones(len(log), bool)
    scores = {
        "ips": ips(reward, weight), "self-normalised": self_normalised(reward, weight, every),
        "doubly robust": doubly_robust(reward, weight, q_logged, q_target),
        "switch": switch(reward, weight, q_logged, q_target),
    }  # fmt: skip
    found = {name: estimate(score, rows) for name, score in scores.items()}
    without = np.array([direct(guess(mean[model.fold != n])).value for n, guess in enumerate(model.models)])
    found["direct"] = jackknife(direct(q_target).value, without, rows)
    return found, weight


def _table(rows: list[dict]) -> str:
    lines = [
        "| campaign | target from log | estimator | clicks per 1,000 | own log | z | effective | mean, max weight |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        cells = [f"{1e3 * r[a]:.1f} ({1e3 * r[b]:.1f} .. {1e3 * r[c]:.1f})"
                 for a, b, c in (("value", "low", "high"), ("own value", "own low", "own high"))]  # fmt: skip
        lines.append(
            f"| {r['campaign']} | {r['target']} from {r['log']} | {r['estimator']} | {cells[0]} | {cells[1]} "
            f"| {r['z']:+.1f} | {r['effective']:.0f} | {r['mean weight']:.2f} / {r['max weight']:.0f} |"
        )
    return "\n".join(lines)
