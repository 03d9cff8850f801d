"""A small random log whose events fall on the edges of windows, sessions and days."""

from __future__ import annotations

import numpy as np
import pandas as pd

from longtail.events.log import Catalogue, Log
from longtail.schema import DAY_US, EVENT_STRENGTH, EVENT_TYPES

NOON = 19_700 * DAY_US + DAY_US // 2  # stamps need not fall on midnight
STAMPS = [NOON + 20 * DAY_US, NOON + 400 * DAY_US, NOON + 401 * DAY_US]


def make_log(n: int = 3000, n_users: int = 25, n_items: int = 30, days: int = 420, seed: int = 0) -> Log:
    rng = np.random.default_rng(seed)
    # Many users and items keep to a few days, so that windows, sessions and repeats meet their edges.
    user = np.sort(rng.integers(0, n_users - 2, n)).astype(np.int32)
    time = NOON + rng.integers(0, days * 8, n) * (DAY_US // 8) - rng.integers(0, 2, n)
    order = np.lexsort((time, user))
    time = time[order]
    kind = rng.choice(7, n, p=[0.3, 0.2, 0.1, 0.1, 0.2, 0.05, 0.05]).astype(np.int8)
    value = np.where(kind == 4, rng.uniform(-20, 60, n).round(2), 0).astype(np.float32)
    strength = np.array([EVENT_STRENGTH[t] for t in EVENT_TYPES], np.float32)[kind]
    strength = np.where(value < 0, 0, strength).astype(np.float32)
    session = (user * 1000 + (time - NOON) // (5 * DAY_US)).astype(np.int32)
    return Log(
        user, rng.integers(0, n_items - 3, n).astype(np.int32), time, kind, strength, value,
        rng.choice([1, 2, 0.5, 0.125], n).astype(np.float32), session, np.full(n, -1, np.int32),
        np.full(n, -1, np.int16), np.full(n, np.nan, np.float32), n_users, n_items,
    )  # fmt: skip


def make_catalogue(n_items: int = 30) -> Catalogue:
    category = [None if i % 7 == 0 else f"a/{i % 5}" for i in range(n_items)]
    return Catalogue.from_frame(pd.DataFrame({"item_id": [f"i{i:03}" for i in range(n_items)], "category": category}))
