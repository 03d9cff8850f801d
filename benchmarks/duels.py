"""How many people an A/B test takes to tell two rankers apart, and how many interleaving takes, on the same people."""

from __future__ import annotations

import numpy as np
from scipy import stats

from longtail.datasets.simulated_world import Truth
from longtail.experiments.config import Experiment
from longtail.experiments.estimate import compare
from longtail.experiments.interleaving import credit, judge, team_draft
from longtail.experiments.moments import Moments, linear, ratio
from longtail.experiments.planning import duel_outlook

PEOPLE, CANDIDATES, PLACES = 20_000, 60, 8
NOISE = (0.55, 0.45)  # how far each ranker's scores are from what people like: B is the better one
REPEATS = 2_000


def sensitivity(truth: Truth, seed: int, power: float = 0.8, alpha: float = 0.05) -> dict[str, float]:
    """Everybody meets ranker A, ranker B and their interleaving; clicks are drawn as the simulator draws them."""
    rng = np.random.default_rng([seed, 11])
    user = rng.integers(0, len(truth.user_ids), PEOPLE)
    visits = 1 + rng.poisson(rng.gamma(0.8, 3.0, PEOPLE))
    unit = np.repeat(np.arange(PEOPLE), visits)
    clicks = [np.zeros(PEOPLE) for _ in NOISE]
    won, chance = np.zeros((PEOPLE, 2)), 0.0  # variance of a lead by chance, as a plan counts it on A's own lists
    for rows in np.array_split(np.arange(len(unit)), max(len(unit) // 5_000, 1)):
        who = user[unit[rows]]
        items = np.argsort(rng.random((len(rows), len(truth.item_ids))), axis=1)[:, :CANDIDATES]
        want = truth.utility(who[:, None], items, 40.0)
        ranked = [np.argsort(-(want + s * rng.normal(size=want.shape)), axis=1)[:, : 2 * PLACES] for s in NOISE]
        for of, order in zip(clicks, ranked, strict=True):
            clicked = _clicks(truth, want, order[:, :PLACES], rng)
            np.add.at(of, unit[rows], clicked.sum(1))
            if of is clicks[0]:
                chance += float(np.not_equal(clicked[:, 0::2], clicked[:, 1::2]).sum())
        order, team = team_draft(*ranked, PLACES, rng)
        r, p = np.nonzero(_clicks(truth, want, order, rng))
        won += credit(unit[rows][r], team[r, p], PEOPLE)
    reach = (stats.norm.isf(alpha / 2) + stats.norm.isf(1 - power)) ** 2
    arms = [Moments.of(c, visits) for c in clicks]
    gap = float(ratio(arms[1]) - ratio(arms[0]))
    ab = reach * 2 * sum(float(linear(m)[0]) for m in arms) / gap**2
    duel = judge(won)
    interleaved = reach * duel.se**2 * PEOPLE / duel.preference**2
    n = _planned(duel.preference, float(clicks[0].sum()), chance, power, alpha)
    picks = rng.integers(0, PEOPLE, (REPEATS, n))
    found = np.mean([judge(won[p]).p < alpha for p in picks])
    by_ab = np.mean([_ab(clicks, visits, p) < alpha for p in picks])
    return {
        "better ranker's gain in clicks a list": gap / float(ratio(arms[0])), "units of an A/B test": ab,
        "units of interleaving": interleaved, "units of the A/B test for one of interleaving": ab / interleaved,
        "units of interleaving, by a plan on the worse ranker's lists": float(n),
        "power of interleaving on these": float(found), "power of the A/B test on as many": float(by_ab),
    }  # fmt: skip


def _planned(lead: float, clicks: float, chance: float, power: float, alpha: float) -> int:
    """People that a duel takes, from what `PEOPLE` did with one ranker's lists."""
    wanted = Experiment.model_validate({
        "name": "duel", "kind": "interleaving", "metric": "clicks", "minimum_effect": lead, "power": power,
        "alpha": alpha, "variants": {"a": {"share": 0.5}, "b": {"share": 0.5, "bundle": "b"}},
        "dates": {"start": "2024-01-01", "end": "2024-01-29"},
    })  # fmt: skip
    return duel_outlook(wanted, 28, PEOPLE, clicks / PEOPLE, float(np.sqrt(chance / PEOPLE))).needed


def _clicks(truth: Truth, want: np.ndarray, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool [R, k] for lists of candidates' places, as in the simulator: looked at by place, wanted by utility."""
    shown = np.take_along_axis(want, order, 1)
    attractive = rng.random(shown.shape) < 1 / (1 + np.exp(-1.5 * (shown - 2.7)))
    return attractive & (rng.random(shown.shape) < truth.examination[: shown.shape[1]])


def _ab(clicks: list[np.ndarray], visits: np.ndarray, picked: np.ndarray) -> float:
    """P value of an A/B test on these people, half of them in each arm: clicks a list, by the delta method."""
    half = len(picked) // 2
    a, b = picked[:half], picked[half:]
    return float(compare(Moments.of(clicks[0][a], visits[a]), Moments.of(clicks[1][b], visits[b])).p_value())
