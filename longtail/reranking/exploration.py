"""Epsilon-greedy places with exact propensities.

At each place the pool is every candidate that could still stand there. With probability 1 - epsilon the place shows
the greedy choice, with probability epsilon one sampled from the pool (which holds the greedy choice too). The logged
propensity is the probability, given the places above, that the shown item came to stand there.
"""

from __future__ import annotations

import numpy as np


def sampling_log_odds(worth: np.ndarray, temperature: float | None) -> np.ndarray:
    """float64 [n]: unnormalised log probability of each pool member: uniform for None, else worth / temperature."""
    if temperature is None:
        return np.zeros(len(worth))
    return worth.astype(np.float64) / temperature


def log_normaliser(log_odds: np.ndarray, pool: np.ndarray) -> float:
    """log sum exp over the pool (bool [n]), safe for values of any sign and size."""
    inside = log_odds[pool]
    top = inside.max()
    return float(top + np.log(np.exp(inside - top).sum()))


def sample(log_odds: np.ndarray, pool: np.ndarray, rng: np.random.Generator) -> int:
    """One pool member, with probability proportional to exp(log odds), by the Gumbel-max trick.

    The noise is drawn anew for every place: noise kept from one place to the next would no longer be Gumbel once caps
    let an item back into the pool.
    """
    members = np.flatnonzero(pool)
    return int(members[(log_odds[members] + rng.gumbel(size=len(members))).argmax()])


def gumbel_top_k(log_odds: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k positions int64 sampled without replacement, proportional to exp(log odds) (Plackett-Luce)."""
    noisy = log_odds + rng.gumbel(size=len(log_odds))
    return np.argsort(-noisy, kind="stable")[:k].astype(np.int64)


def propensities(log_odds: np.ndarray, pool: np.ndarray, greedy: int, epsilon: float) -> np.ndarray:
    """Probability float64 [n] that each candidate comes to stand at one place; 0 outside the pool, sums to 1."""
    out = np.zeros(len(log_odds))
    out[pool] = epsilon * np.exp(log_odds[pool] - log_normaliser(log_odds, pool))
    out[greedy] += 1 - epsilon
    return out


def propensity(log_odds: np.ndarray, pool: np.ndarray, greedy: int, shown: int, epsilon: float) -> float:
    """`propensities(...)[shown]` without the array. A greedy choice outside the pool is never sampled."""
    sampled = float(np.exp(log_odds[shown] - log_normaliser(log_odds, pool))) if pool[shown] else 0.0
    return epsilon * sampled + (1 - epsilon) * (shown == greedy)
