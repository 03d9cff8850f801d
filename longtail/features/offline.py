"""Snapshots as the Parquet files that the Feast views read, and back as arrays.

`item_features.parquet` and `user_features.parquet` hold one row per entity and stamp; `user_category_features.parquet`
one row per user and stamp, with equally long lists: the category codes ascending, and a list per column. Timestamps
are microseconds in UTC. Entities without an event before a stamp have no row. `user_online_features.parquet`, made by
`online.write_online_file`, holds the newest stamp of both user files as one list per user.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longtail.errors import InvalidInput
from longtail.events.log import Catalogue
from longtail.features.batch import Snapshots, UserCategory
from longtail.features.definitions import ITEM_SNAPSHOT, USER_CATEGORY_SNAPSHOT, USER_SNAPSHOT

ITEM_FILE = "item_features.parquet"
USER_FILE = "user_features.parquet"
USER_CATEGORY_FILE = "user_category_features.parquet"
ONLINE_FILE = "user_online_features.parquet"
EVENT_TIME = "event_timestamp"
CREATED = "created_timestamp"
CATEGORIES = "categories"
ROW = "row"
FINGERPRINT = b"longtail.categories"


def list_column(name: str) -> str:
    """The column of `user_category_features.parquet` that holds a USER_CATEGORY_SNAPSHOT column."""
    return f"category_{name}"


def category_fingerprint(categories: np.ndarray) -> str:
    """Tells apart category codings: codes mean the same category in two catalogues only where this is equal."""
    return hashlib.sha256("\n".join(map(str, categories)).encode()).hexdigest()[:16]


def _schema(key: str, columns: Iterable[str], kind: pa.DataType) -> pa.Schema:
    stamp = pa.timestamp("us", tz="UTC")
    return pa.schema([(key, pa.string()), (EVENT_TIME, stamp), (CREATED, stamp), *((c, kind) for c in columns)])


ITEM_FEATURES = _schema("item_id", ITEM_SNAPSHOT, pa.int64())
USER_FEATURES = _schema("user_id", USER_SNAPSHOT, pa.int64())
USER_CATEGORY_FEATURES = _schema(
    "user_id", [CATEGORIES, *map(list_column, USER_CATEGORY_SNAPSHOT)], pa.list_(pa.int64())
)


def write_snapshots(
    snapshots: Snapshots, folder: Path, user_ids: np.ndarray, catalogue: Catalogue, stamps: Iterable[int] | None = None
) -> None:
    """Write the three files for the given stamps (default all); each file appears whole or not at all.

    `user_ids` str [n_users]. A row is created at its stamp, so that the same log always writes the same file. The
    user x category file carries the fingerprint of the category codes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [int(s) for s in (snapshots.stamps if stamps is None else sorted(stamps))]
    users, items = pa.array(user_ids, pa.string()), pa.array(catalogue.item_ids, pa.string())
    fingerprint = {FINGERPRINT: category_fingerprint(catalogue.categories).encode()}
    schemas = {
        ITEM_FILE: ITEM_FEATURES,
        USER_FILE: USER_FEATURES,
        USER_CATEGORY_FILE: USER_CATEGORY_FEATURES.with_metadata(fingerprint),
    }
    with ExitStack() as stack:
        # Beside the final files until all are complete.
        writers = {n: stack.enter_context(pq.ParquetWriter(folder / f"{n}.part", s)) for n, s in schemas.items()}
        for stamp in wanted:
            writers[ITEM_FILE].write_table(_flat(snapshots.item(stamp), items, stamp, ITEM_FEATURES))
            writers[USER_FILE].write_table(_flat(snapshots.user(stamp), users, stamp, USER_FEATURES))
            writers[USER_CATEGORY_FILE].write_table(_lists(snapshots.user_category(stamp), users, stamp))
    for name in schemas:
        os.replace(folder / f"{name}.part", folder / name)


def _stamp_columns(stamp: int, n: int) -> list[pa.Array]:
    return [pa.array(np.full(n, stamp, np.int64)).cast(pa.timestamp("us", tz="UTC"))] * 2


def _flat(columns: dict[str, np.ndarray], ids: pa.Array, stamp: int, schema: pa.Schema) -> pa.Table:
    seen = np.flatnonzero(np.any([column != 0 for column in columns.values()], axis=0))
    arrays = [ids.take(pa.array(seen)), *_stamp_columns(stamp, len(seen)), *(c[seen] for c in columns.values())]
    return pa.table([pa.array(a) if isinstance(a, np.ndarray) else a for a in arrays], schema=schema)


def _lists(rows: UserCategory, ids: pa.Array, stamp: int) -> pa.Table:
    seen = np.flatnonzero(np.diff(rows.indptr))
    offsets = pa.array(np.append(rows.indptr[seen], rows.indptr[-1]).astype(np.int32))
    lists = [rows.category.astype(np.int64), *rows.columns.values()]
    arrays = [
        ids.take(pa.array(seen)), *_stamp_columns(stamp, len(seen)),
        *(pa.ListArray.from_arrays(offsets, pa.array(values)) for values in lists),
    ]  # fmt: skip
    return pa.table(arrays, schema=USER_CATEGORY_FEATURES)


def read_latest(folder: Path, file: str) -> pa.Table:
    """The rows of the newest stamp in one of the three files.

    Raises:
        InvalidInput: the folder does not hold the file.
    """
    if not (folder / file).is_file():
        raise InvalidInput(f"{folder} has no {file}: write the snapshots there first")
    table = pq.read_table(folder / file)
    if not table.num_rows:
        return table
    return table.filter(pc.equal(table[EVENT_TIME], pc.max(table[EVENT_TIME])))
