"""The ranker's input: one vectorised NumPy function that the trainer and the server both call.

Every value depends on its own request and candidate alone, never on the batch around it, so that a request that is
replayed through the trainer gives the same bits as when it was served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import scipy.sparse as sp

from longtail.events import Catalogue, Histories, Requests
from longtail.events.log import ROW
from longtail.features.batch import UserCategory
from longtail.features.definitions import (
    DECAY_UNIT,
    HALF_LIVES,
    ITEM_SNAPSHOT,
    ITEM_WINDOWS,
    USER_CATEGORY_SNAPSHOT,
    USER_SNAPSHOT,
    Feature,
)
from longtail.schema import DAY_US, EVENT_CODE

NEVER = 9999.0  # days, where the event in question never happened


@dataclass(frozen=True)
class ItemTable:
    """The item snapshot in force, with what the catalogue says of the items.

    `snapshot` int64 [I] per column of `ITEM_SNAPSHOT`; `content` csr float32 [I, V], rows of unit length.
    """

    snapshot: Mapping[str, np.ndarray]
    catalogue: Catalogue
    content: sp.csr_matrix

    @cached_property
    def mean_price(self) -> np.ndarray:
        """Log of the money a purchase brought on average, else of the catalogue price; float32 [I], NaN unknown."""
        s = self.snapshot
        paid = s["spend_all"] / np.maximum(s["quantity_all"], 1)
        listed = self.catalogue.price
        known = np.where(listed == listed, listed, np.where(s["spend_all"] > 0, paid, np.nan))
        return np.log1p(np.maximum(known, 0)).astype(np.float32)

    @cached_property
    def mean_quantity(self) -> np.ndarray:
        """Log of the mean quantity of an interaction, float32 [I]."""
        return np.log1p(self.snapshot["quantity_all"] / 100 / np.maximum(self.snapshot["n_all"], 1)).astype(np.float32)


@dataclass(frozen=True)
class Pairs:
    """N (request, item) pairs: `rows` int64 ascending, `items` int64; what the S sources said, float32 [N, S]."""

    rows: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    ranks: np.ndarray


def _days(now: np.ndarray, then: np.ndarray) -> np.ndarray:
    # A time after the request is not known at the request: a past window must not see when an item arrives.
    return np.where((then > 0) & (then <= now), (now - then) / DAY_US, NEVER).astype(np.float32)


def _log(counts: np.ndarray) -> np.ndarray:
    return np.log1p(np.asarray(counts, np.float64)).astype(np.float32)


def _item_features(items: ItemTable, pairs: Pairs, now: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    s = {name: column[pairs.items] for name, column in items.snapshot.items()}
    for d in ITEM_WINDOWS:
        yield f"item_n_{d}d", f"log interactions in {d} days", _log(s[f"n_{d}d"])
    yield "item_n_all", "log interactions ever", _log(s["n_all"])
    for name in ("buy_7d", "buy_30d", "buy_90d", "buy_all", "carts_30d", "returns_90d", "users_all"):
        yield f"item_{name}", f"log {ITEM_SNAPSHOT[name]}", _log(s[name])
    pop = {h: (s[f"pop_{h}d"] / DECAY_UNIT).astype(np.float32) for h in HALF_LIVES}
    for h in HALF_LIVES:
        yield f"item_pop_{h}d", f"interactions, halved every {h} days", pop[h]
    for fast, slow in ((3, 7), (3, 30), (7, 30), (14, 60), (60, 365)):
        yield f"item_trend_{fast}_{slow}", f"popularity at {fast} days over {slow} days", pop[fast] / (pop[slow] + 1)
    for d in (7, 30):
        rate = (s[f"clicks_{d}d"] + 1) / (s[f"impressions_{d}d"] + 20)
        yield f"item_ctr_{d}d", f"clicks per impression in {d} days, smoothed", rate.astype(np.float32)
    rate = (s["buy_30d"] + 1) / (s["clicks_30d"] + 20)
    yield "item_conversion_30d", "purchases per click in 30 days, smoothed", rate.astype(np.float32)
    rate = s["repeat_users"] / np.maximum(s["users_all"], 1)
    yield "item_repeat_rate", "share of its people who came back to it", rate.astype(np.float32)
    yield "item_age", "days since its first interaction", _days(now, s["first_us"])
    yield "item_since_last", "days since its last interaction", _days(now, s["last_us"])
    catalogue = items.catalogue
    yield "item_listed", "days since it entered the catalogue", _days(now, catalogue.created_us[pairs.items])
    yield "item_price", "log price", items.mean_price[pairs.items]
    yield "item_margin", "margin as a share of the price", catalogue.margin[pairs.items]
    yield "item_quantity", "log mean quantity", items.mean_quantity[pairs.items]


def _user_features(
    user: Mapping[str, np.ndarray], rows: np.ndarray, now: np.ndarray
) -> Iterator[tuple[str, str, np.ndarray]]:
    u = {name: np.asarray(column)[rows] for name, column in user.items()}
    skip = {"first_us", "last_us"}
    for name, meaning in USER_SNAPSHOT.items():
        if name not in skip:
            yield f"user_{name}", f"log {meaning}", _log(np.maximum(u[name], 0))
    yield "user_age", "days since the user's first interaction", _days(now, u["first_us"])
    yield "user_since_last", "days since the user's last interaction in the snapshot", _days(now, u["last_us"])
    interval = _days(now, u["first_us"]) / np.maximum(u["sessions_all"], 1)
    yield "user_interval", "mean days between the user's sessions", interval.astype(np.float32)
    yield (
        "user_repeat_share",
        "interactions per different item",
        (u["n_all"] / np.maximum(u["items_all"], 1)).astype(np.float32),
    )
    basket = u["n_all"] / np.maximum(u["sessions_all"], 1)
    yield "user_basket", "interactions per session", basket.astype(np.float32)
    ctr = (u["clicks_30d"] + 1) / (u["impressions_30d"] + 20)
    yield "user_ctr_30d", "the user's clicks per impression in 30 days, smoothed", ctr.astype(np.float32)


def _mean_price_of(user: Mapping[str, np.ndarray]) -> np.ndarray:
    paid = np.asarray(user["spend_all"]) / np.maximum(np.asarray(user["quantity_all"]), 1)
    return np.where(np.asarray(user["spend_all"]) > 0, np.log1p(np.maximum(paid, 0)), np.nan).astype(np.float32)


def _pair_history(requests: Requests, pairs: Pairs) -> Iterator[tuple[str, str, np.ndarray]]:
    """What the user did with this very item before: counts, recency, usual interval and quantity."""
    h = requests.history
    key = h.rows * ROW + h.item
    order = np.argsort(key, kind="stable")  # keeps time order within a pair
    key = key[order]
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])) if len(key) else np.empty(0, np.int64)
    stops = np.append(starts[1:], len(key))
    wanted = pairs.rows * ROW + pairs.items
    place = np.minimum(np.searchsorted(key[starts], wanted), max(len(starts) - 1, 0))
    known = (key[starts][place] == wanted) if len(starts) else np.zeros(len(wanted), bool)

    def per_pair(values: np.ndarray, missing: float) -> np.ndarray:
        return (
            np.where(known, values[place], missing).astype(np.float32)
            if len(starts)
            else np.full(len(wanted), missing, np.float32)
        )

    time, quantity = h.time[order], h.quantity[order]
    count = (stops - starts).astype(np.float64)
    bought = (h.kind[order] == EVENT_CODE["purchase"]).astype(np.int64)
    cumulative = np.concatenate([[0], np.cumsum(bought)])
    first, last = time[starts], time[stops - 1] if len(starts) else time[starts]
    total = np.add.reduceat(quantity.astype(np.float64), starts) if len(starts) else np.empty(0)
    now = requests.time[h.rows[order]][starts] if len(starts) else np.empty(0, np.int64)
    since, span = (now - last) / DAY_US, (last - first) / DAY_US
    interval = np.where(count > 1, span / np.maximum(count - 1, 1), np.nan)
    yield "pair_n", "the user's interactions with the item", per_pair(count, 0)
    yield "pair_bought", "the user's purchases of the item", per_pair(cumulative[stops] - cumulative[starts], 0)
    yield "pair_since", "days since the user's last interaction with the item", per_pair(since, NEVER)
    yield "pair_first", "days since the user's first interaction with the item", per_pair((now - first) / DAY_US, NEVER)
    yield "pair_interval", "usual days between the user's interactions with the item", per_pair(interval, np.nan)
    yield "pair_due", "days since the last over the usual interval", per_pair(since / np.maximum(interval, 0.5), np.nan)
    yield (
        "pair_quantity",
        "log of the user's usual quantity",
        per_pair(np.log1p(np.maximum(total / np.maximum(count, 1), 0)), np.nan),
    )
    age = h.age()[order]
    yield (
        "pair_steps",
        "events since the user's last interaction with the item",
        per_pair(age[stops - 1] if len(starts) else age, NEVER),
    )


def _content_match(requests: Requests, pairs: Pairs, content: sp.csr_matrix, last: int) -> np.ndarray:
    """Dot product float32 [N] of the item's content with the sum over the user's `last` newest items."""
    h = requests.history
    recent = h.age() < last
    indptr = np.concatenate([[0], np.cumsum(np.bincount(h.rows[recent], minlength=len(h)))])
    weight = np.ones(int(recent.sum()), np.float32)
    profile = (sp.csr_matrix((weight, h.item[recent], indptr), shape=(len(h), content.shape[0])) @ content).tocsr()
    out = np.zeros(len(pairs.rows), np.float32)
    step = 100_000
    for a in range(0, len(out), step):
        part = slice(a, a + step)
        product = profile[pairs.rows[part]].multiply(content[pairs.items[part]]).tocsr()
        product.sort_indices()
        out[part] = np.asarray(product.sum(1)).ravel()
    return out / np.float32(last)


def _category_features(
    table: UserCategory, items: ItemTable, pairs: Pairs, user: Mapping[str, np.ndarray], now: np.ndarray
) -> Iterator[tuple[str, str, np.ndarray]]:
    category = items.catalogue.category[pairs.items].astype(np.int64)
    owner = np.repeat(np.arange(len(table.indptr) - 1), np.diff(table.indptr))
    key = owner * 2**32 + table.category
    wanted = pairs.rows * 2**32 + category
    place = np.minimum(np.searchsorted(key, wanted), max(len(key) - 1, 0))
    known = (key[place] == wanted) & (category >= 0) if len(key) else np.zeros(len(wanted), bool)

    def column(name: str) -> np.ndarray:
        return np.where(known, table.columns[name][place], 0) if len(key) else np.zeros(len(wanted), np.int64)

    for name in ("n_7d", "n_30d", "n_all", "buy_all"):
        yield f"category_{name}", f"log {USER_CATEGORY_SNAPSHOT[name]}", _log(column(name))
    share = (column("n_all") + 0.5) / (np.asarray(user["n_all"])[pairs.rows] + 20)
    yield "category_share", "share of the user's interactions in the category, smoothed", share.astype(np.float32)
    yield "category_since", "days since the user's last interaction in the category", _days(now, column("last_us"))


def _recent_match(requests: Requests, pairs: Pairs, codes: np.ndarray, last: int) -> np.ndarray:
    """Share float32 [N] of the user's `last` newest items whose code (category or brand, int [I]) is the item's."""
    h = requests.history
    recent = h.age() < last
    code = codes[h.item[recent]].astype(np.int64)
    key = np.sort(h.rows[recent][code >= 0] * 2**32 + code[code >= 0])
    wanted = pairs.rows * 2**32 + np.maximum(codes[pairs.items], 0)
    hits = np.searchsorted(key, wanted, "right") - np.searchsorted(key, wanted, "left")
    size = np.minimum(h.lengths, last)[pairs.rows]
    return (np.where(codes[pairs.items] >= 0, hits, 0) / np.maximum(size, 1)).astype(np.float32)


def _cross_features(
    requests: Requests, user: Mapping[str, np.ndarray], items: ItemTable, pairs: Pairs
) -> Iterator[tuple[str, str, np.ndarray]]:
    price = items.mean_price[pairs.items]
    yield "price_difference", "log price minus the user's usual log price", price - _mean_price_of(user)[pairs.rows]
    usual = np.asarray(user["quantity_all"]) / 100 / np.maximum(np.asarray(user["n_all"]), 1)
    quantity = _log(usual)[pairs.rows]
    yield "quantity_difference", "log mean quantity minus the user's", items.mean_quantity[pairs.items] - quantity
    for last in (3, 20):
        match = _content_match(requests, pairs, items.content, last)
        yield f"content_match_{last}", f"likeness of content to the last {last} items", match
        match = _recent_match(requests, pairs, items.catalogue.category, last)
        yield f"category_match_{last}", f"share of the last {last} items in the category", match
    yield (
        "brand_match_20",
        "share of the last 20 items of the brand",
        _recent_match(requests, pairs, items.catalogue.brand, 20),
    )
    created = items.catalogue.created_us
    h = requests.history
    recent = (h.age() < 10) & (created[h.item] > 0)
    count = np.bincount(h.rows[recent], minlength=len(h))
    mean = np.bincount(h.rows[recent], created[h.item[recent]] / DAY_US, len(h)) / np.maximum(count, 1)
    listed = created[pairs.items]
    known = (listed > 0) & (listed <= requests.time[pairs.rows]) & (count[pairs.rows] > 0)
    difference = np.where(known, listed / DAY_US - mean[pairs.rows], np.nan)
    yield (
        "vintage_difference",
        "days between the item's listing and that of the last 10 items",
        difference.astype(np.float32),
    )
    popularity = _log(items.snapshot["n_all"])
    seen = np.bincount(h.rows, popularity[h.item], len(h)) / np.maximum(h.lengths, 1)
    yield (
        "popularity_difference",
        "log popularity minus that of the user's items",
        (popularity[pairs.items] - seen[pairs.rows]).astype(np.float32),
    )


def _context_features(requests: Requests, rows: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    h = requests.history
    some = h.lengths > 0
    newest = np.where(some, h.indptr[1:] - 1, 0)
    last_time = h.time[newest] if len(h.time) else np.zeros(len(requests), np.int64)
    idle = np.where(some, (requests.time - last_time) / DAY_US, NEVER).astype(np.float32)
    session = h.session[newest] if len(h.session) else np.zeros(len(requests), np.int64)
    in_session = np.bincount(h.rows, h.session == session[h.rows], len(requests))
    seconds = requests.time // 1_000_000
    per_request = {
        "context_hour": ("hour of the day, UTC", seconds // 3600 % 24),
        "context_weekday": ("day of the week, 0 is Thursday", seconds // 86400 % 7),
        "context_history": ("log events of the history", np.log1p(h.lengths)),
        "context_idle": ("days since the newest event", idle),
        "context_session": ("events of the newest session", in_session),
        "context_segment": ("code of the user's segment, -1 unknown", requests.segment),
        "context_known": ("1 where the user has a history", some),
    }
    for name, (meaning, values) in per_request.items():
        yield name, meaning, np.asarray(values, np.float32)[rows]


def _all_features(
    requests: Requests, user: Mapping[str, np.ndarray], categories: UserCategory, items: ItemTable, pairs: Pairs
) -> Iterator[tuple[str, str, str, np.ndarray]]:
    now = requests.time[pairs.rows]
    groups = {
        "item": _item_features(items, pairs, now),
        "user": _user_features(user, pairs.rows, now),
        "pair": _pair_history(requests, pairs),
        "category": _category_features(categories, items, pairs, user, now),
        "cross": _cross_features(requests, user, items, pairs),
        "context": _context_features(requests, pairs.rows),
    }
    for group, features in groups.items():
        for name, meaning, values in features:
            yield name, group, meaning, values


def assemble(
    requests: Requests, user: Mapping[str, np.ndarray], categories: UserCategory, items: ItemTable, pairs: Pairs
) -> np.ndarray:
    """The ranker's input float32 [N, F], columns in the order of `feature_list`.

    `user` int64 [B] per column of `USER_SNAPSHOT`, zeros for unknown users. Unknown values are NaN, as XGBoost takes
    them.
    """
    columns = [values for _, _, _, values in _all_features(requests, user, categories, items, pairs)]
    sources = np.empty((len(pairs.rows), 2 * pairs.scores.shape[1]), np.float32)
    sources[:, 0::2], sources[:, 1::2] = pairs.scores, pairs.ranks
    return np.concatenate([np.stack(columns, axis=1).astype(np.float32), sources], axis=1)


def feature_list(source_names: Sequence[str]) -> list[Feature]:
    """Every feature of the ranker in column order, with its group and meaning."""
    no_user = {name: np.zeros(0, np.int64) for name in USER_SNAPSHOT}
    no_item = {name: np.zeros(0, np.int64) for name in ITEM_SNAPSHOT}
    empty = np.empty(0, np.int64)
    nothing = Requests(empty, empty.astype(np.int32), empty.astype(np.int32), Histories.empty(0))
    frame = pd.DataFrame(
        {"item_id": pd.Series(dtype=object), "category": pd.Series(dtype=object), "brand": pd.Series(dtype=object)}
    )
    table = ItemTable(no_item, Catalogue.from_frame(frame), sp.csr_matrix((0, 1), dtype=np.float32))
    categories = UserCategory.empty(0)
    pairs = Pairs(empty, empty, np.empty((0, 0), np.float32), np.empty((0, 0), np.float32))
    found = [Feature(n, g, m) for n, g, m, _ in _all_features(nothing, no_user, categories, table, pairs)]
    for source in source_names:
        found.append(Feature(f"source_{source}", "source", f"score of the source {source}"))
        found.append(Feature(f"rank_{source}", "source", f"rank in the source {source} among all candidates"))
    return found


def schema_hash(source_names: Sequence[str]) -> str:
    """Ties a model to its features: changes when a name, an order, a meaning or a snapshot column does."""
    text = "\n".join(f"{f.name}|{f.group}|{f.meaning}" for f in feature_list(source_names))
    for snapshot in (ITEM_SNAPSHOT, USER_SNAPSHOT, USER_CATEGORY_SNAPSHOT):
        text += "\n" + "\n".join(f"{name}|{meaning}" for name, meaning in snapshot.items())
    return hashlib.sha256(text.encode()).hexdigest()[:16]
