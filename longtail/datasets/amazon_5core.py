"""Reader for reviews with days and content: `interactions.parquet`, `items.parquet`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from longtail.datasets.raw import Raw, as_id, read_table


def read(folder: Path) -> Raw:
    """Reviews as purchases without a value; `timestamp` is in seconds, and the place within a person's history breaks
    the ties of a day (a microsecond each). All items of the item file are in the catalogue, reviewed or not.
    """
    folder = Path(folder)
    frame = read_table(folder / "interactions.parquet", ("user_id", "item_id", "timestamp", "position"))
    user = as_id(frame["user_id"])
    events = pd.DataFrame(
        {
            "event_id": user + "-" + frame["position"].astype("string"),
            "user_id": user,
            "item_id": as_id(frame["item_id"]),
            "event_type": "purchase",
            "timestamp": frame["timestamp"].astype("Int64") * 1_000_000 + frame["position"].astype("Int64"),
        }
    )
    path = folder / "items.parquet"
    return Raw(events, _items(path) if path.is_file() else None)


def _items(path: Path) -> pd.DataFrame:
    frame = read_table(path, ("item_id",))
    words = pd.Series("", index=frame.index)
    if "attribute_ids" in frame:
        words = frame["attribute_ids"].map(lambda ids: "" if ids is None else " ".join(f"attr_{i}" for i in ids))
    items = pd.DataFrame({"item_id": as_id(frame["item_id"])})
    if "text_tags" in frame:
        items["title"] = frame["text_tags"]
        words = words + " " + frame["text_tags"].fillna("")
    items["text"] = np.where(words.str.strip() == "", None, words.str.strip())
    return items
