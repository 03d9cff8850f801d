"""How often what is bought comes back, item by item."""

from __future__ import annotations

import numpy as np

from longtail.events import Log
from longtail.schema import EVENT_CODE

MOST = 0.95  # a shop that books more returns than sales of an item still keeps something, or it would not sell it


def return_rates(log: Log, category: np.ndarray, prior: float = 20.0) -> np.ndarray:
    """Expected share of an item's purchases that are returned or cancelled, float32 [I].

    An item's own share is drawn to its category's by `prior` purchases, that one to the shop's by as many: items that
    hardly anybody bought count as their category does. `log` holds returns too (purchases of a negative value);
    `category` int32 [I], -1 unknown. Purchases of the last days, which may still come back, count as kept.
    """
    purchase = log.kind == EVENT_CODE["purchase"]
    back = np.bincount(log.item[purchase & (log.value < 0)], minlength=log.n_items).astype(np.float64)
    bought = np.bincount(log.item[purchase & (log.strength > 0)], minlength=log.n_items).astype(np.float64)
    shop = back.sum() / max(bought.sum(), 1.0)
    group = np.asarray(category, np.int64) + 1  # group 0: no category
    of_category = (np.bincount(group, back) + prior * shop) / (np.bincount(group, bought) + prior)
    of_category[0] = shop
    rate = (back + prior * of_category[group]) / (bought + prior)
    return np.minimum(rate, MOST).astype(np.float32)
