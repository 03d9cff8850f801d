"""From JSON rows to date-partitioned Parquet: written beside, then renamed."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq

from longtail.durable import sync_folder
from longtail.schema import EVENT_EXTRAS, EVENT_SCHEMA

# The event contract, the device (a pseudonym too), when it came in, and all other columns as one JSON object.
SCHEMA = pa.schema(
    [
        *EVENT_SCHEMA,
        *EVENT_EXTRAS,
        ("device_id", pa.string()),
        ("received_at", pa.timestamp("us", tz="UTC")),
        ("extra", pa.string()),
    ]
)
_TIMES = ("timestamp", "received_at")
_JSON = pa.schema([pa.field(f.name, pa.int64()) if f.name in _TIMES else f for f in SCHEMA])
ROWS_AT_ONCE = 20_000
logger = logging.getLogger(__name__)


def write(events: Path, name: str, chunks: Iterable[list[bytes]]) -> tuple[int, int]:
    """Write the rows (JSON objects with the columns of `SCHEMA`, times in microseconds) as one file a day.

    The files `events/date=YYYY-MM-DD/part-<name>.parquet` hold the rows by time, those of one instant in the order
    given; the day is the event's, in UTC. Files of the same name are replaced, each at once. A row that does not fit
    the schema goes to `quarantine/part-<name>.jsonl` beside `events`. Returns (rows, files), all of them on disk.

    Raises:
        OSError: the disk does not take them.
    """
    misfits: list[bytes] = []
    table = pa.concat_tables([SCHEMA.empty_table(), *(_table(rows, misfits) for rows in chunks)])
    if misfits:
        quarantine = events.parent / "quarantine"
        quarantine.mkdir(exist_ok=True)
        _publish(quarantine / f"part-{name}.jsonl", lambda file: file.write(b"\n".join(misfits) + b"\n"))
        sync_folder(quarantine)
    if not table.num_rows:
        return len(misfits), 0
    days = pc.floor_temporal(table["timestamp"], unit="day")
    found = sorted(pc.unique(days).to_pylist())
    for day in found:
        rows = table.filter(pc.equal(days, pa.scalar(day, days.type)))
        rows = rows.take(pc.sort_indices(rows, [("timestamp", "ascending")]))
        folder = events / f"date={day:%Y-%m-%d}"
        folder.mkdir(parents=True, exist_ok=True)
        _publish(folder / f"part-{name}.parquet", partial(pq.write_table, rows, compression="zstd"))
        sync_folder(folder)
    sync_folder(events)
    return table.num_rows + len(misfits), len(found)


def clear(events: Path) -> None:
    """Remove half-written files of a seal that was killed."""
    for file in events.glob("date=*/.part-*.tmp"):
        file.unlink()


def received_since(events: Path, since: int, columns: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """The sealed rows that came in at or after `since`, with these columns and `received_at` (both microseconds).

    A file that cannot be read is said in the log and passed over: one rotten file must not keep new events out.
    """
    for file in sorted(events.glob("date=*/part-*.parquet")):
        if file.stat().st_mtime_ns // 1000 < since:
            continue  # sealed before then, so received before then
        try:
            yield from _rows_since(file, since, [*columns, "received_at"])
        except (pa.ArrowException, OSError) as error:
            logger.error("%s cannot be read and is passed over: %s", file, error)


def _rows_since(file: Path, since: int, columns: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    parquet = pq.ParquetFile(file)
    for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=columns):
        table = pa.table(batch)
        for name in (n for n in _TIMES if n in table.column_names):
            table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.int64()))
        if rows := table.filter(pc.field("received_at") >= since).to_pylist():
            yield rows


def _table(rows: list[bytes], misfits: list[bytes]) -> pa.Table:
    if not rows:
        return SCHEMA.empty_table()
    text = b"\n".join(rows)
    try:
        table = pj.read_json(
            io.BytesIO(text),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(text) + 1),
            parse_options=pj.ParseOptions(explicit_schema=_JSON, unexpected_field_behavior="error"),
        )
        return table.select(SCHEMA.names).cast(SCHEMA)
    except pa.ArrowInvalid:
        if len(rows) == 1:
            misfits.append(rows[0])
            return SCHEMA.empty_table()
    # One row that cannot be read must not keep the others from being sealed.
    half = len(rows) // 2
    return pa.concat_tables([_table(rows[:half], misfits), _table(rows[half:], misfits)])


def _publish(path: Path, write_to: Callable[[BinaryIO], object]) -> None:
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("wb") as file:
        write_to(file)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
