"""The ranker's input once more, for one request and one item at a time in plain Python, to check the fast way."""

from __future__ import annotations

from math import log1p, nan

import numpy as np

from longtail.events import Requests
from longtail.features.batch import UserCategory
from longtail.features.definitions import DECAY_UNIT, HALF_LIVES, ITEM_WINDOWS, USER_SNAPSHOT
from longtail.features.request import NEVER, ItemTable, Pairs
from longtail.schema import DAY_US, EVENT_CODE


def plain(
    requests: Requests, user: dict[str, np.ndarray], categories: UserCategory, items: ItemTable, pairs: Pairs
) -> list[dict[str, float]]:
    """The features of each pair by name, those of the sources left out."""
    rows = []
    for b, item in zip(pairs.rows, pairs.items, strict=True):
        request = requests.take(np.array([b]))
        person = {name: int(column[b]) for name, column in user.items()}
        now = int(requests.time[b])
        past = request.history
        rows.append(
            item_features(items, item, now)
            | user_features(person, now)
            | pair_features(past, item, now)
            | category_features(categories.take(np.array([b])), items.catalogue.category[item], person, now)
            | cross_features(past, person, items, item, now)
            | context_features(request, now)
        )
    return rows


def days(now: int, then: int) -> float:
    return (now - then) / DAY_US if 0 < then <= now else NEVER


def price_and_quantity(items: ItemTable, item: int) -> tuple[float, float]:
    s = {name: int(column[item]) for name, column in items.snapshot.items()}
    price = float(items.catalogue.price[item])
    if np.isnan(price) and s["spend_all"] > 0:
        price = s["spend_all"] / max(s["quantity_all"], 1)
    return (price if np.isnan(price) else log1p(max(price, 0))), log1p(s["quantity_all"] / 100 / max(s["n_all"], 1))


def item_features(items: ItemTable, item: int, now: int) -> dict[str, float]:
    s = {name: int(column[item]) for name, column in items.snapshot.items()}
    pop = {h: s[f"pop_{h}d"] / DECAY_UNIT for h in HALF_LIVES}
    price, quantity = price_and_quantity(items, item)
    logged = [f"n_{d}d" for d in ITEM_WINDOWS] + ["n_all", "buy_7d", "buy_30d", "buy_90d", "buy_all", "carts_30d",
                                                  "returns_90d", "users_all"]  # fmt: skip
    return {
        **{f"item_{name}": log1p(s[name]) for name in logged},
        **{f"item_pop_{h}d": pop[h] for h in HALF_LIVES},
        **{f"item_trend_{a}_{b}": pop[a] / (pop[b] + 1) for a, b in ((3, 7), (3, 30), (7, 30), (14, 60), (60, 365))},
        **{f"item_ctr_{d}d": (s[f"clicks_{d}d"] + 1) / (s[f"impressions_{d}d"] + 20) for d in (7, 30)},
        "item_conversion_30d": (s["buy_30d"] + 1) / (s["clicks_30d"] + 20),
        "item_repeat_rate": s["repeat_users"] / max(s["users_all"], 1),
        "item_age": days(now, s["first_us"]),
        "item_since_last": days(now, s["last_us"]),
        "item_listed": days(now, int(items.catalogue.created_us[item])),
        "item_price": price,
        "item_margin": float(items.catalogue.margin[item]),
        "item_quantity": quantity,
    }


def user_features(u: dict[str, int], now: int) -> dict[str, float]:
    sessions = max(u["sessions_all"], 1)
    return {
        **{f"user_{name}": log1p(max(u[name], 0)) for name in USER_SNAPSHOT if name not in ("first_us", "last_us")},
        "user_age": days(now, u["first_us"]),
        "user_since_last": days(now, u["last_us"]),
        "user_interval": days(now, u["first_us"]) / sessions,
        "user_repeat_share": u["n_all"] / max(u["items_all"], 1),
        "user_basket": u["n_all"] / sessions,
        "user_ctr_30d": (u["clicks_30d"] + 1) / (u["impressions_30d"] + 20),
    }


def pair_features(past, item: int, now: int) -> dict[str, float]:
    mine = [e for e in range(len(past.item)) if past.item[e] == item]
    if not mine:
        return {"pair_n": 0, "pair_bought": 0, "pair_since": NEVER, "pair_first": NEVER, "pair_interval": nan,
                "pair_due": nan, "pair_quantity": nan, "pair_steps": NEVER}  # fmt: skip
    first, last = int(past.time[mine[0]]), int(past.time[mine[-1]])
    interval = (last - first) / DAY_US / (len(mine) - 1) if len(mine) > 1 else nan
    return {
        "pair_n": len(mine),
        "pair_bought": sum(past.kind[e] == EVENT_CODE["purchase"] for e in mine),
        "pair_since": (now - last) / DAY_US,
        "pair_first": (now - first) / DAY_US,
        "pair_interval": interval,
        "pair_due": (now - last) / DAY_US / max(interval, 0.5) if len(mine) > 1 else nan,
        "pair_quantity": log1p(sum(float(past.quantity[e]) for e in mine) / len(mine)),
        "pair_steps": len(past.item) - 1 - mine[-1],
    }


def category_features(rows: UserCategory, category: int, u: dict[str, int], now: int) -> dict[str, float]:
    found = [r for r in range(len(rows.category)) if category >= 0 and rows.category[r] == category]
    row = {name: int(column[found[0]]) if found else 0 for name, column in rows.columns.items()}
    return {
        **{f"category_{name}": log1p(row[name]) for name in ("n_7d", "n_30d", "n_all", "buy_all")},
        "category_share": (row["n_all"] + 0.5) / (u["n_all"] + 20),
        "category_since": days(now, row["last_us"]),
    }


def cross_features(past, u: dict[str, int], items: ItemTable, item: int, now: int) -> dict[str, float]:
    catalogue, content = items.catalogue, items.content
    newest = list(past.item[::-1])
    price, quantity = price_and_quantity(items, item)
    usual = log1p(max(u["spend_all"] / max(u["quantity_all"], 1), 0)) if u["spend_all"] > 0 else nan
    listed = [int(catalogue.created_us[i]) for i in newest[:10] if catalogue.created_us[i] > 0]
    own = int(catalogue.created_us[item])
    popularity = [log1p(items.snapshot["n_all"][i]) for i in newest]
    words = content[[item]].toarray()[0]

    def likeness(last: int) -> float:
        return sum(float(words @ content[[i]].toarray()[0]) for i in newest[:last]) / last

    def share(codes: np.ndarray, last: int) -> float:
        hits = sum(codes[i] == codes[item] for i in newest[:last]) if codes[item] >= 0 else 0
        return hits / max(len(newest[:last]), 1)

    return {
        "price_difference": price - usual,
        "quantity_difference": quantity - log1p(u["quantity_all"] / 100 / max(u["n_all"], 1)),
        "content_match_3": likeness(3),
        "category_match_3": share(catalogue.category, 3),
        "content_match_20": likeness(20),
        "category_match_20": share(catalogue.category, 20),
        "brand_match_20": share(catalogue.brand, 20),
        "vintage_difference": own / DAY_US - np.mean(np.array(listed) / DAY_US) if listed and 0 < own <= now else nan,
        "popularity_difference": log1p(items.snapshot["n_all"][item]) - (np.mean(popularity) if popularity else 0),
    }


def context_features(request: Requests, now: int) -> dict[str, float]:
    past = request.history
    n = len(past.item)
    return {
        "context_hour": now // 1_000_000 // 3600 % 24,
        "context_weekday": now // 1_000_000 // 86400 % 7,
        "context_history": log1p(n),
        "context_idle": (now - int(past.time[-1])) / DAY_US if n else NEVER,
        "context_session": int((past.session == past.session[-1]).sum()) if n else 0,
        "context_segment": int(request.segment[0]),
        "context_known": float(n > 0),
    }
