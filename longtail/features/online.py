"""The user features that a request reads: Feast's online store, on a laptop SQLite filled from the snapshot files.

A store folder holds `online.db`, `registry.db` and `store.json`, which says what was written. Item features are not
read from it: 500 candidates are cheaper to take from the item snapshot in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from longtail.errors import InvalidInput
from longtail.features.batch import UserCategory
from longtail.features.definitions import USER_CATEGORY_SNAPSHOT, USER_SNAPSHOT
from longtail.features.offline import (
    CATEGORIES,
    EVENT_TIME,
    FINGERPRINT,
    USER_CATEGORY_FILE,
    USER_FILE,
    list_column,
    read_latest,
)

if TYPE_CHECKING:
    from feast import FeatureStore

PROJECT = "longtail"
SERVICE = "recommender_user"
STORE_FILE = "store.json"
CHUNK = 20_000


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


def local_store(folder: Path, online: str = "online.db") -> FeatureStore:
    """Feast's local provider with its SQLite registry and online store in `folder`, Parquet offline."""
    from feast import FeatureStore, RepoConfig

    # The registry is read once: a store folder changes only together with its `store.json`.
    return FeatureStore(
        config=RepoConfig(
            project=PROJECT, provider="local", entity_key_serialization_version=3,
            registry={"path": str(folder.resolve() / "registry.db"), "cache_ttl_seconds": 0},
            online_store={"type": "sqlite", "path": str(folder.resolve() / online)},
            offline_store={"type": "duckdb"},
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
    tables = {"user_daily": read_latest(features, USER_FILE)}
    tables["user_category_daily"] = read_latest(features, USER_CATEGORY_FILE)
    if not tables["user_daily"].num_rows:
        raise InvalidInput(f"{features / USER_FILE} holds no user: take a snapshot after the first events")
    as_of = pc.max(tables["user_daily"][EVENT_TIME]).value
    before = StoreContents.read(folder)
    if before and before.as_of > as_of and not allow_older:
        raise InvalidInput(f"{folder} holds newer features than {features}: allow older ones to roll back")
    if user_ids is not None:
        wanted = pa.array(np.asarray(user_ids, object), pa.string())
        tables = {name: t.filter(pc.is_in(t["user_id"], wanted)) for name, t in tables.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "building.db").unlink(missing_ok=True)
    store = local_store(folder, "building.db")
    apply_views(store, features)
    for name, table in tables.items():
        for start in range(0, table.num_rows, CHUNK):
            part = table.slice(start, CHUNK)
            store.write_to_online_store(name, df=part.to_pandas())
            if progress:
                progress(part.num_rows)
    metadata = tables["user_category_daily"].schema.metadata or {}
    contents = StoreContents(as_of, tables["user_daily"].num_rows, metadata.get(FINGERPRINT, b"").decode())
    os.replace(folder / "building.db", folder / "online.db")
    (folder / f"{STORE_FILE}.part").write_text(json.dumps(asdict(contents)))
    os.replace(folder / f"{STORE_FILE}.part", folder / STORE_FILE)
    return contents


class OnlineFeatures:
    """Reads user rows from a store folder, or from any Feast store that the views were applied to."""

    def __init__(self, store: Path | FeatureStore) -> None:
        """Open the store.

        Raises:
            InvalidInput: the folder was never filled.
        """
        self.contents: StoreContents | None = None
        if isinstance(store, Path):
            self.contents = StoreContents.read(store)
            if self.contents is None:
                raise InvalidInput(f"{store} holds no online features: materialise a bundle into it first")
            store = local_store(store)
        self._store = store
        self._service = store.get_feature_service(SERVICE)
        # Feast connects on the first read: a store that is swapped in later must not change what this one reads.
        self.user_row("")

    def rows(self, user_ids: Sequence[str]) -> tuple[dict[str, np.ndarray], UserCategory]:
        """USER_SNAPSHOT columns int64 [B] each, and the category rows; unknown users read zeros and none."""
        if not len(user_ids):
            return {name: np.empty(0, np.int64) for name in USER_SNAPSHOT}, UserCategory.empty(0)
        entities = [{"user_id": user_id} for user_id in user_ids]
        found = self._store.get_online_features(features=self._service, entity_rows=entities).to_dict()
        user = {name: np.array([value or 0 for value in found[name]], np.int64) for name in USER_SNAPSHOT}
        lengths = [len(codes or ()) for codes in found[CATEGORIES]]

        def flat(name: str) -> np.ndarray:
            return np.array([value for values in found[name] for value in values or ()], np.int64)

        columns = {name: flat(list_column(name)) for name in USER_CATEGORY_SNAPSHOT}
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return user, UserCategory(indptr, flat(CATEGORIES).astype(np.int32), columns)

    def user_row(self, user_id: str) -> tuple[dict[str, int], UserCategory]:
        """One user's snapshot row and category rows (B = 1)."""
        user, categories = self.rows([user_id])
        return {name: int(column[0]) for name, column in user.items()}, categories
