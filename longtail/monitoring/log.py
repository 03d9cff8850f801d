"""A stretch of what a shop's servers wrote, or of an imported shop, as two DuckDB views in bounded memory."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from longtail.errors import InvalidInput
from longtail.experiments.log import scan, text
from longtail.schema import DAY_US, GUEST_PREFIX

PARTS = "date=*/part-*.parquet"
QUARANTINE = "quarantine"


@dataclass(frozen=True)
class Log:
    """What happened in [start, end), microseconds since 1970, opened for reading.

    View `told`, an event a row, impressions left out: who (person or session), user, item, kind, time, surface,
    request, value, quantity, session, device, region, received. View `shown`, a place of a list a row: who, request,
    surface, segment, item, source, level, time. View `lists`: request, surface, segment, level, time. Times are
    microseconds; what the log does not tell is null. `folder` holds it, `served` says that the servers wrote it.
    """

    con: duckdb.DuckDBPyConnection
    folder: Path
    start: int
    end: int
    served: bool

    def rows(self, query: str) -> list[tuple]:
        """What a query finds."""
        return self.con.execute(query).fetchall()

    def one(self, query: str) -> tuple:
        """The one row that a query finds."""
        return self.con.execute(query).fetchone() or ()


def day_of(day: str) -> int:
    """Midnight UTC of an ISO day, microseconds."""
    return (date.fromisoformat(day) - date(1970, 1, 1)).days * DAY_US


def iso(moment: int) -> str:
    """The ISO day of a time in microseconds."""
    return date.fromordinal(date(1970, 1, 1).toordinal() + moment // DAY_US).isoformat()


def yesterday() -> str:
    """The newest day that is over, UTC."""
    return iso(time.time_ns() // 1000 - DAY_US)


def days_between(first: str, last: str) -> list[str]:
    """The ISO days from `first` to `last`, both among them; none where `first` is later."""
    return [iso(moment) for moment in range(day_of(first), day_of(last) + 1, DAY_US)]


def days_in(folder: Path) -> tuple[str, str]:
    """The first and the last day of which the log holds something.

    Raises:
        InvalidInput: it holds nothing, or is no log.
    """
    folder = Path(folder)
    if (folder / "events.parquet").is_file():
        statistics = pq.ParquetFile(folder / "events.parquet").metadata
        column = statistics.schema.names.index("timestamp")
        groups = [statistics.row_group(n).column(column).statistics for n in range(statistics.num_row_groups)]
        if not groups:
            raise InvalidInput(f"{folder}/events.parquet is empty")
        return f"{min(g.min for g in groups):%Y-%m-%d}", f"{max(g.max for g in groups):%Y-%m-%d}"
    found = sorted(p.parent.name[5:] for name in ("events", "impressions") for p in (folder / name).glob(PARTS))
    if not found:
        raise InvalidInput(
            f"{folder} holds neither events.parquet nor events/{PARTS} nor impressions/{PARTS}: name an imported shop "
            "or the servers' state folder"
        )
    return found[0], found[-1]


def too_early(folder: Path, day: str) -> str:
    """What to say of an ISO day before the log's first one, '' of any other.

    Raises:
        InvalidInput: see `days_in`.
    """
    first = days_in(folder)[0]
    return f"the log of {folder} begins on {first}: there is nothing of {day} to check" if day < first else ""


@contextlib.contextmanager
def open_log(folder: Path | str, start: int, end: int, segments: Sequence[str], memory: str = "2GB") -> Iterator[Log]:
    """The log of a state folder (`events/`, `impressions/`) or an imported shop (`events.parquet`).

    `segments` are the bundle's names of the codes in the impression log. What does not fit into `memory` is spilled to
    a folder that is removed afterwards.

    Raises:
        InvalidInput: a file cannot be read.
    """
    folder = Path(folder)
    with tempfile.TemporaryDirectory(prefix="longtail-") as spill, duckdb.connect() as con:
        con.execute(f"SET memory_limit = {text(memory)}; SET temp_directory = {text(spill)}; SET TimeZone = 'UTC'")
        con.execute("SET preserve_insertion_order = false; SET enable_progress_bar = false")
        served = not (folder / "events.parquet").is_file()
        try:
            views = _of_servers(folder, start, end, segments) if served else _of_shop(folder / "events.parquet")
            for name, query in views.items():
                con.execute(
                    f"CREATE TEMP VIEW {name} AS SELECT * FROM ({query}) WHERE time >= {start} AND time < {end}"
                )
            yield Log(con, folder, start, end, served)
        except (duckdb.Error, OSError) as error:
            raise InvalidInput(f"{folder} cannot be read: {str(error).splitlines()[0]}") from error


NOTHING = {
    "told": "who, user, item, kind, surface, request, session, device, region: VARCHAR; time, received: BIGINT; "
    "value, quantity: DOUBLE",
    "shown": "who, request, surface, segment, item, source, level: VARCHAR; time: BIGINT",
    "lists": "request, surface, segment, level: VARCHAR; time: BIGINT",
}


def _nothing(view: str) -> str:
    columns = [
        f"NULL::{kind} AS {name.strip()}"
        for names, kind in (part.split(": ") for part in NOTHING[view].split("; "))
        for name in names.split(",")
    ]
    return f"SELECT {', '.join(columns)} WHERE false"


def _of_servers(folder: Path, start: int, end: int, segments: Sequence[str]) -> dict[str, str]:
    days = {iso(start + n * DAY_US) for n in range(-(-(end - start) // DAY_US))}
    found = {
        name: [str(p) for p in sorted((folder / name).glob(PARTS)) if p.parent.name[5:] in days]
        for name in ("events", "impressions")
    }
    views = {name: _nothing(name) for name in NOTHING}
    if found["events"]:
        views["told"] = f"""
            SELECT coalesce(user_id, session_id) AS who, user_id AS user, item_id AS item, event_type AS kind,
                epoch_us(timestamp) AS time, surface, request_id AS request, value, quantity,
                session_id AS session, device, region, epoch_us(received_at) AS received
            FROM {scan(found["events"])} WHERE event_type <> 'impression'
        """
    if found["impressions"]:
        names = f"CAST([{', '.join(text(s) for s in segments)}] AS VARCHAR[])"
        lists = f"""
            SELECT coalesce(user_id, session_id, request_id) AS who, request_id AS request, surface,
                epoch_us(time) AS time, CASE WHEN segment >= 0 THEN list_extract({names}, segment + 1) END AS segment,
                level, items, source AS sources
            FROM {scan(found["impressions"])}
        """
        views["lists"] = f"SELECT request, surface, segment, level, time FROM ({lists})"
        views["shown"] = (
            f"SELECT * EXCLUDE (items, sources), unnest(items) AS item, unnest(sources) AS source FROM ({lists})"
        )
    return views


def _of_shop(events: Path) -> dict[str, str]:
    columns = pq.read_schema(events).names
    extras = dict.fromkeys(("surface", "device", "region", "source", "level"), "VARCHAR") | {"quantity": "DOUBLE"}
    told = {c: c if c in columns else f"NULL::{kind} AS {c}" for c, kind in extras.items()}
    segment = "region" if "region" in columns else "NULL::VARCHAR"
    log = scan([str(events)])
    received = "epoch_us(CAST(received_at AS TIMESTAMPTZ))" if "received_at" in columns else "NULL::BIGINT"
    at = "epoch_us(CAST(timestamp AS TIMESTAMPTZ)) AS time"  # a frame written by pandas counts nanoseconds
    shown = f"""
        SELECT user_id AS who, request_id AS request, {told["surface"]}, {segment} AS segment,
            item_id AS item, {told["source"]}, {told["level"]}, {at}
        FROM {log} WHERE event_type = 'impression'
    """
    return {
        "told": f"""
            SELECT user_id AS who, CASE WHEN NOT starts_with(user_id, '{GUEST_PREFIX}') THEN user_id END AS user,
                item_id AS item, event_type AS kind, {at}, {told["surface"]}, request_id AS request, value,
                {told["quantity"]}, session_id AS session, {told["device"]}, {told["region"]}, {received} AS received
            FROM {log} WHERE event_type <> 'impression'
        """,
        "shown": shown,
        "lists": f"""
            SELECT request, any_value(surface) AS surface, any_value(segment) AS segment, any_value(level) AS level,
                min(time) AS time FROM ({shown}) GROUP BY request
        """,
    }


def quarantined(log: Log, newest: bool) -> int:
    """Rows of the day that broke the contract; `newest` says that the log ends with it.

    In an imported shop, rows whose time cannot be read count on its newest day.
    """
    if not log.served:
        path = log.folder / f"{QUARANTINE}.parquet"
        if not path.is_file():
            return 0
        undated = "OR timestamp IS NULL" if newest else ""
        within = f"epoch_us(timestamp) >= {log.start} AND epoch_us(timestamp) < {log.end}"
        return int(log.one(f"SELECT count(*) FROM {scan([str(path)])} WHERE ({within}) {undated}")[0])
    total = 0
    for path in sorted((log.folder / QUARANTINE).glob("part-*.jsonl")):
        written = path.stat().st_mtime_ns // 1000
        with path.open("rb") as lines:
            total += sum(log.start <= _received(line, written) < log.end for line in lines if line.strip())
    return total


def _received(line: bytes, otherwise: int) -> int:
    try:
        row: Any = json.loads(line)
        return int(row["received_at"])
    except (ValueError, KeyError, TypeError):
        return otherwise
