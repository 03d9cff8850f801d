"""What came of shown lists: events of an imported shop, joined to impressions by request and item."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longtail.engine.impressions import Impression
from longtail.errors import InvalidInput

Reward = Literal["clicks", "conversion", "revenue"]
KINDS = {"clicks": ("click", "add_to_cart", "purchase"), "conversion": ("purchase",), "revenue": ("purchase",)}


@dataclass(frozen=True)
class Outcomes:
    """`earned` by (request id, item id); `bought`: (person, item id, microseconds) of every purchase."""

    earned: dict[tuple[str, str], float]
    bought: set[tuple[str, str, int]]

    @staticmethod
    def load(shop: Path, reward: Reward = "clicks") -> Outcomes:
        """Read `events.parquet` of an imported shop.

        `clicks` is 1 for an item that was clicked (or put into the cart, or bought) from the list, `conversion` 1 for
        one that was bought, `revenue` its money. Returns are not deducted: they come weeks later, without a request.

        Raises:
            InvalidInput: there is no such file, or no such reward.
        """
        path = Path(shop) / "events.parquet"
        if not path.is_file():
            raise InvalidInput(
                f"{path} does not exist: import what the servers wrote first (`longtail import collected`)"
            )
        if reward not in get_args(Reward):
            raise InvalidInput(f"reward: there is no {reward!r}, only {', '.join(get_args(Reward))}")
        columns = ["event_type", "request_id", "item_id", "user_id", "timestamp", "value"]
        wanted = pc.field("event_type").isin(list({*KINDS[reward], "purchase"}))
        events = pq.read_table(path, columns=columns, filters=wanted).to_pandas()
        money = events["value"].fillna(0).to_numpy(np.float64)
        bought = events[(events["event_type"] == "purchase") & (money >= 0)]
        times = bought["timestamp"].astype("datetime64[us, UTC]").astype("int64")
        of_lists = events[events["event_type"].isin(KINDS[reward]) & events["request_id"].notna() & (money >= 0)]
        by_item = of_lists.groupby(["request_id", "item_id"], observed=True)["value"].sum()
        earned = {key: float(value) if reward == "revenue" else 1.0 for key, value in by_item.items()}
        return Outcomes(earned, set(zip(bought["user_id"], bought["item_id"], times, strict=True)))

    def of(self, row: Impression) -> np.ndarray:
        """float64 [k]: what each item of a shown list earned."""
        return np.array([self.earned.get((row.request_id, item), 0.0) for item in row.items])
