"""The event contract as rules: which rows are events, which are not and why, and which are told twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import pandera.ibis as pandera

from longtail.schema import EVENT_EXTRAS, EVENT_SCHEMA, EVENT_TYPES

REASON: Final = "reason"
EARLIEST_US: Final = 631_152_000_000_000  # 1990: earlier ones are seconds or milliseconds read as microseconds
TEXT: Final = (
    "event_id", "user_id", "item_id", "event_type", "session_id", "surface", "request_id", "device", "region",
    "device_id",
)  # fmt: skip
NUMBERS: Final = {
    "position": "int32",
    "value": "float64",
    "dwell_ms": "int64",
    "quantity": "float64",
    "propensity": "float64",
}
_FAILURES: Final = 10  # pandera collects failure cases one by one: more than a few make it crawl


@dataclass(frozen=True)
class Rule:
    """A row breaks the rule where `bad(table)` is true; the first broken rule is the row's reason."""

    reason: str
    bad: Callable[[ir.Table], ir.BooleanValue]


def rules(now_us: int) -> list[Rule]:
    """The rules of an event; timestamps after `now_us` (microseconds) are in the future."""
    return [
        Rule("event_id is missing", lambda t: t.event_id.isnull()),
        Rule("item_id is missing", lambda t: t.item_id.isnull()),
        Rule(
            "user_id, session_id and device_id are all missing",
            lambda t: t.user_id.isnull() & t.session_id.isnull() & t.device_id.isnull(),
        ),
        Rule("event_type is missing", lambda t: t.event_type.isnull()),
        Rule("event_type is unknown", lambda t: t.event_type.notin(EVENT_TYPES)),
        Rule("timestamp is missing or cannot be read", lambda t: t.timestamp.isnull()),
        Rule("timestamp is in the future", lambda t: t.timestamp > now_us),
        Rule("timestamp is before 1990: is the unit right?", lambda t: t.timestamp < EARLIEST_US),
        Rule("position is negative", lambda t: (t.position < 0).fill_null(False)),
        Rule("dwell_ms is negative", lambda t: (t.dwell_ms < 0).fill_null(False)),
        Rule("quantity is negative", lambda t: (t.quantity < 0).fill_null(False)),
        Rule("value is not finite", lambda t: (t.value.isnan() | t.value.isinf()).fill_null(False)),
        Rule(
            "propensity is not in (0, 1]",
            lambda t: (~((t.propensity > 0) & (t.propensity <= 1))).fill_null(False),
        ),
    ]


def contract(now_us: int) -> pandera.DataFrameSchema:
    """The same rules as a pandera schema: what every row of an imported shop fulfils."""
    checks = [
        pandera.Check(lambda data, bad=rule.bad: ~bad(data.table), name=rule.reason, n_failure_cases=_FAILURES)
        for rule in rules(now_us)
    ]
    text = {c: pandera.Column(dt.string, nullable=c not in ("event_id", "item_id", "event_type")) for c in TEXT}
    numbers = {c: pandera.Column(dt.dtype(kind), nullable=True) for c, kind in NUMBERS.items()}
    return pandera.DataFrameSchema(
        {**text, **numbers, "timestamp": pandera.Column(dt.int64)}, checks=checks, strict=False
    )


def conform(table: ir.Table, reject: str) -> ir.Table:
    """The raw table in the contract's types, absent columns as null; `timestamp` becomes int64 microseconds.

    What cannot be converted is null and named in the column `reject` (null where all is well), unless the reader
    already rejected the row; empty text counts as missing. Other columns pass unchanged.
    """
    columns: dict[str, ir.Value] = {}
    found = [table[reject].cast("string")] if reject in table.columns else []
    for name in TEXT:
        present = name in table.columns and not table[name].type().is_null()
        columns[name] = table[name].cast("string").strip().nullif("") if present else ibis.null("string")
    for name, kind in NUMBERS.items():
        if name not in table.columns or table[name].type().is_null():
            columns[name] = ibis.null(kind)
            continue
        column = table[name]
        if column.type().is_floating() and kind.startswith("int"):
            column = column.nullif(float("nan"))
        columns[name] = column.try_cast(kind)
        wrong = column.notnull() & columns[name].isnull()
        if column.type().is_string():
            wrong = wrong & (column.strip() != "")
        found.append(ibis.ifelse(wrong, f"{name} is not a number", ibis.null("string")))
        if name != "value" and kind == "float64":
            columns[name] = columns[name].nullif(float("nan"))
    columns["timestamp"] = _microseconds(table)
    columns[reject] = ibis.coalesce(*found) if found else ibis.null("string")
    return table.mutate(**columns)


def _microseconds(table: ir.Table) -> ir.Value:
    if "timestamp" not in table.columns or table.timestamp.type().is_null():
        return ibis.null("int64")
    column = table.timestamp
    if column.type().is_timestamp():
        return _epoch_us(column.cast("timestamp"))
    if column.type().is_string():
        return _epoch_us(column.try_cast("timestamp"))
    return column.try_cast("int64")


@ibis.udf.scalar.builtin(name="epoch_us")
def _epoch_us(moment: dt.timestamp) -> int:  # type: ignore[empty-body]
    """Microseconds since 1970."""


def with_reason(table: ir.Table, now_us: int, reject: str) -> ir.Table:
    """Add the column `reason`: null for an event, else the first rule that the row breaks."""
    cases = [(table[reject].notnull(), table[reject])] + [(r.bad(table), ibis.literal(r.reason)) for r in rules(now_us)]
    return table.mutate(**{REASON: ibis.cases(*cases, else_=ibis.null("string"))})


def repeated_rows(good: ir.Table) -> ir.Table:
    """`row` of every event whose id an earlier row already told; `good` needs `event_id` and `row`."""
    hashed = good.select("event_id", "row", code=good.event_id.hash())
    # Hashes of 8 bytes find the few ids that can repeat without holding every id in memory.
    twice = hashed.group_by("code").aggregate(n=hashed.count())
    few = hashed.semi_join(twice.filter(twice.n > 1), "code")
    ranked = few.mutate(nth=ibis.row_number().over(ibis.window(group_by="event_id", order_by="row")))
    return ranked.filter(ranked.nth > 0).select("row")


def output_columns(columns: list[str]) -> list[str]:
    """The order of columns in a shop's event file: the contract, the known extras, the shop's own."""
    known = [*EVENT_SCHEMA.names, *EVENT_EXTRAS.names, "device_id"]
    return known + sorted(c for c in columns if c not in known)
