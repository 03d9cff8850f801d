"""Served features against the trainer's code: the same person, moment and item must give the same bits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from longtail.engine.baked import BakedPeople
from longtail.engine.impressions import Impression
from longtail.engine.parts import Bundle
from longtail.engine.people import merged
from longtail.events import Histories, Requests
from longtail.experiments.log import text
from longtail.features.live import KEEP_US, UserHistory, to_histories
from longtail.features.online import UserRows, unpack
from longtail.features.request import COLUMNS, Pairs, assemble
from longtail.monitoring.drift import Served
from longtail.monitoring.judging import Measured
from longtail.monitoring.log import open_log
from longtail.schema import DAY_US, EVENT_CODE, EVENT_STRENGTH

LEAST = 10  # lists: fewer say nothing
NAME = "feature_parity"


def measure(served: Served, folder: Path, bundle: Bundle, lists: int, memory: str) -> Measured:
    """The share of served values that come out otherwise when `lists` of the sampled lists are computed again.

    Histories are put together from the bundle's and from the event log, user features read from the bundle's snapshot;
    what the sources said is taken as it was logged. Lists of people whose history in the log is another than the one
    that was served (their request told of events itself, or an event came late) are left out.
    """
    if not served.rows:
        return Measured(NAME, "", math.nan, why_not=served.why_not or "no list of the day was made in full")
    rows = served.rows[:lists]
    histories = _histories(rows, folder, bundle)
    same = np.array([_same(row, histories, b) for b, row in enumerate(rows)])
    if same.sum() < LEAST:
        return Measured(
            NAME, "", math.nan, why_not=f"of {len(rows)} lists only {same.sum()} could be put together again"
        )
    mine = np.flatnonzero(served.request < len(rows))
    was, again = served.features[mine, : len(COLUMNS)], _again(rows, histories, served, mine, bundle)
    differs = ~((was == again) | (np.isnan(was) & np.isnan(again)))[same[served.request[mine]]]
    return Measured(NAME, "", float(differs.mean()))


def _again(
    rows: list[Impression], histories: Histories, served: Served, mine: np.ndarray, bundle: Bundle
) -> np.ndarray:
    """The features of the shown items `mine`, float32 [N, columns that are no source's]."""
    people = UserRows.read(bundle.folder, [row.user_id for row in rows if row.user_id])
    place = {user: n for n, user in enumerate(people.user_ids.tolist())}
    values = [
        None if (n := place.get(row.user_id or "", -1)) < 0 else people.values[people.indptr[n] : people.indptr[n + 1]]
        for row in rows
    ]
    time, segment = np.array([row.time for row in rows], np.int64), np.array([row.segment for row in rows], np.int32)
    requests = Requests(time, np.full(len(rows), -1, np.int32), segment, histories)
    logged = served.features[mine, len(COLUMNS) :]
    pairs = Pairs(served.request[mine], served.item[mine], logged[:, 0::2].copy(), logged[:, 1::2].copy())
    return assemble(requests, *unpack(values), bundle.items, pairs)[:, : len(COLUMNS)]


def _histories(rows: list[Impression], folder: Path, bundle: Bundle) -> Histories:
    baked = BakedPeople.open(bundle.folder)
    found = baked.ids.find([row.user_id or "" for row in rows])
    found[[row.user_id is None for row in rows]] = -1
    live = _since(rows, folder, bundle, baked.last)
    items = list(dict.fromkeys(item for history in live for item in history.item_id))
    codes = dict(zip(items, bundle.codes.find(items).tolist(), strict=True)) if items else {}
    return merged(baked.histories(found), to_histories(live, codes), baked.last)


def _since(rows: list[Impression], folder: Path, bundle: Bundle, last: int) -> list[UserHistory]:
    """What the people of the lists did since the bundle was made, as the servers could know it at the request."""
    users = sorted({row.user_id for row in rows if row.user_id})
    newest = max(row.time for row in rows)
    start = max(bundle.as_of, newest - KEEP_US) // DAY_US * DAY_US
    kinds = ", ".join(text(kind) for kind in EVENT_CODE if EVENT_STRENGTH[kind] > 0)
    events: dict[str, list[tuple]] = {user: [] for user in users}
    if users:
        with open_log(folder, start, newest + 1, []) as log:
            found = log.rows(f"""
                SELECT user, item, time, kind, coalesce(quantity, 1.0), session FROM told
                WHERE user IN ({", ".join(text(u) for u in users)}) AND kind IN ({kinds})
                    AND NOT coalesce(value < 0, false) AND time >= {bundle.as_of}
                ORDER BY time, received
            """)
        for user, item, time, kind, quantity, session in found:
            events[user].append((item, time, EVENT_CODE[kind], quantity, session))
    mine = [[e for e in events.get(row.user_id or "", []) if e[1] < row.time] for row in rows]
    return [UserHistory.of_live(known[-last:]) for known in mine]


def _same(row: Impression, histories: Histories, b: int) -> bool:
    mine = slice(histories.indptr[b], histories.indptr[b + 1])
    return np.array_equal(histories.item[mine], row.history_item) and np.array_equal(
        histories.time[mine], row.history_time
    )
