"""The ranker's input: one function that the trainer and the server both call.

Every value depends on its own request and candidate alone, never on the batch around it, so that a request that is
replayed through the trainer gives the same bits as when it was served.

What depends on the item alone is computed once per snapshot (`item_table`), what depends on the request alone once per
request (here), and what needs both by compiled loops (`loops`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from longtail.compiled import frozen
from longtail.errors import InvalidInput
from longtail.events import Requests
from longtail.features import loops
from longtail.features.batch import UserCategory
from longtail.features.definitions import ITEM_SNAPSHOT, USER_CATEGORY_SNAPSHOT, USER_SNAPSHOT, Feature
from longtail.features.item_table import ITEM_COLUMNS, ItemArrays, ItemTable
from longtail.schema import DAY_US, EVENT_CODE

__all__ = [
    "NEVER", "ItemArrays", "ItemTable", "Pairs", "Prepared", "assemble", "feature_list", "prepare", "schema_hash",
]  # fmt: skip
NEVER = loops.NEVER
LOGGED = tuple(name for name in USER_SNAPSHOT if name not in ("first_us", "last_us"))
CATEGORY_COUNTS = ("n_7d", "n_30d", "n_all", "buy_all")
SHORT, LONG, VINTAGE = 3, 20, 10  # newest items that a candidate is compared with

USER_COLUMNS = [
    *((f"user_{name}", f"log {USER_SNAPSHOT[name]}") for name in LOGGED),
    ("user_age", "days since the user's first interaction"),
    ("user_since_last", "days since the user's last interaction in the snapshot"),
    ("user_interval", "mean days between the user's sessions"),
    ("user_repeat_share", "interactions per different item"),
    ("user_basket", "interactions per session"),
    ("user_ctr_30d", "the user's clicks per impression in 30 days, smoothed"),
]
PAIR_COLUMNS = [
    ("pair_n", "the user's interactions with the item"),
    ("pair_bought", "the user's purchases of the item"),
    ("pair_since", "days since the user's last interaction with the item"),
    ("pair_first", "days since the user's first interaction with the item"),
    ("pair_interval", "usual days between the user's interactions with the item"),
    ("pair_due", "days since the last over the usual interval"),
    ("pair_quantity", "log of the user's usual quantity"),
    ("pair_steps", "events since the user's last interaction with the item"),
]
CATEGORY_COLUMNS = [
    *((f"category_{name}", f"log {USER_CATEGORY_SNAPSHOT[name]}") for name in CATEGORY_COUNTS),
    ("category_share", "share of the user's interactions in the category, smoothed"),
    ("category_since", "days since the user's last interaction in the category"),
]
CROSS_COLUMNS = [
    ("price_difference", "log price minus the user's usual log price"),
    ("quantity_difference", "log mean quantity minus the user's"),
    (f"content_match_{SHORT}", f"likeness of content to the last {SHORT} items"),
    (f"category_match_{SHORT}", f"share of the last {SHORT} items in the category"),
    (f"content_match_{LONG}", f"likeness of content to the last {LONG} items"),
    (f"category_match_{LONG}", f"share of the last {LONG} items in the category"),
    (f"brand_match_{LONG}", f"share of the last {LONG} items of the brand"),
    ("vintage_difference", f"days between the item's listing and that of the last {VINTAGE} items"),
    ("popularity_difference", "log popularity minus that of the user's items"),
]
CONTEXT_COLUMNS = [
    ("context_hour", "hour of the day, UTC"),
    ("context_weekday", "day of the week, 0 is Thursday"),
    ("context_history", "log events of the history"),
    ("context_idle", "days since the newest event"),
    ("context_session", "events of the newest session"),
    ("context_segment", "code of the user's segment, -1 unknown"),
    ("context_known", "1 where the user has a history"),
]
GROUPS = {
    "item": ITEM_COLUMNS, "user": USER_COLUMNS, "pair": PAIR_COLUMNS, "category": CATEGORY_COLUMNS,
    "cross": CROSS_COLUMNS, "context": CONTEXT_COLUMNS,
}  # fmt: skip
COLUMNS = [name for columns in GROUPS.values() for name, _ in columns]
_AT = {name: column for column, name in enumerate(COLUMNS)}
# Where `loops.fill` finds columns of the ranker's input, and in the matrix of items price, quantity and popularity.
PLACES = frozen(
    np.array([
        *(_AT[name] for name in ("item_age", "item_since_last", "item_listed")),  # as the moments in `ItemArrays.facts`
        _AT[USER_COLUMNS[0][0]], _AT["pair_n"], _AT["category_n_7d"],
        *(_AT[f"{name}_difference"] for name in ("price", "quantity", "vintage", "popularity")),
        _AT[f"content_match_{SHORT}"], _AT[f"content_match_{LONG}"],
        _AT[f"category_match_{SHORT}"], _AT[f"category_match_{LONG}"], _AT[f"brand_match_{LONG}"],
        _AT[CONTEXT_COLUMNS[0][0]], len(COLUMNS),
    ]),
    np.int64,
)  # fmt: skip
TASTE = frozen(np.array([_AT[name] for name in ("item_price", "item_quantity", "item_n_all")]), np.int64)


@dataclass(frozen=True)
class Pairs:
    """N (request, item) pairs: `rows` int64 ascending, `items` int64; what the S sources said, float32 [N, S]."""

    rows: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    ranks: np.ndarray


def assemble(
    requests: Requests,
    user: Mapping[str, np.ndarray],
    categories: UserCategory,
    items: ItemTable | ItemArrays,
    pairs: Pairs,
) -> np.ndarray:
    """The ranker's input float32 [N, F], columns in the order of `feature_list`: `prepare`, then `Prepared.rows`."""
    return prepare(requests, user, categories, items).rows(pairs)


def prepare(
    requests: Requests, user: Mapping[str, np.ndarray], categories: UserCategory, items: ItemTable | ItemArrays
) -> Prepared:
    """What requests bring along to any candidate, so that it is there when the candidates come.

    `user` int64 [B] per column of `USER_SNAPSHOT`, zeros for unknown users.

    Raises:
        InvalidInput: an event names an item that is not in `items`.
    """
    table, h, now = items.arrays, requests.history, frozen(requests.time, np.int64)
    past = frozen(h.item, np.int32)
    # Compiled loops do not check their indices: a wrong one would read memory that is not theirs.
    if not loops.inside(past, len(table)):
        raise InvalidInput(f"an event names an item outside the {len(table)} items of the catalogue")
    counted = np.array([user[name] for name in USER_SNAPSHOT], np.int64)
    person = dict(zip(USER_SNAPSHOT, counted, strict=True))
    counts = np.array([categories.columns[name] for name in CATEGORY_COUNTS], np.int64)
    history = (
        frozen(h.indptr, np.int64), past, frozen(h.time, np.int64), frozen(h.kind, np.int8),
        frozen(h.quantity, np.float32),
    )  # fmt: skip
    known = (
        frozen(categories.indptr, np.int64), frozen(categories.category, np.int32), frozen(counts, np.int64),
        frozen(categories.columns["last_us"], np.int64), frozen(person["n_all"], np.int64),
    )  # fmt: skip
    stored = table.matrix, table.facts, table.content_indptr, table.content_indices, table.content_data
    brought = loops.bring(now, history, known, stored, TASTE[2], EVENT_CODE["purchase"], SHORT, LONG, VINTAGE)
    return Prepared(now, (_user_block(counted, person, now), _context_block(requests), _usual(person)), brought, stored)


@dataclass(frozen=True)
class Prepared:
    """B requests that wait for their candidates: times int64 [B], and the arguments of `loops.fill`."""

    now: np.ndarray
    blocks: tuple[np.ndarray, ...]
    brought: tuple
    table: tuple[np.ndarray, ...]

    def rows(self, pairs: Pairs) -> np.ndarray:
        """The ranker's input float32 [N, F]. Unknown values are NaN, as XGBoost takes them.

        Raises:
            InvalidInput: a candidate is not in the catalogue, or rows are not ascending.
        """
        out = np.empty((len(pairs.rows), len(COLUMNS) + 2 * pairs.scores.shape[1]), np.float32)
        rows, items = frozen(pairs.rows, np.int64), frozen(pairs.items, np.int64)
        n_items = len(self.table[0])
        if not loops.inside(items, n_items):
            raise InvalidInput(f"an item code lies outside the {n_items} items of the catalogue")
        if not loops.ascending(rows, len(self.now)):
            raise InvalidInput(f"the rows of candidates must ascend within the {len(self.now)} requests")
        sources = frozen(pairs.scores, np.float32), frozen(pairs.ranks, np.float32)
        loops.fill(
            out, PLACES, rows, items, sources, self.table, TASTE, self.blocks, self.now, self.brought, SHORT, LONG
        )
        return out


def _days(now: np.ndarray, then: np.ndarray) -> np.ndarray:
    # A time after the request is not known at the request: a past window must not see when an item arrives.
    return np.where((then > 0) & (then <= now), (now - then) / DAY_US, NEVER)


def _user_block(counted: np.ndarray, u: Mapping[str, np.ndarray], now: np.ndarray) -> np.ndarray:
    """The columns of the group user, float32 [B, n]; `counted` int64 [C, B] are the columns of `USER_SNAPSHOT`."""
    out = np.empty((len(now), len(USER_COLUMNS)), np.float32)
    out[:, : len(LOGGED)] = np.log1p(np.maximum(counted[_LOGGED], 0).astype(np.float64)).T
    age, sessions = _days(now, u["first_us"]), np.maximum(u["sessions_all"], 1)
    out[:, -6], out[:, -5] = age, _days(now, u["last_us"])
    out[:, -4] = age / sessions
    out[:, -3] = u["n_all"] / np.maximum(u["items_all"], 1)
    out[:, -2] = u["n_all"] / sessions
    out[:, -1] = (u["clicks_30d"] + 1) / (u["impressions_30d"] + 20)
    return out


_LOGGED = np.array([place for place, name in enumerate(USER_SNAPSHOT) if name in LOGGED])


def _usual(u: Mapping[str, np.ndarray]) -> np.ndarray:
    """The log of the price that each person usually pays (NaN unknown) and of the usual quantity, float32 [B, 2]."""
    out = np.empty((len(u["n_all"]), 2), np.float32)
    paid = np.maximum(u["spend_all"] / np.maximum(u["quantity_all"], 1), 0)
    out[:, 0] = np.where(u["spend_all"] > 0, np.log1p(paid), np.nan)
    out[:, 1] = np.log1p(u["quantity_all"] / 100 / np.maximum(u["n_all"], 1))
    return frozen(out, np.float32)


def _context_block(requests: Requests) -> np.ndarray:
    """The columns of the group context, float32 [B, n]."""
    h = requests.history
    lengths = h.lengths
    some = lengths > 0
    out = np.empty((len(requests), len(CONTEXT_COLUMNS)), np.float32)
    seconds = requests.time // 1_000_000
    out[:, 0], out[:, 1], out[:, 2] = seconds // 3600 % 24, seconds // 86400 % 7, np.log1p(lengths)
    out[:, 3], out[:, 4] = NEVER, 0
    newest = h.indptr[1:][some] - 1
    out[some, 3] = (requests.time[some] - h.time[newest]) / DAY_US
    session = np.repeat(h.session[newest], lengths[some])
    out[some, 4] = np.add.reduceat(h.session == session, h.indptr[:-1][some], dtype=np.int64) if some.any() else 0
    out[:, 5], out[:, 6] = requests.segment, some
    return out


def feature_list(source_names: Sequence[str]) -> list[Feature]:
    """Every feature of the ranker in column order, with its group and meaning."""
    found = [Feature(name, group, meaning) for group, columns in GROUPS.items() for name, meaning in columns]
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
