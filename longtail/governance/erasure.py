"""Erase a person from the stores and logs of a state folder and from imported shops; say what still knows them."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longtail.durable import sync_folder
from longtail.errors import InvalidInput, LongtailError, Unavailable

PARTS = "*/date=*/part-*.parquet"  # events, impressions, and whatever else is logged by day
IDS = ("user_id", "session_id", "device_id")


@dataclass
class Erased:
    """`rows` that were erased, by place; `left`: what still knows the person, and what to do about it."""

    rows: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def add(self, place: str, rows: int) -> None:
        """Count erased rows of a place."""
        self.rows[place] = self.rows.get(place, 0) + rows


@dataclass(frozen=True)
class Traces:
    """What a person goes by: their pseudonym, sessions, and the devices that nobody else signed in on."""

    person: str
    sessions: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()

    def mask(self, table: pa.Table) -> np.ndarray:
        """bool [N]: rows of the person, and those that nobody signed for in their sessions or on their devices."""
        user = table["user_id"]
        found = pc.fill_null(pc.equal(user, self.person), False)
        for column, values in (("session_id", self.sessions), ("device_id", self.devices)):
            if values and column in table.column_names:
                theirs = pc.is_in(table[column], pa.array(sorted(values), table.schema.field(column).type))
                found = pc.or_(found, pc.and_(pc.is_null(user), theirs))
        return found.to_numpy(zero_copy_only=False)


def erase_state(state: Path, person: str, erased: Erased) -> None:
    """Erase from the folder of the servers: the spool first, so that nothing is sealed behind our back, then its files.

    `person` is a pseudonym. The servers may run meanwhile.

    Raises:
        Unavailable: a store cannot be written now; what was erased so far is erased, run it again.
    """
    traces = _traces(state, person)
    _spool(state / "spool.db", traces, erased)
    done: set[Path] = set()
    while files := [path for path in sorted(state.glob(PARTS)) if path not in done]:  # seals go on
        for path in files:
            if "user_id" in pq.read_schema(path).names:
                erased.add(path.relative_to(state).parts[0], rewrite(path, traces.mask))
        done.update(files)
    for path in sorted((state / "quarantine").glob("part-*.jsonl")):
        erased.add("quarantine", _lines(path, traces))
    for path in sorted(state.glob("people/*/features/online.db")):
        erased.add("people", _online(path, person))
    if (state / "people").is_dir():
        erased.left.append(
            "running recommenders keep lists in memory, and read histories out of their bundle: restart them after "
            "the deployment of a bundle that was trained without this person"
        )


def erase_shop(shop: Path, person: str, erased: Erased) -> None:
    """Erase from an imported shop, whose linked guest events stand under the person already.

    Raises:
        InvalidInput: it is no imported shop.
    """
    if not (shop / "events.parquet").is_file():
        raise InvalidInput(f"{shop} has no events.parquet: name a folder that `longtail import` made")
    for name in ("events.parquet", "quarantine.parquet", "exposures.parquet"):
        path = shop / name
        if path.is_file() and "user_id" in pq.read_schema(path).names:
            erased.add(str(shop), rewrite(path, Traces(person).mask, empty_too=True))


@dataclass
class Bundles:
    """What registered bundles hold of a person: `holding` (version, roles, folder), `unseen` (version, why not)."""

    holding: list[tuple[int, str, Path]] = field(default_factory=list)
    unseen: list[tuple[int, str]] = field(default_factory=list)


def held_by(registry: str, person: str) -> Bundles:
    """Look for the person's history in every registered bundle."""
    from longtail.engine.baked import BakedPeople
    from longtail.registry import Registry

    found, versions = Bundles(), Registry(registry)
    for version in versions.versions():
        try:
            bundle = versions.resolve(version.number)
            known = BakedPeople.open(bundle).ids.find([person])[0] >= 0
        except (LongtailError, OSError) as error:
            found.unseen.append((version.number, str(error)))
            continue
        if known:
            found.holding.append((version.number, ", ".join(version.aliases), bundle))
    return found


def rewrite(path: Path, mask: Callable[[pa.Table], np.ndarray], empty_too: bool = False) -> int:
    """Write a Parquet file anew without the masked rows, beside and then in its place; how many they were.

    A file that loses all its rows is removed, unless `empty_too`. Row groups are read one by one.
    """
    source = pq.ParquetFile(path)
    hits = [mask(source.read_row_group(n)) for n in range(source.num_row_groups)]
    gone = int(sum(h.sum() for h in hits))
    if not gone:
        return 0
    if gone == source.metadata.num_rows and not empty_too:
        path.unlink()
    else:
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with pq.ParquetWriter(beside, source.schema_arrow, compression="zstd") as writer:
                for n, hit in enumerate(hits):
                    writer.write_table(source.read_row_group(n).filter(pa.array(~hit)))
            _publish(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    sync_folder(path.parent)
    return gone


def _traces(state: Path, person: str) -> Traces:
    """The sessions and devices of a person, by everything that was sealed or waits in the spool."""
    sessions: set[str] = set()
    devices: set[str] = set()
    shared: set[str] = set()
    for table in _id_tables(state):
        mine = table.filter(pc.fill_null(pc.equal(table["user_id"], person), False))
        others = table.filter(pc.fill_null(pc.not_equal(table["user_id"], person), False))
        sessions |= set(pc.drop_null(mine["session_id"]).to_pylist())
        devices |= set(pc.drop_null(mine["device_id"]).to_pylist())
        shared |= set(pc.unique(pc.drop_null(others["device_id"])).to_pylist())
    return Traces(person, frozenset(sessions), frozenset(devices - shared))


def _id_tables(state: Path) -> Iterator[pa.Table]:
    kind = pa.schema([(name, pa.string()) for name in IDS])
    for path in sorted(state.glob("events/date=*/part-*.parquet")):
        columns = [c for c in IDS if c in pq.read_schema(path).names]
        table = pq.read_table(path, columns=columns, partitioning=None)
        arrays = [table[c].cast(pa.string()) if c in columns else pa.nulls(len(table), pa.string()) for c in IDS]
        yield pa.Table.from_arrays(arrays, schema=kind)
    if (state / "spool.db").is_file():
        with closing(sqlite3.connect(state / "spool.db", timeout=10)) as connection:
            rows = [json.loads(content) for (content,) in connection.execute("SELECT content FROM event")]
        yield pa.Table.from_pylist([{name: row.get(name) for name in IDS} for row in rows], schema=kind)


def _spool(path: Path, traces: Traces, erased: Erased) -> None:
    """Events that wait to be sealed; the collector that owns the file may run."""
    if not path.is_file():
        return
    try:
        with closing(sqlite3.connect(path, timeout=10)) as connection, connection:
            connection.execute("PRAGMA secure_delete=ON")
            connection.execute("BEGIN IMMEDIATE")
            rows = connection.execute("SELECT n, content FROM event").fetchall()
            hits = [(n,) for n, content in rows if _theirs(json.loads(content), traces)]
            connection.executemany("DELETE FROM event WHERE n = ?", hits)
        erased.add("spool", len(hits))
    except sqlite3.Error as error:
        raise Unavailable(f"{path} cannot be written now ({error}): run it again") from error


def _theirs(row: dict, traces: Traces) -> bool:
    if row.get("user_id") is not None:
        return row["user_id"] == traces.person
    return row.get("session_id") in traces.sessions or row.get("device_id") in traces.devices


def _lines(path: Path, traces: Traces) -> int:
    """Rows that did not fit the schema; a line that is no JSON goes when it names the person."""
    kept, gone = [], 0
    for line in path.read_bytes().splitlines():
        try:
            hit = _theirs(json.loads(line), traces)
        except (ValueError, AttributeError):
            hit = traces.person.encode() in line
        gone += hit
        kept += [] if hit else [line]
    if gone:
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        beside.write_bytes(b"".join(line + b"\n" for line in kept))
        _publish(beside, path)
        sync_folder(path.parent)
    return gone


def _online(path: Path, person: str) -> int:
    """A person's features in Feast's SQLite store; the file keeps its size, by which servers know that it is whole."""
    try:
        with closing(sqlite3.connect(path, timeout=10)) as connection, connection:
            connection.execute("PRAGMA secure_delete=ON")
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            gone = 0
            for (name,) in tables:
                columns = {row[1] for row in connection.execute(f'PRAGMA table_info("{name}")')}
                if "entity_key" in columns:
                    # Feast's key holds the id as it is, among other bytes.
                    statement = f'DELETE FROM "{name}" WHERE instr(entity_key, CAST(? AS BLOB)) > 0'
                    gone += connection.execute(statement, (person,)).rowcount
        return gone
    except sqlite3.Error as error:
        raise Unavailable(f"{path} cannot be written now ({error}): run it again") from error


def _publish(beside: Path, path: Path) -> None:
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(beside, path)
