"""The imported log as int-coded arrays, and the requests (a time and a history each) that are answered from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from longtail.errors import InvalidInput
from longtail.schema import EVENT_CODE, EVENT_STRENGTH, EVENT_TYPES, ITEM_SCHEMA

UNKNOWN = -1
RETURN_RATE = "return_rate"
ROW = 2**40  # row * ROW + item is one flat key per (request, item) pair: no catalogue has that many items


@dataclass(frozen=True)
class Log:
    """Events of catalogue items sorted by (user, time); all arrays have length N.

    `user` int32, `item` int32, `time` int64 microseconds, `kind` int8 (index into `schema.EVENT_TYPES`), `strength`
    float32 (0 for exposure and returns), `value` float32 money, `quantity` float32, `session` int32 (one code per
    session), `request` int32 (the list request that caused the event, -1 none), `position` int16 (0 is the first
    place, -1 unknown), `propensity` float32 (chance that the logging policy showed the item there, NaN unknown).
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    kind: np.ndarray
    strength: np.ndarray
    value: np.ndarray
    quantity: np.ndarray
    session: np.ndarray
    request: np.ndarray
    position: np.ndarray
    propensity: np.ndarray
    n_users: int
    n_items: int

    def __len__(self) -> int:
        return len(self.user)

    def select(self, mask: np.ndarray) -> Log:
        """The rows of a boolean mask or an ascending index array, same user and item codes."""
        arrays = {f.name: getattr(self, f.name)[mask] for f in fields(self) if not f.name.startswith("n_")}
        return replace(self, **arrays)

    def before(self, time: int) -> Log:
        """Events strictly earlier than `time` (microseconds)."""
        return self.select(self.time < time)

    @property
    def positives(self) -> Log:
        """Events that show interest: strength above zero."""
        return self.select(self.strength > 0)

    def indptr(self) -> np.ndarray:
        """int64 [n_users + 1]: the rows of user u are indptr[u]:indptr[u + 1]."""
        return np.searchsorted(self.user, np.arange(self.n_users + 1)).astype(np.int64)


@dataclass(frozen=True)
class Histories:
    """Ragged positive histories of B requests, oldest first: row b is `indptr[b]:indptr[b + 1]` of the flat arrays."""

    indptr: np.ndarray
    item: np.ndarray
    time: np.ndarray
    kind: np.ndarray
    strength: np.ndarray
    quantity: np.ndarray
    session: np.ndarray

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 [B]."""
        return np.diff(self.indptr)

    @property
    def rows(self) -> np.ndarray:
        """int64 [nnz]: the request that each event belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def age(self) -> np.ndarray:
        """int64 [nnz]: 0 for the newest event of its request, 1 for the one before, ..."""
        return np.repeat(self.indptr[1:], self.lengths) - 1 - np.arange(len(self.item))

    def take(self, rows: np.ndarray) -> Histories:
        """The histories of the given requests, in that order."""
        flat, indptr = ragged_take(self.indptr, rows)
        arrays = {f.name: getattr(self, f.name)[flat] for f in fields(self) if f.name != "indptr"}
        return Histories(indptr=indptr, **arrays)

    @staticmethod
    def empty(n: int) -> Histories:
        """n requests without a history."""
        return Histories(
            np.zeros(n + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int8),
            np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.int32),
        )  # fmt: skip


@dataclass(frozen=True)
class Requests:
    """B requests for a list: when, by whom, and what the person did before.

    `time` int64 [B] microseconds; `user` int32 [B] (-1 unknown); `segment` int32 [B] (-1 unknown), the group of people
    that "popular in segment" counts in.
    """

    time: np.ndarray
    user: np.ndarray
    segment: np.ndarray
    history: Histories

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: np.ndarray) -> Requests:
        """The given requests, in that order."""
        return Requests(self.time[rows], self.user[rows], self.segment[rows], self.history.take(rows))


def ragged_take(indptr: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat positions int64 [nnz] of the given ragged rows, and their new indptr int64 [len(rows) + 1]."""
    start, length = indptr[rows], indptr[np.asarray(rows) + 1] - indptr[rows]
    out = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    return np.arange(out[-1]) + np.repeat(start - out[:-1], length), out


def histories_before(
    log: Log, users: np.ndarray, times: np.ndarray, last: int | None = None, same_session: bool = False
) -> Histories:
    """What each user showed interest in strictly before its time: `log` must hold positives only.

    `users` int [B] (unknown users, -1, get an empty history), `times` int64 [B]; `last` keeps only the newest events;
    `same_session` keeps only events of the session that the newest event belongs to.
    """
    if len(users) and not len(log):
        return Histories.empty(len(users))
    indptr = log.indptr()
    known = np.asarray(users) >= 0
    safe = np.where(known, users, 0)
    start = indptr[safe]
    # The log is sorted by (user, time): one lexicographic key lets a single searchsorted cut every history.
    span = int(log.time.max() - log.time.min()) + 2 if len(log) else 1
    base = int(log.time.min()) if len(log) else 0
    key = log.user.astype(np.int64) * span + (log.time - base)
    stop = np.searchsorted(key, safe.astype(np.int64) * span + np.clip(np.asarray(times) - base, 0, span - 1))
    stop = np.maximum(np.where(known, stop, start), start)
    if same_session:
        first = np.concatenate([[True], (log.session[1:] != log.session[:-1]) | (log.user[1:] != log.user[:-1])])
        starts = np.maximum.accumulate(np.where(first, np.arange(len(log)), 0))
        start = np.where(stop > start, starts[np.maximum(stop - 1, 0)], start)
    if last is not None:
        start = np.maximum(start, stop - last)
    bounds = np.concatenate([[0], np.cumsum(stop - start)]).astype(np.int64)
    flat = np.arange(bounds[-1]) + np.repeat(start - bounds[:-1], stop - start)
    return Histories(
        bounds, log.item[flat], log.time[flat], log.kind[flat], log.strength[flat], log.quantity[flat],
        log.session[flat],
    )  # fmt: skip


@dataclass(frozen=True)
class Catalogue:
    """The items, one row each; missing values are -1 for codes, NaN for money, 0 for `min_age`.

    `frame` keeps the item columns of the contract, `item_id` str; `category` int32 [I] codes the whole path,
    `top_category` int32 [I] its first part, `brand` int32 [I].
    """

    frame: pd.DataFrame
    category: np.ndarray
    top_category: np.ndarray
    brand: np.ndarray
    categories: np.ndarray
    top_categories: np.ndarray
    brands: np.ndarray

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def item_ids(self) -> np.ndarray:
        """str object array [I]."""
        return self.frame["item_id"].to_numpy(object)

    @property
    def price(self) -> np.ndarray:
        """float32 [I], NaN where unknown."""
        return self.frame["price"].to_numpy(np.float32)

    @property
    def margin(self) -> np.ndarray:
        """float32 [I] share of the price, NaN where unknown."""
        return self.frame["margin"].to_numpy(np.float32)

    @property
    def return_rate(self) -> np.ndarray:
        """float32 [I]: the share of purchases that is expected to come back; 0 where nobody has worked it out."""
        frame = self.frame
        return frame[RETURN_RATE].to_numpy(np.float32) if RETURN_RATE in frame else np.zeros(len(self), np.float32)

    def with_return_rate(self, rate: np.ndarray) -> Catalogue:
        """The same items with their return rates float32 [I]."""
        return replace(self, frame=self.frame.assign(**{RETURN_RATE: np.asarray(rate, np.float32)}))

    @property
    def created_us(self) -> np.ndarray:
        """int64 [I] microseconds, -1 where unknown."""
        return micros(self.frame["created_at"])

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Item index int64 of each id, -1 for ids that the shop lacks."""
        return self._codes.get_indexer(pd.Index(ids, dtype=object)).astype(np.int64)

    @cached_property
    def _codes(self) -> pd.Index:
        return pd.Index(self.item_ids)

    @staticmethod
    def from_frame(frame: pd.DataFrame) -> Catalogue:
        """Code the categories and brands of an item frame; absent contract columns count as missing."""
        frame = frame.drop_duplicates("item_id").reset_index(drop=True)
        for column in ITEM_SCHEMA.names:
            if column not in frame:
                frame[column] = (
                    pd.NaT if column == "created_at" else (np.nan if column in ("price", "margin") else None)
                )
        frame["created_at"] = pd.to_datetime(frame["created_at"], utc=True)
        frame["in_stock"] = frame["in_stock"].map(lambda v: True if v is None or v != v else bool(v)).astype(bool)
        frame["min_age"] = pd.to_numeric(frame["min_age"]).fillna(0).astype(np.int32)
        category, categories = pd.factorize(frame["category"].astype(object), sort=True)
        top, top_categories = pd.factorize(
            frame["category"].astype("string").str.split("/").str[0].astype(object), sort=True
        )
        brand, brands = pd.factorize(frame["brand"].astype(object), sort=True)
        return Catalogue(
            frame, category.astype(np.int32), top.astype(np.int32), brand.astype(np.int32),
            np.asarray(categories, object), np.asarray(top_categories, object), np.asarray(brands, object),
        )  # fmt: skip


def micros(times: pd.Series) -> np.ndarray:
    """Microseconds since 1970 of a datetime column, int64, -1 where missing."""
    values = times.dt.tz_convert("UTC") if times.dt.tz is not None else times
    return np.where(times.isna(), UNKNOWN, values.dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64))


@dataclass(frozen=True)
class Shop:
    """An imported shop in memory: the catalogue, the log, and the ids behind its codes."""

    log: Log
    catalogue: Catalogue
    user_ids: np.ndarray
    segment: np.ndarray  # int32 [n_users]: code of the user's region, -1 unknown
    segments: np.ndarray
    request_ids: np.ndarray

    @staticmethod
    def load(folder: Path | str) -> Shop:
        """Read an imported shop.

        Raises:
            InvalidInput: the folder holds no import, or no event refers to a catalogue item.
        """
        folder = Path(folder)
        for name in ("events.parquet", "items.parquet"):
            if not (folder / name).is_file():
                raise InvalidInput(f"{folder} has no {name}: run `longtail import` or `longtail simulate` first")
        wanted = ["user_id", "item_id", "event_type", "timestamp", "session_id", "request_id", "position", "value"]
        schema = pq.read_schema(folder / "events.parquet")
        extras = [c for c in ("quantity", "propensity", "region") if c in schema.names]
        text = ["user_id", "item_id", "event_type", "session_id", "request_id"]
        table = pq.read_table(folder / "events.parquet", columns=wanted + extras, read_dictionary=text)
        events = table.to_pandas()
        items = pd.read_parquet(folder / "items.parquet")
        return Shop.from_frames(events, items)

    @staticmethod
    def from_frames(events: pd.DataFrame, items: pd.DataFrame) -> Shop:
        """The shop of validated event and item frames (columns of `longtail.schema`)."""
        catalogue = Catalogue.from_frame(items)
        item = pd.Index(catalogue.frame["item_id"]).get_indexer(events["item_id"].astype(object))
        events = events[item >= 0]
        item = item[item >= 0].astype(np.int32)
        if not len(events):
            raise InvalidInput("no event refers to an item of the catalogue: check the item ids of both files")
        user, user_ids = pd.factorize(events["user_id"].astype(object), sort=True)
        time = micros(events["timestamp"])
        kind = events["event_type"].astype(object).map(EVENT_CODE).to_numpy(np.int8)
        value = events["value"].to_numpy(np.float32)
        strength = np.array([EVENT_STRENGTH[t] for t in EVENT_TYPES], np.float32)[kind]
        strength = np.where(value < 0, np.float32(0), strength)
        session = pd.factorize(events["session_id"].astype(object))[0].astype(np.int32)
        request, request_ids = pd.factorize(events["request_id"].astype(object))
        nan = np.full(len(events), np.nan, np.float32)
        quantity = events["quantity"].to_numpy(np.float32) if "quantity" in events else nan
        propensity = events["propensity"].to_numpy(np.float32) if "propensity" in events else nan
        position = events["position"].fillna(-1).to_numpy(np.int16)
        order = np.lexsort((np.arange(len(events)), time, user))
        log = Log(
            user.astype(np.int32)[order], item[order], time[order], kind[order], strength[order],
            np.nan_to_num(value[order]), np.where(quantity != quantity, 1, quantity).astype(np.float32)[order],
            session[order], request.astype(np.int32)[order], position[order], propensity[order],
            len(user_ids), len(catalogue),
        )  # fmt: skip
        segment, segments = np.full(len(user_ids), UNKNOWN, np.int32), np.empty(0, object)
        if "region" in events:
            codes, segments = pd.factorize(events["region"].astype(object), sort=True)
            segment[user] = codes  # the last event wins: a person is where they were seen last
        return Shop(log, catalogue, np.asarray(user_ids, object), segment, np.asarray(segments, object),
                    np.asarray(request_ids, object))  # fmt: skip
