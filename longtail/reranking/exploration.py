"""How scores become the odds of a draw: Thompson sampling in a form whose chances are known exactly.

Thompson sampling draws each item's worth from what is believed of it and shows the best draw. With noise of one width
for all items (Gumbel) the chance of each item is a softmax, and a list drawn place by place is that of Plackett and
Luce (Luce, 1959): no simulation is needed for the propensity. What is unknown of an item widens its score instead of
its noise, by standard deviations of the posterior: after Boltzmann exploration as it should be done (Cesa-Bianchi et
al., NIPS 2017), whose own noise of a width for each item has no closed form.
"""

from __future__ import annotations

import numpy as np
from scipy.special import polygamma

CLICKS, PASSED = 1.0, 19.0  # a click in twenty looks: what is believed of an item before it is shown


def doubt(clicks: np.ndarray, impressions: np.ndarray) -> np.ndarray:
    """Standard deviation float32 [I] of the log odds of an item's click rate, given its counts.

    The rate's posterior is Beta(clicks + 1, impressions + 19); its log odds have the variance trigamma of the one plus
    trigamma of the other. An item that people found without lists may have more clicks than impressions.
    """
    hits = np.maximum(np.asarray(clicks, np.float64), 0) + CLICKS
    looks = np.maximum(np.asarray(impressions, np.float64), 0) + PASSED
    return np.sqrt(polygamma(1, hits) + polygamma(1, looks)).astype(np.float32)


def log_odds(worth: np.ndarray, unknown: np.ndarray | None, temperature: float | None, thompson: float) -> np.ndarray:
    """float64 [n]: the logarithm of the odds with which each candidate is drawn, up to a common summand.

    `worth` float [n] scores on the log scale, `unknown` float32 [n] their `doubt`; without a temperature all are alike.
    """
    if temperature is None:
        return np.zeros(len(worth))
    out = np.asarray(worth, np.float64)
    if unknown is not None and thompson > 0:
        out = out + thompson * unknown.astype(np.float64)
    return out / temperature
