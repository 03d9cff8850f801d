"""What came of shown lists: events of an imported shop, joined to impressions by request and item."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longtail.engine.impressions import Impression
from longtail.errors import InvalidInput
from longtail.events import Catalogue
from longtail.ranking.objective import LEAST, MOST, item_worth
from longtail.surfaces import BoundSurface

KINDS = ("click", "add_to_cart", "purchase")


@dataclass(frozen=True)
class Outcomes:
    """`clicked`: (request id, item id) of what was clicked, put into the cart or bought from a list; `bought`: (person,
    item id, microseconds) of every purchase.
    """

    clicked: set[tuple[str, str]]
    bought: set[tuple[str, str, int]]

    @staticmethod
    def load(shop: Path, requests: Collection[str], people: Collection[str]) -> Outcomes:
        """Of these requests, and the purchases of these people, from `events.parquet` of an imported shop.

        Raises:
            InvalidInput: there is no such file.
        """
        path = Path(shop) / "events.parquet"
        if not path.is_file():
            raise InvalidInput(
                f"{path} does not exist: import what the servers wrote first (`longtail import collected`)"
            )
        columns = ["event_type", "request_id", "item_id", "user_id", "timestamp", "value"]
        kind = pc.field("event_type")
        asked, theirs = (
            pc.field(name).isin(pa.array(list(ids), pa.string()))  # typed, because there may be none
            for name, ids in (("request_id", requests), ("user_id", people))
        )
        wanted = (kind.isin(KINDS) & asked) | ((kind == "purchase") & theirs)
        events = pq.read_table(path, columns=columns, filters=wanted).to_pandas()
        events = events[~(events["value"] < 0)]  # what came back
        bought = events[events["event_type"] == "purchase"]
        times = bought["timestamp"].astype("datetime64[us, UTC]").astype("int64")
        of_lists = events[events["request_id"].notna()]
        return Outcomes(
            set(zip(of_lists["request_id"], of_lists["item_id"], strict=True)),
            set(zip(bought["user_id"], bought["item_id"], times, strict=True)),
        )

    def of(self, row: Impression) -> np.ndarray:
        """float64 [k]: 1 for each item of a shown list that was clicked."""
        return np.array([(row.request_id, item) in self.clicked for item in row.items], np.float64)


def worth_of_clicks(
    surface: BoundSurface, objective: str | Mapping[Any, float], catalogue: Catalogue
) -> np.ndarray | None:
    """What a click on each item counts, 1 for the median item: float64 [I], None where all count the same.

    It is what the item brings under the surface's own objective where that is one of money, as its lists are tilted to
    it, else under the training's `objective`. Purchases themselves are not counted: too few come from lists to tell a
    margin of some per cent.
    """
    tilt = surface.rules.tilt
    if tilt is not None:
        return np.exp(tilt.astype(np.float64)).clip(LEAST, MOST)
    worth = item_worth(objective, catalogue.price, catalogue.margin, catalogue.return_rate)
    return None if worth is None else worth.clip(LEAST, MOST)
