"""What an interaction is worth to the business: the gain that the ranker learns to put first.

An objective is one goal by name, or a mix of several by weight: `{conversion: 0.5, margin: 0.5}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import Discriminator, Field, Tag

from longtail.errors import InvalidInput
from longtail.events import Log
from longtail.schema import EVENT_CODE

Goal = Literal["clicks", "conversion", "revenue", "net_revenue", "margin"]
Mix = Annotated[dict[Goal, Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=1)]
MONEY = ("revenue", "net_revenue", "margin")
LEAST, MOST = 0.05, 20.0  # that an item is taken to be worth, the median item being 1: none decides alone


def _form(value: Any) -> str:
    return "<mix>" if isinstance(value, dict) else "<goal>"


# The tags stand in no file: what names the place of a mistake leaves them out.
Objective = Annotated[Annotated[Goal, Tag("<goal>")] | Annotated[Mix, Tag("<mix>")], Discriminator(_form)]


def shares(objective: str | Mapping[Any, float]) -> dict[str, float]:
    """Each goal's share of the objective; the shares add up to 1.

    Raises:
        InvalidInput: a goal has no such name, or no weight is above zero.
    """
    mix = {objective: 1.0} if isinstance(objective, str) else dict(objective)
    for goal in mix:
        if goal not in get_args(Goal):
            raise InvalidInput(f"objective {goal!r} is unknown: use one of {', '.join(get_args(Goal))}")
    total = sum(mix.values())
    if not mix or min(mix.values()) < 0 or not 0 < total < np.inf:
        raise InvalidInput("objective: give each goal a weight above zero")
    return {goal: weight / total for goal, weight in mix.items() if weight > 0}


def money(goal: str, price: np.ndarray, margin: np.ndarray, return_rate: np.ndarray) -> np.ndarray:
    """What one sale of each item brings under a goal of `MONEY`, float64 [I], NaN where unknown.

    `revenue` is the price, `margin` price x margin; `net_revenue` is what the shop keeps when purchases come back as
    often as `return_rate` float [I] expects.
    """
    price = np.asarray(price, np.float64)
    if goal == "margin":
        return price * margin
    return price * (1 - return_rate) if goal == "net_revenue" else price


def item_worth(
    objective: str | Mapping[Any, float], price: np.ndarray, margin: np.ndarray, return_rate: np.ndarray
) -> np.ndarray | None:
    """What a conversion by each item is worth, 1 for the median item: float64 [I], None where all are worth the same.

    A mix is worth the weighted mean of its goals. An unknown price or margin counts as the median one.
    """
    out, differs = np.zeros(len(price)), False
    for goal, share in shares(objective).items():
        brings = money(goal, price, margin, return_rate) if goal in MONEY else np.empty(0)
        earning = brings[np.isfinite(brings) & (brings > 0)]
        if len(earning):
            differs = True
            out += share * np.where(np.isfinite(brings), brings / np.median(earning), 1.0)
        else:
            out += share
    return out if differs else None


def gains(
    log: Log, objective: str | Mapping[Any, float], price: np.ndarray, margin: np.ndarray,
    return_rate: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Gain float32 [N] of each event under the objective.

    `clicks`: 1 for any interest. `conversion`: 1 for a purchase, .3 for a cart, .1 for a click. The goals of `MONEY`
    scale those by what the item brings over the shop's median, within .05 and 20. `price`, `margin`, `return_rate`
    float32 [I]; NaN counts as the median, no rates as no returns.

    Raises:
        InvalidInput: see `shares`.
    """
    interest = (log.strength > 0).astype(np.float64)
    step = np.full(len(log), 0.1)
    step[log.kind == EVENT_CODE["add_to_cart"]] = 0.3
    step[log.kind == EVENT_CODE["purchase"]] = 1.0
    if not np.any(log.kind == EVENT_CODE["purchase"]):
        step[:] = 1.0  # a log without purchases converts by its strongest signal: interest
    rate = np.zeros(len(price)) if return_rate is None else return_rate
    out = np.zeros(len(log))
    for goal, share in shares(objective).items():
        worth = item_worth(goal, price, margin, rate)
        scale = 1.0 if worth is None else np.clip(worth, LEAST, MOST)[log.item]
        out += share * scale * (1.0 if goal == "clicks" else step)
    return (interest * out).astype(np.float32)
