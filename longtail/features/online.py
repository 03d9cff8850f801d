"""The user features that a request reads: Feast's online store, on a laptop SQLite filled from the snapshot files.

A store folder holds `online.db`, `registry.db` and `store.json`, which says what was written. A person is one value,
a list: the columns of `USER_SNAPSHOT`, then the person's categories and every column of `USER_CATEGORY_SNAPSHOT` for
them. Item features are not read from it: 500 candidates are cheaper to take from the item snapshot in memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longtail.errors import InvalidInput
from longtail.features.batch import UserCategory
from longtail.features.definitions import USER_CATEGORY_SNAPSHOT, USER_SNAPSHOT
from longtail.features.offline import (
    CATEGORIES,
    CREATED,
    EVENT_TIME,
    FINGERPRINT,
    ONLINE_FILE,
    ROW,
    USER_CATEGORY_FILE,
    USER_FILE,
    list_column,
    read_latest,
)

if TYPE_CHECKING:
    from feast import FeatureStore

PROJECT = "longtail"
VIEW = "user_online"
STORE_FILE = "store.json"
# Small: Python's garbage collector walks the messages of a chunk over and over while the next are made.
CHUNK = 1_000
N_USER, N_CATEGORY = len(USER_SNAPSHOT), 1 + len(USER_CATEGORY_SNAPSHOT)


@dataclass(frozen=True)
class StoreContents:
    """What an online store was filled with: the stamp, how many users, and whose category codes (a fingerprint)."""

    as_of: int
    users: int
    categories: str

    @staticmethod
    def read(folder: Path) -> StoreContents | None:
        """What `store.json` says, None where nothing was written yet."""
        path = folder / STORE_FILE
        return StoreContents(**json.loads(path.read_text())) if path.is_file() else None


@dataclass(frozen=True)
class UserRows:
    """The newest stamp of U users as lists: row u is `indptr[u]:indptr[u + 1]` of `values` int64.

    `user_ids` str object [U]; `as_of` microseconds; `categories` is the fingerprint of the category codes.
    """

    user_ids: np.ndarray
    indptr: np.ndarray
    values: np.ndarray
    as_of: int
    categories: str

    @staticmethod
    def read(features: Path, user_ids: Sequence[str] | np.ndarray | None = None) -> UserRows:
        """Join the two user files of a folder; `user_ids` limits it to some users.

        Raises:
            InvalidInput: a file is missing or there is no user.
        """
        users, categories = read_latest(features, USER_FILE), read_latest(features, USER_CATEGORY_FILE)
        if not users.num_rows:
            raise InvalidInput(f"{features / USER_FILE} holds no user: take a snapshot after the first events")
        as_of = pc.max(users[EVENT_TIME]).value
        if user_ids is not None:
            wanted = pa.array(np.asarray(user_ids, object), pa.string())
            users, categories = (t.filter(pc.is_in(t["user_id"], wanted)) for t in (users, categories))
        ids = users["user_id"].combine_chunks()
        columns = {name: users[name].to_numpy() for name in USER_SNAPSHOT}
        indptr, values = pack(columns, _ragged(categories, ids))
        fingerprint = (categories.schema.metadata or {}).get(FINGERPRINT, b"").decode()
        return UserRows(ids.to_numpy(zero_copy_only=False), indptr, values, as_of, fingerprint)

    def __len__(self) -> int:
        return len(self.user_ids)


def _ragged(table: pa.Table, ids: pa.Array) -> UserCategory:
    """The rows of `user_category_features.parquet` in the order of `ids`."""
    table = table.combine_chunks()
    owner = pc.index_in(table["user_id"], ids).to_numpy(zero_copy_only=False)
    names = {CATEGORIES: CATEGORIES, **{name: list_column(name) for name in USER_CATEGORY_SNAPSHOT}}
    lists = {name: table[column].combine_chunks() for name, column in names.items()}
    flat = {name: values.flatten().to_numpy(zero_copy_only=False) for name, values in lists.items()}
    lengths = pc.list_value_length(lists[CATEGORIES]).to_numpy(zero_copy_only=False)
    stored = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = np.full(len(ids), -1, np.int64)
    rows[owner] = np.arange(len(owner))
    whole = UserCategory(stored, flat.pop(CATEGORIES).astype(np.int32), flat)
    return whole.take(rows)


def pack(user: dict[str, np.ndarray], categories: UserCategory) -> tuple[np.ndarray, np.ndarray]:
    """`USER_SNAPSHOT` columns [U] and category rows [U] as one list each: indptr int64 [U + 1], values int64."""
    n = np.diff(categories.indptr)
    indptr = np.concatenate([[0], np.cumsum(N_USER + N_CATEGORY * n)]).astype(np.int64)
    values = np.empty(indptr[-1], np.int64)
    for place, name in enumerate(USER_SNAPSHOT):
        values[indptr[:-1] + place] = user[name]
    owner = np.repeat(np.arange(len(n)), n)
    within = np.arange(len(owner)) - categories.indptr[owner]
    first = indptr[owner] + N_USER + within
    columns = [categories.category, *(categories.columns[name] for name in USER_CATEGORY_SNAPSHOT)]
    for place, column in enumerate(columns):
        values[first + place * n[owner]] = column
    return indptr, values


def unpack(rows: Sequence[np.ndarray | None]) -> tuple[dict[str, np.ndarray], UserCategory]:
    """The columns int64 [B] and category rows [B] of B lists; None reads zeros and no category."""
    width = [0 if row is None else (len(row) - N_USER) // N_CATEGORY for row in rows]
    user = np.zeros((len(rows), N_USER), np.int64)
    parts = []
    for b, row in enumerate(rows):
        if row is not None:
            user[b] = row[:N_USER]
            parts.append(row[N_USER:].reshape(N_CATEGORY, width[b]))
    lists = np.concatenate(parts, axis=1) if parts else np.empty((N_CATEGORY, 0), np.int64)
    indptr = np.concatenate([[0], np.cumsum(width)]).astype(np.int64)
    columns = {name: lists[1 + place] for place, name in enumerate(USER_CATEGORY_SNAPSHOT)}
    found = {name: user[:, place] for place, name in enumerate(USER_SNAPSHOT)}
    return found, UserCategory(indptr, lists[0].astype(np.int32), columns)


def write_online_file(features: Path) -> Path:
    """Write `user_online_features.parquet`, for stores that are filled by Feast's own `materialize`; returns its path.

    Raises:
        InvalidInput: a user file is missing or there is no user.
    """
    rows = UserRows.read(features)
    stamp = pa.array(np.full(len(rows), rows.as_of)).cast(pa.timestamp("us", tz="UTC"))
    lists = pa.LargeListArray.from_arrays(pa.array(rows.indptr), pa.array(rows.values))
    table = pa.table({"user_id": pa.array(rows.user_ids, pa.string()), EVENT_TIME: stamp, CREATED: stamp, ROW: lists})
    path = features / ONLINE_FILE
    pq.write_table(table.replace_schema_metadata({FINGERPRINT: rows.categories.encode()}), f"{path}.part")
    os.replace(f"{path}.part", path)
    return path


def local_store(folder: Path, online: str = "online.db") -> FeatureStore:
    """Feast's local provider with its SQLite registry and online store in `folder`, Parquet offline."""
    from feast import FeatureStore, RepoConfig
    from feast.infra.online_stores import sqlite

    # How times are written and read is the process's, and pandas' `to_sql` leaves it as Feast cannot read it.
    sqlite3.register_adapter(datetime, sqlite.adapt_datetime_epoch)
    sqlite3.register_converter("timestamp", sqlite.convert_timestamp)
    # The registry is read once: a store folder changes only together with its `store.json`.
    return FeatureStore(
        config=RepoConfig(
            project=PROJECT, provider="local", entity_key_serialization_version=3,
            registry={"path": str(folder.resolve() / "registry.db"), "cache_ttl_seconds": 0},
            online_store={"type": "sqlite", "path": str(folder.resolve() / online)},
            # A server only reads the online store, and its image has no DuckDB.
            offline_store={"type": "duckdb" if find_spec("duckdb") and find_spec("ibis") else "dask"},
        )
    )  # fmt: skip


def apply_views(store: FeatureStore, features: Path) -> None:
    """Register the entities, views and services over the snapshot files of a folder."""
    from longtail.features import views

    made = views.feature_views(features)
    store.apply([views.user, views.item, *made, *views.feature_services(made)])


def materialise(
    features: Path,
    folder: Path,
    user_ids: Sequence[str] | np.ndarray | None = None,
    allow_older: bool = False,
    progress: Callable[[int], None] | None = None,
) -> StoreContents:
    """Fill the online store of `folder` with the newest stamp of the snapshot files in `features`.

    The store is built beside and swapped in whole: readers that are open keep the values they have. `user_ids` limits
    it to some users; `progress` hears how many rows were written since it last heard.

    Raises:
        InvalidInput: snapshot files are missing or empty, or the store already holds a newer stamp.
    """
    rows = UserRows.read(features, user_ids)
    before = StoreContents.read(folder)
    if before and before.as_of > rows.as_of and not allow_older:
        raise InvalidInput(f"{folder} holds newer features than {features}: allow older ones to roll back")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "building.db").unlink(missing_ok=True)
    store = local_store(folder, "building.db")
    apply_views(store, features)
    write_rows(store, rows, progress)
    contents = StoreContents(rows.as_of, len(rows), rows.categories)
    os.replace(folder / "building.db", folder / "online.db")
    (folder / f"{STORE_FILE}.part").write_text(json.dumps(asdict(contents)))
    os.replace(folder / f"{STORE_FILE}.part", folder / STORE_FILE)
    return contents


def write_rows(store: FeatureStore, rows: UserRows, progress: Callable[[int], None] | None = None) -> None:
    """Write users into any Feast online store that the views were applied to.

    By its provider: `write_to_online_store` takes frames and turns them into the same messages more slowly.
    """
    from feast.infra.provider import get_provider

    provider, view = get_provider(store.config), store.get_feature_view(VIEW)
    for chunk in _messages(rows):
        provider.online_write_batch(store.config, view, chunk, None)
        if progress:
            progress(len(chunk))


def _messages(rows: UserRows) -> Iterator[list[tuple[Any, dict[str, Any], Any, Any]]]:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Int64List, Value

    stamp = np.datetime64(rows.as_of, "us").item()
    for a in range(0, len(rows), CHUNK):
        ids = rows.user_ids[a : a + CHUNK].tolist()
        bounds = rows.indptr[a : a + CHUNK + 1].tolist()
        yield [
            (
                EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user_id)]),
                {ROW: Value(int64_list_val=Int64List(val=rows.values[start:stop].tolist()))},
                stamp,
                stamp,
            )
            for user_id, start, stop in zip(ids, bounds[:-1], bounds[1:], strict=True)
        ]


class OnlineFeatures:
    """Reads user rows from a store folder, or from any Feast store that the views were applied to."""

    def __init__(self, store: Path | FeatureStore) -> None:
        """Open the store.

        Raises:
            InvalidInput: the folder was never filled.
        """
        from feast.infra.provider import get_provider

        self.contents: StoreContents | None = None
        if isinstance(store, Path):
            self.contents = StoreContents.read(store)
            if self.contents is None:
                raise InvalidInput(f"{store} holds no online features: materialise a bundle into it first")
            store = local_store(store)
        # `get_online_features` would resolve the service and copy every message again for each request: 80 of its
        # 110 microseconds. The provider's read is what every online store of Feast implements.
        self._config, self._view = store.config, store.get_feature_view(VIEW)
        self._provider = get_provider(store.config)
        self._async = self._provider.async_supported.online.read
        self._quick = store.config.online_store.type == "sqlite"
        # Feast connects on the first read: a store that is swapped in later must not change what this one reads.
        self._provider.online_read(self._config, self._view, _keys([""]), [ROW])

    async def rows(self, user_ids: Sequence[str]) -> tuple[dict[str, np.ndarray], UserCategory]:
        """USER_SNAPSHOT columns int64 [B] each, and the category rows; unknown users read zeros and none.

        A store across a network is waited for without holding up the event loop; SQLite answers in microseconds.
        """
        given = (self._config, self._view, _keys(user_ids), [ROW])
        if not user_ids:
            found = []
        elif self._async:
            found = await self._provider.online_read_async(*given)
        elif self._quick:
            found = self._provider.online_read(*given)
        else:
            found = await asyncio.to_thread(self._provider.online_read, *given)
        lists = [np.array(v[ROW].int64_list_val.val, np.int64) if v and v.get(ROW) else None for _, v in found]
        return unpack([row if row is not None and len(row) >= N_USER else None for row in lists])

    async def user_row(self, user_id: str) -> tuple[dict[str, int], UserCategory]:
        """One user's snapshot row and category rows (B = 1)."""
        user, categories = await self.rows([user_id])
        return {name: int(column[0]) for name, column in user.items()}, categories


def _keys(user_ids: Sequence[str]) -> list[Any]:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    return [EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=u)]) for u in user_ids]
