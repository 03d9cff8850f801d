"""Values of a target policy from lists that another policy showed and logged with their chances.

All take lists as float64 [N, K]: N lists of K places (or [N], lists of one place). `reward` is what a place earned;
`weight` the chance of what was shown there under the target over that under the logging policy, as `slates` works it
out; `q_logged` the reward model's guess for what was shown and `q_target` its mean over what the target would show.
A place that a list lacks has 0 in all of them. A value is per list: the sum over its places.

IPS is unbiased where the logging policy can show all that the target shows, and noisy where weights are large; the
self-normalised form trades a bias that vanishes with N for less noise. The direct method is as right as its model, and
its interval knows nothing of the model's error: never gate on it. Doubly robust is unbiased like IPS and its noise
shrinks with the model's error. SWITCH believes the weights up to a threshold and the model beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longtail.errors import InvalidInput


@dataclass(frozen=True)
class Score:
    """`value` per list, and `influence` float64 [N] of each list on it, 0 on average.

    The error of `value` is the mean of `influence` up to terms that vanish faster than 1/sqrt(N): intervals and
    differences between policies that are judged on one log are made of it.
    """

    value: float
    influence: np.ndarray


def ips(reward: np.ndarray, weight: np.ndarray, clip: float = np.inf) -> Score:
    """Inverse propensity scoring (Horvitz and Thompson, 1952), weights clipped from above at `clip` (Ionides, 2008).

    Of rewards that are never negative a clip can only lower the value: its lower bound stays a lower bound.
    """
    reward, weight = _checked(reward, weight)
    return _mean_of((np.minimum(weight, clip) * reward).sum(1))


def self_normalised(
    reward: np.ndarray, weight: np.ndarray, shown: np.ndarray, clip: float = np.inf, looked: np.ndarray | None = None
) -> Score:
    """Self-normalised IPS (Swaminathan and Joachims, NIPS 2015): weights as they turned out, made to be 1 on average.

    `shown` bool [N, K]: the list has the place. Weights are 1 on average at each place by itself, and there they are
    normalised; those of `position_based` are only so over all places, where each counts by how likely it is `looked` at
    (float [K], the examination).
    """
    reward, weight = _checked(reward, weight)
    shown = np.asarray(shown, bool).reshape(reward.shape)
    weight = np.where(shown, np.minimum(weight, clip), 0.0)
    if looked is None:
        earned, expected, due = weight * reward, weight, shown.astype(np.float64)
    else:
        earned = (weight * reward).sum(1, keepdims=True)
        expected, due = (weight @ looked)[:, None], (shown @ looked)[:, None]
    a, b, c = earned.mean(0), expected.mean(0), due.mean(0)
    inverse = np.divide(1.0, b, out=np.zeros_like(b), where=b > 0)
    value = a * c * inverse
    influence = (earned - a) * c * inverse - (expected - b) * value * inverse + (due - c) * a * inverse
    return Score(float(value.sum()), influence.sum(1))


def direct(q_target: np.ndarray) -> Score:
    """The direct method: the reward model's word for what the target would show."""
    return _mean_of(_places(q_target).sum(1))


def doubly_robust(
    reward: np.ndarray, weight: np.ndarray, q_logged: np.ndarray, q_target: np.ndarray, clip: float = np.inf
) -> Score:
    """Doubly robust (Dudik, Langford and Li, ICML 2011): the model, put right by its weighted error on the log.

    The model must not have seen the lists that it guesses (see `reward_model`), or its error looks too small
    (Chernozhukov et al., 2018).
    """
    reward, weight = _checked(reward, weight)
    q_logged, q_target = _places(q_logged), _places(q_target)
    return _mean_of((q_target + np.minimum(weight, clip) * (reward - q_logged)).sum(1))


def switch(
    reward: np.ndarray, weight: np.ndarray, q_logged: np.ndarray, q_target: np.ndarray, threshold: float | None = None
) -> Score:
    """SWITCH-DR (Wang, Agarwal and Dudik, ICML 2017): no correction by weights above `threshold`; None chooses it."""
    reward, weight = _checked(reward, weight)
    q_logged, q_target = _places(q_logged), _places(q_target)
    if threshold is None:
        threshold = switch_threshold(reward, weight, q_logged, q_target)
    return _mean_of((q_target + np.where(weight <= threshold, weight, 0.0) * (reward - q_logged)).sum(1))


def switch_threshold(
    reward: np.ndarray, weight: np.ndarray, q_logged: np.ndarray, q_target: np.ndarray, steps: int = 20
) -> float:
    """The threshold with the least estimated variance + bound on the squared bias (Wang et al., section 4).

    The bias of leaving weights out is at most the target's chance of them times the largest error of the model. The
    bound is meant to be too large: a threshold that is too high costs noise, which the interval shows; one that is too
    low costs bias, which it does not.
    """
    reward, weight = _checked(reward, weight)
    error = reward - _places(q_logged)
    worst = float(np.abs(error).max(initial=0.0))
    positive = weight[weight > 0]
    if not len(positive):
        return np.inf
    choices = np.unique(np.append(np.quantile(positive, 1 - np.geomspace(1e-4, 0.5, steps)), positive.max()))
    best, least = float(choices[-1]), np.inf
    for choice in choices:
        kept = np.where(weight <= choice, weight, 0.0)
        noise = (_places(q_target) + kept * error).sum(1).var() / len(weight)
        left_out = (weight - kept).sum(1).mean()
        total = noise + (worst * left_out) ** 2
        if total < least:
            best, least = float(choice), total
    return best


def difference(challenger: Score, champion: Score) -> Score:
    """challenger - champion, both judged on the same lists, so that what the two have in common cancels."""
    if len(challenger.influence) != len(champion.influence):
        raise InvalidInput(
            f"{len(challenger.influence)} lists against {len(champion.influence)}: judge both on the same log"
        )
    return Score(challenger.value - champion.value, challenger.influence - champion.influence)


def _mean_of(earned: np.ndarray) -> Score:
    value = earned.mean() if len(earned) else 0.0
    return Score(float(value), earned - value)


def _places(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return values[:, None] if values.ndim == 1 else values


def _checked(reward: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reward, weight = _places(reward), _places(weight)
    if reward.shape != weight.shape:
        raise InvalidInput(f"rewards {reward.shape} and weights {weight.shape} must have one shape")
    if not np.isfinite(reward).all() or not np.isfinite(weight).all() or (weight < 0).any():
        raise InvalidInput("rewards and weights must be finite, and weights not negative: drop lists without chances")
    return reward, weight
