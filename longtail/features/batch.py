"""Daily snapshots of items, users and user x category, written once as Ibis expressions for DuckDB and Spark.

Days are 24-hour buckets that end at the stamp: with `anchor` the stamp modulo one day, bucket `b` holds the times in
`[anchor + b * DAY, anchor + (b + 1) * DAY)`, and a snapshot stamped `anchor + B * DAY` counts the buckets below `B`,
that is, the events strictly before it. Everything is int64, so that any engine computes the same bits.

Expressions: `coded_events` -> `item_days`, `user_days`, `session_days`, `user_category_days` (one row per entity and
bucket) -> `item_snapshot`, `user_snapshot`, `user_category_snapshot` (one row per entity and stamp). `snapshots` runs
them on DuckDB and hands out arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from longtail.errors import InvalidInput
from longtail.events.log import Catalogue, Log, ragged_take
from longtail.features.definitions import (
    DECAY_UNIT,
    HALF_LIVES,
    ITEM_SNAPSHOT,
    ITEM_WINDOWS,
    USER_CATEGORY_SNAPSHOT,
    USER_SNAPSHOT,
    USER_WINDOWS,
)
from longtail.schema import DAY_US, EVENT_CODE

if TYPE_CHECKING:
    from ibis.backends import BaseBackend
    from ibis.expr.types import IntegerValue, NumericValue, Table

EVENT_COLUMNS = {
    "user": "int32", "item": "int32", "category": "int32", "session": "int32", "kind": "int8", "time": "int64",
    "strength": "float32", "value": "float32", "quantity": "float32",
}  # fmt: skip
STAMP_COLUMNS = {"bucket": "int64"}
WEIGHT_COLUMNS = {"age": "int64", **{f"w_{h}d": "int64" for h in HALF_LIVES}}
# After this many days even the slowest decay has rounded to nothing.
WEIGHT_DAYS = 23 * max(HALF_LIVES)
# Results of item, user and user x category that stay in memory: months of daily snapshots would not fit.
KEPT = 3 * 16


def decay_weights() -> dict[str, np.ndarray]:
    """`age` int64 [WEIGHT_DAYS] whole days and `w_<half-life>d`, the weight of an event that old in units of 2**-20."""
    age = np.arange(WEIGHT_DAYS, dtype=np.int64)
    decayed = {f"w_{h}d": np.rint(DECAY_UNIT * 0.5 ** (age / h)).astype(np.int64) for h in HALF_LIVES}
    return {"age": age, **decayed}


def _hundredths(amount: NumericValue) -> IntegerValue:
    # floor(100 x + 1/2) written with whole literals: every engine rounds halves differently, none this.
    return ((amount.cast("float64") * 200 + 1) / 2).floor().cast("int64")


def coded_events(events: Table, anchor: int) -> Table:
    """Events (`EVENT_COLUMNS`) as integers: `day` bucket, 0/1 per class of event, money in cents, hundredths."""
    # A quotient of times before the year 2149 is off by less than its distance to the next whole day.
    day = ((events.time - anchor) // DAY_US).cast("int64")
    positive = events.strength > 0

    def one(condition: Any) -> IntegerValue:
        return condition.cast("int64")

    purchase = events.kind == EVENT_CODE["purchase"]
    buy = one(purchase & positive)
    n = one(positive)
    return events.select(
        "user", "item", "category", "session", "time",
        day=day, n=n, buy=buy,
        impressions=one(events.kind == EVENT_CODE["impression"]),
        clicks=one(events.kind.isin([EVENT_CODE["click"], EVENT_CODE["view"]])),
        carts=one(events.kind == EVENT_CODE["add_to_cart"]),
        returns=one(purchase & (events.value < 0)),
        spend=_hundredths(events.value) * buy,
        quantity=_hundredths(events.quantity) * n,
    )  # fmt: skip


def _first_days(coded: Table, entity: str, other: str) -> Table:
    """Per entity and day: how many `other`s it met for the first time, and how many on their second day."""
    import ibis

    met = coded.filter(coded.n > 0).select(entity, other, "day").distinct()
    order = ibis.row_number().over(ibis.window(group_by=[entity, other], order_by="day")).cast("int64")
    ranked = met.mutate(visit=order)
    return (
        ranked.filter(ranked.visit < 2)
        .group_by([entity, "day"])
        .agg(first=lambda t: (t.visit == 0).cast("int64").sum(), second=lambda t: (t.visit == 1).cast("int64").sum())
    )


def _days(coded: Table, entity: str, other: str) -> Table:
    import ibis

    null = ibis.null("int64")
    sums = ("n", "buy", "impressions", "clicks", "carts", "returns", "spend", "quantity")
    daily = coded.group_by([entity, "day"]).agg(
        **{name: coded[name].sum() for name in sums},
        first_us=ibis.ifelse(coded.n > 0, coded.time, null).min(),
        last_us=ibis.ifelse(coded.n > 0, coded.time, null).max(),
    )
    firsts = _first_days(coded, entity, other).rename(first_entity=entity, first_day="day")
    joined = daily.left_join(firsts, [daily[entity] == firsts.first_entity, daily.day == firsts.first_day])
    return joined.select(*daily.columns, first=joined["first"].fill_null(0), second=joined["second"].fill_null(0))


def item_days(coded: Table) -> Table:
    """One row per item and bucket; `first` counts new people, `second` people on their second day."""
    return _days(coded, "item", "user")


def user_days(coded: Table) -> Table:
    """One row per user and bucket; `first` counts items that are new to the user."""
    return _days(coded, "user", "item")


def session_days(coded: Table) -> Table:
    """How many sessions of a user had interactions in bucket `day` and, before it, last in bucket `previous`."""
    import ibis

    met = coded.filter(coded.n > 0).select("user", "session", "day").distinct()
    before = met.day.lag().over(ibis.window(group_by=["user", "session"], order_by="day"))
    # A session's first bucket has no previous one: one before all windows stands for it.
    spans = met.mutate(previous=before.fill_null(ibis.literal(-(10**9), "int64")))
    return spans.group_by(["user", "day", "previous"]).agg(sessions=lambda t: t.count().cast("int64"))


def user_category_days(coded: Table) -> Table:
    """One row per user, category and bucket with an interaction; items without a category are left out."""
    kept = coded.filter((coded.n > 0) & (coded.category >= 0))
    return kept.group_by(["user", "category", "day"]).agg(
        n=kept.n.sum(), buy=kept.buy.sum(), last_us=kept.time.max()
    )  # fmt: skip


def _stamped(days: Table, stamps: Table) -> Table:
    joined = days.cross_join(stamps)
    return joined.filter(joined.day < joined.bucket)


def _sum_within(table: Table, column: str, days: int) -> IntegerValue:
    return table[column].sum(where=table.day >= table.bucket - days).fill_null(0)


def item_snapshot(days: Table, weights: Table, stamps: Table) -> Table:
    """`item`, `bucket` and the columns of ITEM_SNAPSHOT; items without any event before a stamp have no row.

    `weights` holds WEIGHT_COLUMNS (see `decay_weights`), `stamps` the bucket number of every stamp.
    """
    import ibis

    t = _stamped(days, stamps)
    t = t.mutate(days_old=t.bucket - 1 - t.day)
    joined = t.left_join(weights, t.days_old == weights.age)
    zero = ibis.literal(0, "int64")
    measures = {f"n_{d}d": _sum_within(joined, "n", d) for d in ITEM_WINDOWS}
    measures |= {"n_all": joined.n.sum()}
    measures |= {f"buy_{d}d": _sum_within(joined, "buy", d) for d in (7, 30, 90)}
    measures |= {"buy_all": joined.buy.sum()}
    measures |= {f"impressions_{d}d": _sum_within(joined, "impressions", d) for d in (7, 30)}
    measures |= {f"clicks_{d}d": _sum_within(joined, "clicks", d) for d in (7, 30)}
    measures |= {
        "carts_30d": _sum_within(joined, "carts", 30),
        "returns_90d": _sum_within(joined, "returns", 90),
        "users_all": joined["first"].sum(),
        "repeat_users": joined["second"].sum(),
        **{f"pop_{h}d": (joined.n * joined[f"w_{h}d"].fill_null(zero)).sum() for h in HALF_LIVES},
        "first_us": joined.first_us.min().fill_null(zero),
        "last_us": joined.last_us.max().fill_null(zero),
        "spend_all": joined.spend.sum(),
        "quantity_all": joined.quantity.sum(),
    }
    return joined.group_by(["item", "bucket"]).agg(**{name: measures[name] for name in ITEM_SNAPSHOT})


def user_snapshot(days: Table, sessions: Table, stamps: Table) -> Table:
    """`user`, `bucket` and the columns of USER_SNAPSHOT; users without any event before a stamp have no row."""
    import ibis

    zero = ibis.literal(0, "int64")
    s = _stamped(sessions, stamps)
    # A session counts once in a window: where its first bucket inside the window is.
    entered = (s.day >= s.bucket - 30) & (s.previous < s.bucket - 30)
    counted = s.group_by(["user", "bucket"]).agg(
        sessions_30d=ibis.ifelse(entered, s.sessions, zero).sum(),
        sessions_all=ibis.ifelse(s.previous < -(10**8), s.sessions, zero).sum(),
    )
    counted = counted.rename(session_user="user", session_bucket="bucket")
    t = _stamped(days, stamps)
    measures = {f"n_{d}d": _sum_within(t, "n", d) for d in USER_WINDOWS}
    measures |= {"n_all": t.n.sum()}
    measures |= {f"buy_{d}d": _sum_within(t, "buy", d) for d in (30, 90)}
    measures |= {
        "buy_all": t.buy.sum(),
        "impressions_30d": _sum_within(t, "impressions", 30),
        "clicks_30d": _sum_within(t, "clicks", 30),
        "carts_30d": _sum_within(t, "carts", 30),
        "returns_all": t.returns.sum(),
        "items_all": t["first"].sum(),
        "days_all": (t.n > 0).cast("int64").sum(),
        "first_us": t.first_us.min().fill_null(zero),
        "last_us": t.last_us.max().fill_null(zero),
        "spend_90d": _sum_within(t, "spend", 90),
        "spend_all": t.spend.sum(),
        "quantity_all": t.quantity.sum(),
    }
    grouped = t.group_by(["user", "bucket"]).agg(**measures)
    joined = grouped.left_join(
        counted, [grouped.user == counted.session_user, grouped.bucket == counted.session_bucket]
    )
    columns = {name: joined[name].fill_null(zero) for name in USER_SNAPSHOT}
    return joined.select("user", "bucket", **columns)


def user_category_snapshot(days: Table, stamps: Table) -> Table:
    """`user`, `category`, `bucket` and the columns of USER_CATEGORY_SNAPSHOT."""
    t = _stamped(days, stamps)
    measures = {f"n_{d}d": _sum_within(t, "n", d) for d in (7, 30)}
    measures |= {"n_all": t.n.sum(), "buy_all": t.buy.sum(), "last_us": t.last_us.max()}
    return t.group_by(["user", "category", "bucket"]).agg(**{name: measures[name] for name in USER_CATEGORY_SNAPSHOT})


@dataclass(frozen=True)
class UserCategory:
    """Ragged rows of B users: row b is `indptr[b]:indptr[b + 1]`, sorted by category.

    `indptr` int64 [B + 1], `category` int32 [nnz] codes of `Catalogue.category`, `columns` int64 [nnz] each.
    """

    indptr: np.ndarray
    category: np.ndarray
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def take(self, users: np.ndarray) -> UserCategory:
        """The rows of the given users, in that order; -1 (unknown) gives an empty row."""
        users = np.asarray(users, np.int64)
        rows = np.where(users < 0, len(self), users)
        flat, indptr = ragged_take(np.append(self.indptr, self.indptr[-1]), rows)
        return UserCategory(indptr, self.category[flat], {name: c[flat] for name, c in self.columns.items()})

    @staticmethod
    def empty(n: int) -> UserCategory:
        """n users without any interaction."""
        columns = {name: np.empty(0, np.int64) for name in USER_CATEGORY_SNAPSHOT}
        return UserCategory(np.zeros(n + 1, np.int64), np.empty(0, np.int32), columns)


def take_user(user: dict[str, np.ndarray], users: np.ndarray) -> dict[str, np.ndarray]:
    """The snapshot rows of the given users, int64 [B] each; -1 (unknown) gives zeros."""
    users = np.asarray(users, np.int64)
    if not all(len(column) for column in user.values()):
        return {name: np.zeros(len(users), np.int64) for name in user}
    return {name: np.where(users < 0, 0, column[users]) for name, column in user.items()}


@dataclass
class Snapshots:
    """The snapshots of every stamp, computed from the per-day tables when asked for; the latest KEPT results stay.

    `stamps` int64 [S] ascending microseconds, distinct. Not safe for several threads at once.
    """

    stamps: np.ndarray
    n_users: int
    n_items: int
    _backend: BaseBackend = field(repr=False)
    _anchor: int
    _kept: dict[tuple[str, int], Any] = field(default_factory=dict, repr=False)

    def item(self, stamp: int) -> dict[str, np.ndarray]:
        """ITEM_SNAPSHOT columns, int64 [n_items] each; 0 for items without events before the stamp."""
        return self._once("item", stamp, lambda rows: _dense(rows, "item", ITEM_SNAPSHOT, self.n_items))

    def user(self, stamp: int) -> dict[str, np.ndarray]:
        """USER_SNAPSHOT columns, int64 [n_users] each; 0 for users without events before the stamp."""
        return self._once("user", stamp, lambda rows: _dense(rows, "user", USER_SNAPSHOT, self.n_users))

    def user_category(self, stamp: int) -> UserCategory:
        """USER_CATEGORY_SNAPSHOT columns of every user."""
        return self._once("user_category", stamp, self._ragged)

    def _ragged(self, rows: dict[str, np.ndarray]) -> UserCategory:
        order = np.lexsort((rows["category"], rows["user"]))
        counts = np.bincount(rows["user"], minlength=self.n_users)
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        columns = {name: rows[name][order] for name in USER_CATEGORY_SNAPSHOT}
        return UserCategory(indptr, rows["category"][order].astype(np.int32), columns)

    def _once(self, view: str, stamp: int, shape: Any) -> Any:
        if stamp not in self.stamps:
            raise InvalidInput(f"no snapshot is stamped {stamp}: name it in `as_of`")
        found = self._kept.pop((view, stamp), None)
        if found is None:
            found = shape(self._query(view, int(stamp)))
        self._kept[view, stamp] = found
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return found

    def _query(self, view: str, stamp: int) -> dict[str, np.ndarray]:
        self._backend.con.register("stamps", pa.table({"bucket": np.array([(stamp - self._anchor) // DAY_US])}))
        sql = _compiled((view, 0), self._backend, lambda: self._expression(view))
        rows = self._backend.con.sql(sql).to_arrow_table()
        return {name: rows[name].to_numpy() for name in rows.column_names}

    def _expression(self, view: str) -> Table:
        tables = self._backend.table
        if view == "item":
            return item_snapshot(tables("item_days"), tables("weights"), tables("stamps"))
        if view == "user":
            return user_snapshot(tables("user_days"), tables("session_days"), tables("stamps"))
        return user_category_snapshot(tables("user_category_days"), tables("stamps"))


def _compiled(key: tuple[str, int], backend: BaseBackend, expression: Callable[[], Table]) -> str:
    """DuckDB's SQL of an expression: the tables of every backend have one form, so each is compiled once."""
    if key not in _SQL:
        _SQL[key] = str(backend.compile(expression()))
    return _SQL[key]


_SQL: dict[tuple[str, int], str] = {}


def _dense(rows: dict[str, np.ndarray], entity: str, names: dict[str, str], n: int) -> dict[str, np.ndarray]:
    columns = {}
    for name in names:
        columns[name] = np.zeros(n, np.int64)
        columns[name][rows[entity]] = rows[name]
    return columns


def snapshots(
    log: Log, catalogue: Catalogue, as_of: Sequence[int] | np.ndarray, threads: int | None = None
) -> Snapshots:
    """Prepare the snapshots of a log at the given stamps on an in-memory DuckDB.

    `as_of` are microseconds whose times of day are equal; `threads` limits DuckDB (all cores by default).

    Raises:
        InvalidInput: no stamp, or stamps at different times of day.
    """
    import ibis

    stamps = np.unique(np.asarray(as_of, np.int64))
    if not len(stamps):
        raise InvalidInput("no stamp to take a snapshot at: pass at least one time in `as_of`")
    if len(np.unique(stamps % DAY_US)) > 1:
        raise InvalidInput("stamps differ in their time of day: make `as_of` whole days apart")
    anchor = int(stamps[0] % DAY_US)
    log = log.before(int(stamps[-1]))
    backend = ibis.duckdb.connect(**({"threads": threads} if threads else {}))
    arrays = {name: getattr(log, name) for name in EVENT_COLUMNS if name != "category"}
    arrays["category"] = catalogue.category[log.item]
    backend.con.register("events", pa.table({name: arrays[name] for name in EVENT_COLUMNS}))

    def keep(name: str, expression: Callable[[], Table]) -> None:
        sql = _compiled((name, anchor), backend, expression)
        backend.con.execute(f"CREATE TABLE {name} AS {sql}")

    keep("coded", lambda: coded_events(backend.table("events"), anchor))
    backend.con.unregister("events")
    for name, days in (
        ("item_days", item_days), ("user_days", user_days), ("session_days", session_days),
        ("user_category_days", user_category_days),
    ):  # fmt: skip
        keep(name, lambda days=days: days(backend.table("coded")))  # type: ignore[misc]
    # Plain SQL and `register`: the statements that Ibis 12 writes for drops do not parse on DuckDB 2.0.
    backend.con.execute("DROP TABLE coded")
    backend.con.register("weights", pa.table(decay_weights()))
    return Snapshots(stamps, log.n_users, len(catalogue), backend, anchor)
