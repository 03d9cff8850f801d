"""What an interaction is worth to the business: the gain that the ranker learns to put first."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from longtail.errors import InvalidInput
from longtail.events import Log
from longtail.schema import EVENT_CODE

Objective = Literal["clicks", "conversion", "revenue", "margin"]


def gains(log: Log, objective: str, price: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Gain float32 [N] of each event under the named objective.

    `clicks`: 1 for any interest. `conversion`: 1 for a purchase, .3 for a cart, .1 for a click. `revenue` and `margin`
    scale those by the item's price, or price times margin, over the shop's median. `price`, `margin` float32 [I], NaN
    counts as the median.

    Raises:
        InvalidInput: the objective has no such name.
    """
    if objective not in get_args(Objective):
        raise InvalidInput(f"objective {objective!r} is unknown: use one of {', '.join(get_args(Objective))}")
    interest = (log.strength > 0).astype(np.float32)
    if objective == "clicks":
        return interest
    step = np.full(len(log), 0.1, np.float32)
    step[log.kind == EVENT_CODE["add_to_cart"]] = 0.3
    step[log.kind == EVENT_CODE["purchase"]] = 1.0
    if not np.any(log.kind == EVENT_CODE["purchase"]):
        step[:] = 1.0  # a log without purchases converts by its strongest signal: interest
    worth = np.ones(log.n_items)
    if objective in ("revenue", "margin"):
        money = price * margin if objective == "margin" else price
        median = np.nanmedian(money) if np.any(money == money) else 1.0
        worth = np.where(money == money, money, median) / max(float(median), 1e-9)
        worth = np.clip(worth, 0.05, 20)
    return (interest * step * worth[log.item]).astype(np.float32)
