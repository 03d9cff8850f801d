"""Reader for the user's own files: CSV or Parquet, told by a YAML mapping which column is what.

events: orders.csv
columns: {user_id: customer, item_id: sku, timestamp: ordered_at, event_type: kind}
event_types: {bought: purchase, seen: view}     # or `event_type: purchase` for all rows
timestamp: s                                    # s, ms, us, or a strftime format; without it ISO 8601
items: products.parquet                         # optional, as are the next
item_columns: {item_id: sku, title: name}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import yaml
from pyarrow import ArrowException

from longtail.datasets.raw import REJECT, Raw, as_id
from longtail.errors import InvalidInput
from longtail.schema import EVENT_EXTRAS, EVENT_SCHEMA, EVENT_TYPES, ITEM_SCHEMA

KEYS = ("events", "columns", "event_type", "event_types", "timestamp", "items", "item_columns")
UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
EVENT_COLUMNS = (*EVENT_SCHEMA.names, *EVENT_EXTRAS.names, "device_id")


@dataclass(frozen=True)
class _Mapping:
    """A checked mapping file and the line of each of its keys (dotted)."""

    path: Path
    values: dict[str, object]
    lines: dict[str, int]

    def wrong(self, key: str, message: str) -> InvalidInput:
        return InvalidInput(f"{self.path}, line {self.lines.get(key, 1)}, {key}: {message}")

    def table(self, key: str) -> dict[str, str]:
        found = self.values.get(key) or {}
        if not isinstance(found, dict):
            raise self.wrong(key, "must be a mapping such as {user_id: customer}")
        return {str(k): str(v) for k, v in found.items()}


def read(folder: Path, mapping: Path | None = None) -> Raw:
    """Events and items of the files that a mapping names, relative to `folder`.

    Without `mapping` the file `mapping.yaml` in the folder counts. Columns that the mapping does not name are kept.

    Raises:
        InvalidInput: with the line and the key of the mapping, or the file and the column, that is wrong.
    """
    folder = Path(folder)
    base = folder if folder.is_dir() else folder.parent
    m = _load(Path(mapping) if mapping else base / "mapping.yaml")
    if not m.values.get("events") and not folder.is_dir():
        m.values["events"] = folder.name
    if not m.values.get("events"):
        raise m.wrong("events", "is missing: name the file with the events")
    if not isinstance(m.values["events"], str):
        raise m.wrong("events", "must be a file name, such as orders.csv")
    path = base / m.values["events"]
    frame = _renamed(m, _frame(m, "events", path), "columns", EVENT_COLUMNS, path)
    frame = _event_types(m, frame)
    for needed in ("item_id", "timestamp"):
        if needed not in frame:
            raise m.wrong("columns", f"names no column for {needed!r} and {path.name} has none of that name")
    if not {"user_id", "session_id", "device_id"} & set(frame.columns):
        raise m.wrong("columns", "names no column for 'user_id', 'session_id' or 'device_id': one of them is needed")
    for column in ("user_id", "item_id", "session_id", "device_id", "request_id", "event_id"):
        if column in frame:
            frame[column] = as_id(frame[column])
    if "event_id" not in frame:
        frame["event_id"] = "row-" + pd.Series(np.arange(len(frame)), index=frame.index).astype("string")
    frame["timestamp"] = _times(m, frame["timestamp"])
    return Raw(frame, _items(m, base))


def _load(path: Path) -> _Mapping:
    if not path.is_file():
        raise InvalidInput(f"{path} does not exist: the reader 'mapped' needs a mapping file")
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text (byte {error.start})") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidInput(f"{path}, line {line}: not valid YAML: {error.problem}") from error
    if not isinstance(root, yaml.MappingNode) or not isinstance(values, dict):
        raise InvalidInput(f"{path}, line 1: must be a mapping with the keys {', '.join(KEYS)}")
    mapping = _Mapping(path, values, _lines(root))
    for key in values:
        if key not in KEYS:
            raise mapping.wrong(str(key), f"is not a key of a mapping: choose from {', '.join(KEYS)}")
    return mapping


def _lines(node: yaml.MappingNode, prefix: str = "") -> dict[str, int]:
    lines = {}
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        lines[name] = key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            lines |= _lines(value, f"{name}.")
    return lines


def _frame(m: _Mapping, key: str, path: Path) -> pd.DataFrame:
    """The rows of a CSV (all as text) or Parquet file."""
    if not path.is_file():
        raise m.wrong(key, f"{path} does not exist")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            frame = pq.read_table(path).to_pandas()
        else:
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            frame = pd.read_csv(
                path, dtype=str, encoding="utf-8-sig", sep=separator, keep_default_na=False, na_values=[""]
            )
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except pd.errors.EmptyDataError as error:
        raise InvalidInput(f"{path} is empty: it needs a header and at least one row") from error
    except (pd.errors.ParserError, ArrowException, OSError) as error:
        raise InvalidInput(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if frame.empty:
        raise InvalidInput(f"{path} is empty: it needs at least one row")
    return frame


def _renamed(m: _Mapping, frame: pd.DataFrame, key: str, known: tuple[str, ...], path: Path) -> pd.DataFrame:
    wanted = m.table(key)
    for ours, theirs in wanted.items():
        if ours not in known:
            raise m.wrong(f"{key}.{ours}", f"is no column of Longtail: choose from {', '.join(known)}")
        if theirs not in frame:
            raise m.wrong(
                f"{key}.{ours}", f"{path.name} has no column {theirs!r}: it has {', '.join(map(str, frame.columns))}"
            )
    out = pd.DataFrame({ours: frame[theirs] for ours, theirs in wanted.items()}, index=frame.index)
    rest = frame.drop(columns=[c for c in set(wanted.values()) | set(wanted) | {REJECT, "row"} if c in frame])
    return pd.concat([out, rest], axis=1)


def _event_types(m: _Mapping, frame: pd.DataFrame) -> pd.DataFrame:
    constant, values = m.values.get("event_type"), m.table("event_types")
    if constant is not None:
        if constant not in EVENT_TYPES:
            raise m.wrong("event_type", f"{constant!r} is no event type: choose from {', '.join(EVENT_TYPES)}")
        return frame.assign(event_type=constant)
    if "event_type" not in frame:
        raise m.wrong("columns", "names no column for 'event_type': add one, or `event_type: purchase` for all rows")
    for theirs, ours in values.items():
        if ours not in EVENT_TYPES:
            raise m.wrong(f"event_types.{theirs}", f"{ours!r} is no event type: choose from {', '.join(EVENT_TYPES)}")
    text = frame["event_type"].astype("string").str.strip()
    return frame.assign(event_type=text.map(values).fillna(text).astype(object).where(text.notna(), None))


def _times(m: _Mapping, values: pd.Series) -> pd.Series:
    """int64 microseconds, null where unreadable; a time without a zone is UTC."""
    form = m.values.get("timestamp")
    if form in UNITS:
        number = pd.to_numeric(values, errors="coerce").astype("Float64")
        return (number * UNITS[str(form)]).round().astype("Int64")
    if form is not None and "%" not in str(form):
        raise m.wrong("timestamp", f"{form!r} is neither s, ms, us nor a format such as '%d.%m.%Y %H:%M'")
    if form is None and pd.api.types.is_numeric_dtype(values.dtype):
        raise m.wrong("timestamp", "is missing: the column holds numbers, say s, ms or us")
    moments = pd.to_datetime(values, format=str(form) if form else "ISO8601", utc=True, errors="coerce")
    micros = moments.astype("datetime64[us, UTC]").astype("int64").astype("Int64")
    return micros.mask(moments.isna())


def _items(m: _Mapping, base: Path) -> pd.DataFrame | None:
    if not m.values.get("items"):
        return None
    path = base / str(m.values["items"])
    items = _renamed(m, _frame(m, "items", path), "item_columns", tuple(ITEM_SCHEMA.names), path)
    if "item_id" not in items:
        raise m.wrong("item_columns", f"names no column for 'item_id' and {path.name} has none of that name")
    return items
