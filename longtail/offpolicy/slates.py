"""Weights of lists, place by place: how much more often the target would have shown what was logged.

What a place earns may depend on the whole list or on little of it; the less is assumed to matter, the smaller the
weights. From no assumption to the strongest:

- `whole_list`: everything matters. One weight for all places; hopeless beyond a few places.
- `cascade`: a place depends on itself and on what stands above (McInerney et al., KDD 2020, "reward interaction").
- `item_position`: a place depends on its item and its height alone (Li et al., KDD 2018).
- `position_based`: its height says how likely it is looked at, and only the item whether it is then clicked
  (Li et al., KDD 2018, from the position-based click model): an item counts wherever either policy would put it.
"""

from __future__ import annotations

import numpy as np


def ratio(target: np.ndarray, logged: np.ndarray) -> np.ndarray:
    """target / logged, float64; 0 where nothing was shown (both 0)."""
    target, logged = np.asarray(target, np.float64), np.asarray(logged, np.float64)
    return np.divide(target, logged, out=np.zeros(np.broadcast(target, logged).shape), where=logged > 0)


def whole_list(target: np.ndarray, logged: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """float64 [N, K] from the chances of each place given those above it, float [N, K]; `shown` bool [N, K]."""
    each = np.where(shown, ratio(target, logged), 1.0)
    return np.where(shown, each.prod(1, keepdims=True), 0.0)


def cascade(target: np.ndarray, logged: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """float64 [N, K] from the chances of each place given those above it, float [N, K]; `shown` bool [N, K]."""
    each = np.where(shown, ratio(target, logged), 1.0)
    return np.where(shown, np.cumprod(each, axis=1), 0.0)


def item_position(target: np.ndarray, logged: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """float64 [N, K] from the chances of the shown item at its place whatever stands above, float [N, K]."""
    return np.where(shown, ratio(target, logged), 0.0)


def position_based(target: np.ndarray, logged: np.ndarray, shown: np.ndarray, examination: np.ndarray) -> np.ndarray:
    """float64 [N, K] from the chances of the shown item at EVERY place, float [N, K, K] (last axis: where it stands).

    `examination` float [K], the chance that a place is looked at, up to a factor.
    """
    return np.where(shown, ratio(target @ examination, logged @ examination), 0.0)


def above(weight: np.ndarray) -> np.ndarray:
    """float64 [N, K]: the `cascade` weight of the place above, 1 for the first.

    A reward model's mean over what the target would show *given what stands above* holds for lists that stand under
    these weights: `q_target` of `doubly_robust` is that mean times them (Kiyohara et al., WSDM 2022, "cascade DR").
    """
    return np.concatenate([np.ones((len(weight), 1)), weight[:, :-1]], axis=1)
