"""From raw files to a shop folder: read, validate, pseudonymise, resolve, sessionise, sort, put in place at once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from longtail.datasets import read
from longtail.datasets.catalogue import clean_items, complete_items, write_items
from longtail.datasets.progress import Progress, silent
from longtail.datasets.raw import REJECT, Raw
from longtail.datasets.staging import Staging
from longtail.errors import InvalidInput
from longtail.events.log import micros
from longtail.events.sessions import sessionise
from longtail.events.validation import REASON, conform, contract, output_columns, repeated_rows, with_reason
from longtail.identity import Pseudonymiser, guest_id, load_key
from longtail.identity.resolution import resolve
from longtail.schema import EVENT_EXTRAS, EVENT_SCHEMA, EVENT_TYPES, GUEST_PREFIX

IDS = {"user_id": "user", "session_id": "session", "device_id": "device"}
ROW_GROUP = 500_000
CLOCK_SKEW_US = 300_000_000
_TYPES = {f.name: f.type for f in [*EVENT_SCHEMA, *EVENT_EXTRAS]}


def import_shop(
    reader: str,
    source: Path,
    out: Path,
    *,
    key_file: Path | None = None,
    max_bad_share: float = 0.05,
    mapping: Path | None = None,
    items: Path | None = None,
    history: Path | None = None,
    until: int | None = None,
    now: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Import a folder or file into the shop folder `out` and return its summary (also `out/import.json`).

    Some readers take the files `mapping` or `items`, or the shop `history`, see `read`. `until` keeps events strictly
    before it, `now` is what counts as the future (both microseconds). The shop appears whole or not at all; the same
    input and key give the same bytes. A shop that is already there is replaced.

    Raises:
        InvalidInput: the input cannot be read, too many rows are bad, or `out` holds something else.
    """
    source, out = Path(source), Path(out)
    if not source.exists():
        raise InvalidInput(f"{source} does not exist: name the folder or file to import")
    pseudonymiser = Pseudonymiser(load_key(key_file))
    with Staging(out) as staging:
        progress(f"reading {source.resolve().name}", 0, 0)
        raw = read(reader, source, until=until, mapping=mapping, items=items, history=history, scratch=staging.scratch)
        summary = build_shop(
            raw, staging.folder, staging.scratch, pseudonymiser, max_bad_share, until, now, out, progress
        )
        summary = {"reader": reader, **summary}
        _write_json(staging.folder / "import.json", summary)
        staging.publish()
    return summary


def simulate_shop(
    out: Path, config: Any, *, key_file: Path | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """Simulate a shop (`simulator.SimulatorConfig`) and import it; the truth stands in `out/truth`, for tests only."""
    from longtail.datasets import simulator

    out = Path(out)
    pseudonymiser = Pseudonymiser(load_key(key_file))
    with Staging(out) as staging:
        raw_folder = staging.scratch / "raw"
        truth = simulator.simulate(raw_folder, config, progress)
        raw = simulator.read(raw_folder)
        end = config.start_us + (config.days + 30) * 86_400_000_000
        summary = build_shop(raw, staging.folder, staging.scratch, pseudonymiser, 0.0, None, end, out, progress)
        summary = {"reader": "simulator", **summary}
        truth.renamed(pseudonymiser.of_all(truth.user_ids)).save(staging.folder / "truth")
        _write_json(staging.folder / "import.json", summary)
        staging.publish()
    return summary


def build_shop(
    raw: Raw, folder: Path, scratch: Path, pseudonymiser: Pseudonymiser, max_bad_share: float, until: int | None,
    now: int | None, out: Path, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Write events, items and quarantine of a raw shop into `folder`; returns the summary."""
    con = ibis.duckdb.connect(temp_directory=str(scratch / "spill"), memory_limit="6GB")
    con.raw_sql("SET preserve_insertion_order = true")
    now_us = int(time.time() * 1e6) if now is None else now
    progress("checking the events", 0, 0)
    events = conform(_source(con, raw.events), REJECT)
    if until is not None:
        events = events.filter(events.timestamp.isnull() | (events.timestamp < until))
    flagged = with_reason(events, now_us + CLOCK_SKEW_US, REJECT)
    # Staged under pseudonyms: what the database may spill to disk holds no raw id.
    names = {} if raw.pseudonymous else _pseudonym_tables(con, events, pseudonymiser)
    staged = _pseudonymous(flagged, names)
    con.raw_sql(f"CREATE TEMP TABLE staged AS {con.compile(staged)}")
    flagged = con.table("staged")
    bad = flagged.filter(flagged[REASON].notnull())
    reasons = dict(bad.group_by(REASON).aggregate(n=bad.count()).order_by(REASON).to_pandas().itertuples(index=False))
    n_read, n_bad = int(flagged.count().to_pyarrow().as_py()), int(sum(reasons.values()))
    if n_read == 0:
        raise InvalidInput(
            "there are no events" + (" before the given time" if until is not None else "") + ": nothing to import"
        )
    quarantine = _quarantine(bad)
    _refuse(n_read, n_bad, reasons, max_bad_share, quarantine, out)
    pq.write_table(quarantine, folder / "quarantine.parquet", compression="zstd")
    good = flagged.filter(flagged[REASON].isnull()).drop(REASON, REJECT)
    repeats = _register(con, "repeats", repeated_rows(good).to_pyarrow())
    con.raw_sql(f"CREATE TEMP VIEW good AS {con.compile(good.anti_join(repeats, 'row'))}")
    good = con.table("good")
    contract(now_us + CLOCK_SKEW_US).validate(good, lazy=True)
    of = n_read - n_bad
    progress("writing the events", 0, of)
    written, people = _write_events(
        con, _identified(good), folder / "events.parquet", lambda done: progress("writing the events", done, of)
    )
    if raw.exposures:
        _write_exposures(con, raw.exposures, until, folder / "exposures.parquet")
    progress("writing the items", 0, 0)
    seen = con.read_parquet(str(folder / "events.parquet")).select("item_id").distinct().order_by("item_id").to_pandas()
    items, item_report = clean_items(raw.items) if raw.items is not None else (None, {})
    items, added = complete_items(items, seen["item_id"])
    write_items(items, folder / "items.parquet")
    con.disconnect()
    repeated = n_read - n_bad - written
    return {
        "read": n_read, "good": written, "bad": n_bad, "duplicates": repeated,
        "reasons": {k: int(v) for k, v in sorted(reasons.items())}, **people, "items": len(items),
        "items_added": added, **item_report,
    }  # fmt: skip


def _source(con: Backend, events: pd.DataFrame | Path) -> ir.Table:
    """The raw events as a table with `row`, the order they came in."""
    if isinstance(events, Path):
        scan = f"read_parquet('{_quoted(events)}', file_row_number = true)"
        con.raw_sql(
            f"CREATE TEMP VIEW raw_events AS SELECT * EXCLUDE file_row_number, file_row_number AS row FROM {scan}"
        )
        return con.table("raw_events")
    if events.empty:
        raise InvalidInput("there are no events: nothing to import")
    frame = events.reset_index(drop=True)
    if isinstance(frame["timestamp"].dtype, pd.DatetimeTZDtype) or frame["timestamp"].dtype.kind == "M":
        missing = frame["timestamp"].isna()
        frame = frame.assign(timestamp=pd.Series(micros(frame["timestamp"])).astype("Int64").mask(missing))
    frame["row"] = range(len(frame))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    empty = [f.name for f in table.schema if pa.types.is_null(f.type)]
    return _register(con, "raw_events", table.drop_columns(empty))


def _register(con: Backend, name: str, table: pa.Table) -> ir.Table:
    """An Arrow table as a view, without a copy."""
    con.con.register(name, table)
    return con.table(name)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _pseudonym_tables(con: Backend, events: ir.Table, pseudonymiser: Pseudonymiser) -> dict[str, ir.Table]:
    """One table (`<id>`, `<id>_new`) for each kind of id that the events hold."""
    tables = {}
    for column, kind in IDS.items():
        ids = events.select(column).distinct().to_pyarrow()[column].drop_null()
        new = pa.array(pseudonymiser.of_all(ids.to_pylist(), kind), pa.string())
        tables[column] = _register(
            con, f"names_{column}", pa.table({column: ids.cast(pa.string()), f"{column}_new": new})
        )
    return tables


def _pseudonymous(events: ir.Table, names: dict[str, ir.Table]) -> ir.Table:
    for column, table in names.items():
        joined = events.left_join(table, column)
        joined = joined.drop(*[c for c in joined.columns if c == f"{column}_right"])
        events = joined.mutate(**{column: joined[f"{column}_new"]}).drop(f"{column}_new")
    return events


def _quarantine(bad: ir.Table) -> pa.Table:
    """The bad rows with their reason and their row number in the source."""
    table = bad.drop(REJECT).order_by("row").to_pyarrow()
    columns = [
        c
        for c in output_columns([c for c in table.column_names if c not in ("row", REASON)])
        if c in table.column_names
    ]
    return _typed(table.select([*columns, "row", REASON]))


def _refuse(n_read: int, n_bad: int, reasons: dict[str, int], limit: float, quarantine: pa.Table, out: Path) -> None:
    """Stop when too many rows are bad, leaving the rows and their reasons beside the shop that was not written."""
    if n_bad < n_read and n_bad <= limit * n_read:
        return
    beside = out.with_name(f"{out.name}.quarantine.parquet")
    pq.write_table(quarantine, beside, compression="zstd")
    most = max(reasons, key=lambda r: (reasons[r], r))
    known = f"; known are {', '.join(EVENT_TYPES)}" if most == "event_type is unknown" else ""
    raise InvalidInput(
        f"{n_bad:,} of {n_read:,} rows are bad ({n_bad / n_read:.1%}, the limit is {limit:.1%}), most often: {most} "
        f"({reasons[most]:,}){known}; see {beside}"
    )


def _identified(good: ir.Table) -> ir.Table:
    """Good events under pseudonyms, each with a person and a session, in time order."""
    events = resolve(good)
    if events.filter(events.session_id.isnull()).count().to_pyarrow().as_py():
        events = sessionise(events)
    guest = ibis.literal(guest_id("")) + events.session_id
    events = events.mutate(user_id=ibis.coalesce(events.user_id, guest))
    return events.order_by("timestamp", "row")


def _write_events(
    con: Backend, events: ir.Table, path: Path, step: Callable[[int], None]
) -> tuple[int, dict[str, Any]]:
    """Stream the events into a Parquet file of fixed row groups; returns the number of rows and who is in them."""
    extras = [c for c in events.columns if c not in ("row", "linked")]
    columns = output_columns(extras)
    batches = con.con.sql(con.compile(events.select([*columns, "linked"]))).to_arrow_reader(ROW_GROUP)
    rows, linked, first, last, writer, users = 0, 0, None, None, None, set[str]()
    pending: list[pa.RecordBatch] = []

    def flush() -> None:
        nonlocal writer
        table = _typed(pa.Table.from_batches(pending).drop_columns(["linked"]))
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table, row_group_size=ROW_GROUP)
        pending.clear()
        step(rows)

    for batch in batches:
        if not batch.num_rows:
            continue
        linked += pc.sum(batch["linked"]).as_py() or 0
        users.update(pc.unique(batch["user_id"]).to_pylist())
        first = batch["timestamp"][0].as_py() if first is None else first
        last = batch["timestamp"][-1].as_py()
        while batch.num_rows:
            room = ROW_GROUP - sum(b.num_rows for b in pending)
            pending.append(batch.slice(0, room))
            rows += pending[-1].num_rows
            batch = batch.slice(room)
            if sum(b.num_rows for b in pending) == ROW_GROUP:
                flush()
    if pending:
        flush()
    if writer is not None:
        writer.close()
    guests = sum(u.startswith(GUEST_PREFIX) for u in users)
    people = {
        "users": len(users) - guests, "guests": guests, "linked_guest_events": int(linked),
        "first": str(pd.Timestamp(first, unit="us")), "last": str(pd.Timestamp(last, unit="us")),
    }  # fmt: skip
    return rows, people


def _write_exposures(con: Backend, parts: Sequence[Path], until: int | None, path: Path) -> None:
    """Who met which variant, as the servers logged it, in one file.

    Raises:
        InvalidInput: a file of the log cannot be read.
    """
    files = ", ".join(f"'{_quoted(part)}'" for part in parts)
    before = "" if until is None else f"WHERE epoch_us(time) < {until}"
    query = (
        f"COPY (SELECT * FROM read_parquet([{files}], hive_partitioning = false, union_by_name = true) {before} "
        f"ORDER BY ALL) TO '{_quoted(path)}' (FORMAT parquet, COMPRESSION zstd)"
    )
    try:
        con.raw_sql(query)
    except duckdb.Error as error:
        raise InvalidInput(f"{parts[0].parents[1]} cannot be read: {str(error).splitlines()[0]}") from error


def _typed(table: pa.Table) -> pa.Table:
    """The contract's column types; times leave the database as int64 microseconds."""
    for i, name in enumerate(table.column_names):
        if name in _TYPES:
            table = table.set_column(i, name, table[name].cast(_TYPES[name]))
    return table


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
