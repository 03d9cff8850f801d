"""The point-in-time join of training: every request reads the newest snapshot that was stamped by its time."""

from __future__ import annotations

import numpy as np

from longtail.features.batch import Snapshots, UserCategory, take_user
from longtail.features.definitions import USER_CATEGORY_SNAPSHOT, USER_SNAPSHOT


def latest_stamps(stamps: np.ndarray, times: np.ndarray) -> np.ndarray:
    """int64 [B]: index of the newest of the ascending `stamps` that is no later than each time, -1 where none is.

    A snapshot counts strictly before its stamp, so one stamped at the very time of the request leaks nothing.
    """
    return np.searchsorted(np.asarray(stamps), np.asarray(times), side="right").astype(np.int64) - 1


def user_features_at(
    snapshots: Snapshots, users: np.ndarray, times: np.ndarray
) -> tuple[dict[str, np.ndarray], UserCategory]:
    """The user rows and user x category rows that B requests read.

    `users` int [B] (-1 unknown), `times` int64 [B] microseconds. Returns USER_SNAPSHOT columns int64 [B] each and the
    ragged rows of the B requests; unknown users, and requests before the first stamp, read zeros and empty rows.
    """
    users = np.asarray(users, np.int64)
    index = latest_stamps(snapshots.stamps, times)
    row = {name: np.zeros(len(users), np.int64) for name in USER_SNAPSHOT}
    parts: list[tuple[np.ndarray, UserCategory]] = []
    for i in np.unique(index[index >= 0]):
        stamp = int(snapshots.stamps[i])
        rows = np.flatnonzero(index == i)
        for name, column in take_user(snapshots.user(stamp), users[rows]).items():
            row[name][rows] = column
        parts.append((rows, snapshots.user_category(stamp).take(users[rows])))
    return row, _interleave(parts, len(users))


def _interleave(parts: list[tuple[np.ndarray, UserCategory]], n: int) -> UserCategory:
    if not parts:
        return UserCategory.empty(n)
    whole = UserCategory(
        np.concatenate([[0], *(p.indptr[1:] + sum(len(q.category) for _, q in parts[:k])
                               for k, (_, p) in enumerate(parts))]).astype(np.int64),
        np.concatenate([p.category for _, p in parts]),
        {name: np.concatenate([p.columns[name] for _, p in parts]) for name in USER_CATEGORY_SNAPSHOT},
    )  # fmt: skip
    place = np.full(n, -1, np.int64)
    place[np.concatenate([rows for rows, _ in parts])] = np.arange(len(whole))
    return whole.take(place)
