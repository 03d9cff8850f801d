"""Every feature in one place: what the daily snapshots hold, and what the ranker reads, each with its meaning.

Snapshots count strictly before their stamp, in int64, so that any engine computes the same bits: money in cents,
quantities in hundredths, decayed popularity in units of 2**-20 with whole-day ages.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """A column of the ranker's input. Groups: item, user, pair (user x item), category, cross, context, source."""

    name: str
    group: str
    meaning: str


ITEM_WINDOWS = (1, 3, 7, 14, 30, 90, 365)
HALF_LIVES = (3, 7, 14, 30, 60, 365)
USER_WINDOWS = (1, 7, 30, 90)
DECAY_UNIT = 2**20

# Interactions are events of positive strength; purchases have a positive value, returns a negative one.
ITEM_SNAPSHOT: dict[str, str] = {
    **{f"n_{d}d": f"interactions in the last {d} days" for d in ITEM_WINDOWS},
    "n_all": "interactions ever",
    **{f"buy_{d}d": f"purchases in the last {d} days" for d in (7, 30, 90)},
    "buy_all": "purchases ever",
    **{f"impressions_{d}d": f"impressions in the last {d} days" for d in (7, 30)},
    **{f"clicks_{d}d": f"clicks and views in the last {d} days" for d in (7, 30)},
    "carts_30d": "cart additions in the last 30 days",
    "returns_90d": "returns in the last 90 days",
    "users_all": "people who ever interacted",
    "repeat_users": "people who interacted on two or more days",
    **{f"pop_{h}d": f"interactions, halved every {h} days, x 2**20" for h in HALF_LIVES},
    "first_us": "time of the first interaction, microseconds",
    "last_us": "time of the last interaction, microseconds",
    "spend_all": "money of all purchases, cents",
    "quantity_all": "quantity of all interactions, hundredths",
}
USER_SNAPSHOT: dict[str, str] = {
    **{f"n_{d}d": f"interactions in the last {d} days" for d in USER_WINDOWS},
    "n_all": "interactions ever",
    **{f"buy_{d}d": f"purchases in the last {d} days" for d in (30, 90)},
    "buy_all": "purchases ever",
    "impressions_30d": "impressions in the last 30 days",
    "clicks_30d": "clicks and views in the last 30 days",
    "carts_30d": "cart additions in the last 30 days",
    "returns_all": "returns ever",
    "sessions_30d": "sessions with an interaction in the last 30 days",
    "sessions_all": "sessions with an interaction ever",
    "items_all": "different items ever",
    "days_all": "days with an interaction ever",
    "first_us": "time of the first interaction, microseconds",
    "last_us": "time of the last interaction, microseconds",
    "spend_90d": "money of purchases in the last 90 days, cents",
    "spend_all": "money of all purchases, cents",
    "quantity_all": "quantity of all interactions, hundredths",
}
USER_CATEGORY_SNAPSHOT: dict[str, str] = {
    "n_7d": "interactions with the category in the last 7 days",
    "n_30d": "interactions with the category in the last 30 days",
    "n_all": "interactions with the category ever",
    "buy_all": "purchases in the category ever",
    "last_us": "time of the last interaction with the category, microseconds",
}
