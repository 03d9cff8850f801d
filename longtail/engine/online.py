"""The people of a bundle: written with it, laid out for fast reading once per server, read by each request."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longtail.engine.parts import Bundle
from longtail.engine.people import People
from longtail.errors import InvalidBundle
from longtail.events import Log
from longtail.features.history import LAST, HistoryStore, UserHistory, to_histories
from longtail.features.offline import category_fingerprint
from longtail.features.online import OnlineFeatures, materialise

USERS_FILE = "users.parquet"
HISTORIES_FILE = "histories.parquet"
_COLUMNS = ("item", "time", "kind", "strength", "quantity", "session")
DONE = "bundle"


def write_people(
    folder: Path, log: Log, user_ids: np.ndarray, segment: np.ndarray, segments: np.ndarray, last: int = LAST
) -> None:
    """Write `users.parquet` (id, segment name) and `histories.parquet` (the `last` newest interactions of each).

    `user_ids` str [n_users] pseudonyms; `segment` int32 [n_users] index into `segments`, -1 unknown.
    """
    names = [None if s < 0 else str(segments[s]) for s in segment]
    users = pa.table({"user_id": pa.array(user_ids, pa.string()), "segment": pa.array(names, pa.string())})
    pq.write_table(users, Path(folder) / USERS_FILE)
    positives = log.positives
    stop = positives.indptr()[1:]
    newest = positives.select(np.repeat(stop, np.diff(positives.indptr())) - np.arange(len(positives)) <= last)
    columns = {"user": newest.user, **{name: getattr(newest, name) for name in _COLUMNS}}
    pq.write_table(pa.table(columns), Path(folder) / HISTORIES_FILE)


def read_histories(folder: Path, n_users: int, n_items: int) -> Log:
    """The log of `histories.parquet`; user codes are rows of `users.parquet`, what it does not keep is neutral."""
    table = pq.read_table(Path(folder) / HISTORIES_FILE)
    columns = {name: table[name].to_numpy() for name in ("user", *_COLUMNS)}
    n = table.num_rows
    return Log(
        **columns, value=np.zeros(n, np.float32), request=np.full(n, -1, np.int32), position=np.full(n, -1, np.int16),
        propensity=np.full(n, np.nan, np.float32), n_users=n_users, n_items=n_items,
    )  # fmt: skip


def lay_out(bundle: Bundle, state: Path, progress: Callable[[int], None] | None = None) -> Path:
    """Fill the online store and the history store of a bundle under `state`, once; return their folder.

    Live events that the history store already has stay when they are newer than the bundle.

    Raises:
        InvalidBundle: the bundle's people cannot be read.
    """
    folder = Path(state) / "people"
    marker = folder / DONE
    if marker.is_file() and marker.read_text() == bundle.manifest.version:
        return folder
    marker.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        user_ids = pq.read_table(bundle.folder / USERS_FILE, columns=["user_id"])["user_id"].to_numpy(False)
        log = read_histories(bundle.folder, len(user_ids), len(bundle.catalogue))
        shutil.rmtree(folder / "features", ignore_errors=True)
        contents = materialise(bundle.folder, folder / "features", progress=progress)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise InvalidBundle(f"{bundle.folder} cannot be read ({type(error).__name__}: {error}): train again") from error
    if contents.as_of != bundle.as_of or contents.categories != category_fingerprint(bundle.catalogue.categories):
        raise InvalidBundle(f"{bundle.folder}: the user features belong to another catalogue or moment: train again")
    store = HistoryStore(folder / "history.db")
    store.materialise(log, user_ids, bundle.catalogue.item_ids, bundle.as_of)
    store.close()
    beside = folder / f".{DONE}.{os.getpid()}"
    beside.write_text(bundle.manifest.version)
    os.replace(beside, marker)
    return folder


class StoredPeople:
    """People from the stores that `lay_out` filled; `pseudonym` turns a caller's user id into the stored one."""

    def __init__(self, bundle: Bundle, folder: Path, pseudonym: Callable[[str], str] = str) -> None:
        self._bundle, self._pseudonym = bundle, pseudonym
        self._features = OnlineFeatures(folder / "features")
        self._histories = HistoryStore(folder / "history.db")
        self._items = {item_id: code for code, item_id in enumerate(bundle.catalogue.item_ids)}
        users = pq.read_table(bundle.folder / USERS_FILE)
        codes = {name: code for code, name in enumerate(bundle.fallback.segments)}
        ids = np.array([user_id.encode() for user_id in users["user_id"].to_pylist()], "S")
        segment = np.array([codes.get(s, -1) for s in users["segment"].to_pylist()], np.int32)
        order = np.argsort(ids)
        # A sorted byte array takes a tenth of a dict's memory, and one search is a microsecond.
        self._ids, self._segment = ids[order], segment[order]

    def read(self, user_ids: Sequence[str | None]) -> People:
        """See `PeopleStore`."""
        stored = ["" if user_id is None else self._pseudonym(user_id) for user_id in user_ids]
        known = [b for b, user_id in enumerate(user_ids) if user_id is not None]
        nothing = self._histories.load("", 0)
        histories: list[UserHistory] = [nothing] * len(stored)
        for b in known:
            histories[b] = self._histories.load(stored[b])
        people = People.nobody(len(stored))
        user, categories = people.user, people.categories
        if known:
            found, rows = self._features.rows([stored[b] for b in known])
            place = np.full(len(stored), -1, np.int64)
            place[known] = np.arange(len(known))
            user = {name: np.where(place < 0, 0, column[place]) for name, column in found.items()}
            categories = rows.take(place)
        return People(to_histories(histories, self._items), user, categories, self._segments(stored))

    def _segments(self, stored: Sequence[str]) -> np.ndarray:
        wanted = np.array([s.encode("utf-8", "replace") for s in stored])
        if not len(self._ids):
            return np.full(len(stored), -1, np.int32)
        place = np.minimum(np.searchsorted(self._ids, wanted), len(self._ids) - 1)
        return np.where(self._ids[place] == wanted, self._segment[place], -1).astype(np.int32)
