"""Reader for plain user-item pairs: `train.parquet` (and, for its items, `test.parquet` when there)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from longtail.datasets.raw import Raw, as_id, order_in_group, read_table

END_US = 1_577_836_800_000_000  # 2020-01-01; see read


def read(folder: Path) -> Raw:
    """The training pairs as clicks. Pairs have no time: each person's last row is at 2020-01-01, earlier ones a second
    before each other. The test pairs give nothing but item ids, so that the catalogue is whole.
    """
    folder = Path(folder)
    frame = read_table(folder / "train.parquet", ("user_id", "item_id"))
    place, size = order_in_group(frame["user_id"].to_numpy())
    user, item = as_id(frame["user_id"]), as_id(frame["item_id"])
    events = pd.DataFrame(
        {
            "event_id": user + "-" + pd.Series(place, index=frame.index).astype("string"),
            "user_id": user,
            "item_id": item,
            "event_type": "click",
            "timestamp": END_US - (size - 1 - place) * 1_000_000,
        }
    )
    ids = [frame["item_id"].to_numpy()]
    if (folder / "test.parquet").is_file():
        ids.append(read_table(folder / "test.parquet", ("user_id", "item_id"))["item_id"].to_numpy())
    return Raw(events, pd.DataFrame({"item_id": as_id(pd.Series(np.unique(np.concatenate(ids))))}))
