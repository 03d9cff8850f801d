"""The people of an opened bundle: baked histories, live events since, and user features from Feast's online store."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from longtail.engine.baked import BakedPeople, write_people
from longtail.engine.parts import Bundle
from longtail.engine.people import merged, unknown_features
from longtail.errors import InvalidBundle
from longtail.events import Histories
from longtail.features.batch import UserCategory
from longtail.features.live import LiveStore, UserHistory, to_histories
from longtail.features.offline import category_fingerprint
from longtail.features.online import OnlineFeatures, materialise
from longtail.metrics import DEGRADED

__all__ = ["DONE", "StoredPeople", "lay_out", "write_people"]
DONE = "bundle"


def lay_out(bundle: Bundle, state: Path, progress: Callable[[int], None] | None = None) -> Path:
    """Fill Feast's online store for a bundle under `<state>/people/<version>`, once; return that folder.

    One that lost a file since is filled again. `progress` hears how many people were written since it last heard.
    Several processes may do it at the same time.

    Raises:
        InvalidBundle: the bundle's user features cannot be read or do not belong to it.
    """
    folder = Path(state) / "people" / bundle.manifest.version
    if _whole(folder):
        return folder
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        contents = materialise(bundle.folder, beside / "features", progress=progress)
        if contents.as_of != bundle.as_of or contents.categories != category_fingerprint(bundle.catalogue.categories):
            raise InvalidBundle(
                f"{bundle.folder}: the user features belong to another catalogue or moment: train again"
            )
        (beside / DONE).write_text(json.dumps(_sizes(beside)))
        if not _whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(beside, folder)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        if _whole(folder):  # another process was first
            return folder
        raise InvalidBundle(f"{bundle.folder} cannot be read ({type(error).__name__}: {error}): train again") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _sizes(folder: Path) -> dict[str, int]:
    found = [p for p in folder.rglob("*") if p.is_file() and p.name != DONE]
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in found}


def _whole(folder: Path) -> bool:
    """Whether all that was laid out is still there, as large as it was."""
    try:
        wanted = json.loads((folder / DONE).read_text())
        return all((folder / name).stat().st_size == size for name, size in wanted.items())
    except (OSError, ValueError, AttributeError):
        return False


class StoredPeople:
    """`PeopleStore` over a bundle, the folder that `lay_out` filled for it, and a live store.

    `pseudonym` turns a caller's user id into the stored one. Without `live` only the baked histories are read.
    """

    def __init__(
        self, bundle: Bundle, folder: Path, pseudonym: Callable[[str], str] = str, live: LiveStore | None = None
    ) -> None:
        self._bundle, self._pseudonym, self._live = bundle, pseudonym, live
        self._baked = BakedPeople.open(bundle.folder)
        self._features = OnlineFeatures(folder / "features")
        # The segments of the fallback lists may stand in another order than those of the people; -1 stays -1.
        self._segment = np.array([*(bundle.segment_code(s) for s in self._baked.segments), -1], np.int32)

    async def histories(self, user_ids: Sequence[str | None]) -> tuple[Histories, np.ndarray, list[str]]:
        """See `PeopleStore`."""
        stored = self._stored(user_ids)
        rows = self._baked.ids.find(stored)
        rows[[user_id is None for user_id in user_ids]] = -1
        history, segment = self._baked.histories(rows), self._segment[self._baked.segment_of(rows)]
        known = [b for b, user_id in enumerate(user_ids) if user_id is not None]
        if self._live is None or not known:
            return history, segment, []
        try:
            found = await self._live.load([stored[b] for b in known], self._bundle.as_of, self._baked.last)
        except Exception as error:  # noqa: BLE001 - a stage boundary: what is baked stands in
            cause = getattr(error, "cause", type(error).__name__)
            DEGRADED.labels("live", cause).inc()
            return history, segment, [f"live: {cause}"]
        if any(map(len, found)):
            whole = [UserHistory.empty()] * len(stored)
            for b, live in zip(known, found, strict=True):
                whole[b] = live
            items = list(dict.fromkeys(item for live in found for item in live.item_id))
            codes = dict(zip(items, self._bundle.codes.find(items).tolist(), strict=True))
            history = merged(history, to_histories(whole, codes), self._baked.last)
        return history, segment, []

    async def features(self, user_ids: Sequence[str | None]) -> tuple[dict[str, np.ndarray], UserCategory]:
        """See `PeopleStore`."""
        stored = self._stored(user_ids)
        known = [b for b, user_id in enumerate(user_ids) if user_id is not None]
        if len(known) == len(stored):
            return await self._features.rows(stored)
        user, categories = unknown_features(len(stored))
        if known:
            found, rows = await self._features.rows([stored[b] for b in known])
            place = np.full(len(stored), -1, np.int64)
            place[known] = np.arange(len(known))
            user = {name: np.where(place < 0, 0, column[place]) for name, column in found.items()}
            categories = rows.take(place)
        return user, categories

    def _stored(self, user_ids: Sequence[str | None]) -> list[str]:
        # Half a surrogate pair is legal in JSON and in no store: as "?" it is just somebody who is unknown.
        ids = ["" if u is None else self._pseudonym(u) for u in user_ids]
        return [i if i.isascii() else i.encode("utf-8", "replace").decode() for i in ids]
