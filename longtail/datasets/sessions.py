"""Reader for anonymous click sessions: `train_sessions.parquet`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from longtail.datasets.raw import Raw, as_id, read_table

START_US = 1_420_070_400_000_000  # 2015-01-01
SESSION_US = 60_000_000
CLICK_US = 1_000_000


def read(folder: Path) -> Raw:
    """Clicks of guests. Session ids are in time order: session number n starts n minutes after 2015-01-01 and its
    clicks follow a second apart, or closer where a session has more than 50.
    """
    frame = read_table(Path(folder) / "train_sessions.parquet", ("session_id", "position", "item_id"))
    frame = frame.sort_values(["session_id", "position"], kind="stable", ignore_index=True)
    session, rank = np.unique(frame["session_id"].to_numpy(), return_inverse=True)
    start = np.searchsorted(rank, np.arange(len(session)))
    place = np.arange(len(frame)) - start[rank]
    step = np.minimum(CLICK_US, SESSION_US * 5 // 6 // np.bincount(rank))[rank]
    ids = as_id(frame["session_id"])
    events = pd.DataFrame(
        {
            "event_id": ids + "-" + pd.Series(place).astype("string"),
            "user_id": None,
            "item_id": as_id(frame["item_id"]),
            "event_type": "click",
            "timestamp": START_US + rank * SESSION_US + place * step,
            "session_id": ids,
        }
    )
    return Raw(events, None)
