"""Reader for ratings in order but without times: `interactions_ordered.parquet`, `items.parquet`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from longtail.datasets.raw import Raw, as_id, order_in_group, read_table
from longtail.schema import DAY_US

# No times exist, so a pseudo-time stands in: everybody's last event happens at END, the one before a day earlier, ...
# "Before END" then leaves out exactly the last item of each person.
END_US = 1_577_836_800_000_000  # 2020-01-01


def read(folder: Path) -> Raw:
    """Interactions as clicks of `sas_user_id`, one day apart, aligned at each person's last one."""
    folder = Path(folder)
    frame = read_table(folder / "interactions_ordered.parquet", ("sas_user_id", "item_id", "position"))
    frame = frame.sort_values(["sas_user_id", "position"], kind="stable", ignore_index=True)
    place, size = order_in_group(frame["sas_user_id"].to_numpy())
    user, item = as_id(frame["sas_user_id"]), as_id(frame["item_id"])
    events = pd.DataFrame(
        {
            "event_id": user + "-" + pd.Series(place).astype("string"),
            "user_id": user,
            "item_id": item,
            "event_type": "click",
            "timestamp": END_US - (size - 1 - place) * DAY_US,
        }
    )
    return Raw(events, _items(folder / "items.parquet", set(item)) if (folder / "items.parquet").is_file() else None)


def _items(path: Path, seen: set[str]) -> pd.DataFrame:
    frame = read_table(path, ("item_id",))
    ids = as_id(frame["item_id"])
    frame, ids = frame[ids.isin(seen).to_numpy()], ids[ids.isin(seen)]
    items = pd.DataFrame({"item_id": ids})
    words = pd.Series("", index=frame.index)
    if "title" in frame:
        items["title"] = frame["title"]
        words = frame["title"].fillna("").str.replace(r"\(\d{4}\)", "", regex=True).str.strip().str.lower()
    if "genres" in frame:
        items["category"] = frame["genres"].str.split("|").str[0]
        genres = frame["genres"].fillna("").str.split("|")
        words = words + " " + genres.map(lambda names: " ".join(f"genre_{n.replace(' ', '_')}" for n in names if n))
    if "year" in frame:
        year = frame["year"].astype("Int64")
        text = "year_" + year.astype("string") + " decade_" + (year // 10 * 10).astype("string")
        words = words + " " + text.fillna("")
        items["created_at"] = pd.to_datetime(year.astype("string") + "-01-01", utc=True, errors="coerce")
        items["created_at"] = items["created_at"].where(items["created_at"] < pd.Timestamp(END_US, unit="us", tz="UTC"))
    items["text"] = np.where(words.str.strip() == "", None, words.str.strip())
    return items.reset_index(drop=True)
