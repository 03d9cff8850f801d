"""The item side of an import: the contract's columns, impossible values dropped, items only events know added."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from longtail.datasets.raw import as_id
from longtail.errors import InvalidInput
from longtail.schema import ITEM_SCHEMA

_TEXT = ("title", "category", "brand", "text")
_FALSE = ("false", "f", "no", "n", "0", "out of stock", "sold out")


def clean_items(items: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Item rows in the contract's types and how many were no item (`items_bad`) or told twice (`items_repeated`).

    A price below 0, a margin above 1 or a time that cannot be read becomes missing: of an item only the id is needed.
    """
    if "item_id" not in items:
        raise InvalidInput(f"the items lack column 'item_id': they have {', '.join(map(str, items.columns))}")
    items = items.assign(item_id=as_id(items["item_id"]).astype("string").str.strip().replace("", pd.NA))
    named = items[items["item_id"].notna()]
    once = named.drop_duplicates("item_id").reset_index(drop=True)
    report = {"items_bad": len(items) - len(named), "items_repeated": len(named) - len(once)}
    for column in (c for c in _TEXT if c in once):
        once[column] = once[column].astype("string").str.strip().replace("", pd.NA)
    for column in (c for c in ("price", "margin") if c in once):
        number = pd.to_numeric(once[column], errors="coerce").astype("float64")
        once[column] = number.where(np.isfinite(number) & (number >= 0 if column == "price" else number <= 1))
    if "min_age" in once:
        once["min_age"] = pd.to_numeric(once["min_age"], errors="coerce").round().astype("Int32")
    if "in_stock" in once:
        once["in_stock"] = once["in_stock"].map(_stock).astype("boolean")
    if "created_at" in once:
        created = pd.to_datetime(once["created_at"], errors="coerce", utc=True)
        once["created_at"] = created.astype("datetime64[us, UTC]")
    if "regions" in once:
        once["regions"] = once["regions"].map(_regions)
    return once, report


def complete_items(items: pd.DataFrame | None, seen: pd.Series) -> tuple[pd.DataFrame, int]:
    """Add the items that only events mention; returns the frame and how many were added.

    Where there is a catalogue, what it lacks is no longer sold: out of stock, so that it is learned from and not shown.
    """
    if items is None:
        return pd.DataFrame({"item_id": seen.astype("string")}), len(seen)
    more = pd.DataFrame({"item_id": seen[~seen.isin(set(items["item_id"]))].astype("string")})
    if not len(more):
        return items, 0
    stock = items["in_stock"] if "in_stock" in items else pd.Series(pd.NA, index=items.index, dtype="boolean")
    more["in_stock"] = pd.Series(False, index=more.index, dtype="boolean")
    return pd.concat([items.assign(in_stock=stock), more], ignore_index=True), len(more)


def write_items(items: pd.DataFrame, path: Path) -> None:
    """Write the item frame with the contract's columns first and typed, then the shop's own."""
    arrays, fields = [], []
    for field in ITEM_SCHEMA:
        values = items[field.name] if field.name in items else pd.Series([None] * len(items), dtype=object)
        arrays.append(pa.Array.from_pandas(values, type=field.type))
        fields.append(field)
    for name in sorted(c for c in items.columns if c not in ITEM_SCHEMA.names):
        arrays.append(pa.Array.from_pandas(items[name]))
        fields.append(pa.field(str(name), arrays[-1].type))
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), path, compression="zstd")


def _stock(value: object) -> bool | None:
    if value is None or value is pd.NA or value != value:
        return None
    return value.strip().lower() not in _FALSE if isinstance(value, str) else bool(value)


def _regions(value: object) -> list[str] | None:
    """A list, or text such as "north|south"; nothing means everywhere."""
    if isinstance(value, str):
        value = [part.strip() for part in value.replace(",", "|").split("|")]
    if isinstance(value, (list, tuple, np.ndarray)):
        return [str(v) for v in value if str(v)] or None
    return None
