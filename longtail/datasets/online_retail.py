"""Reader for invoices with purchases and cancellations: `events.parquet` of the Online Retail form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from longtail.datasets.raw import REJECT, Raw, as_id, read_table
from longtail.events.log import micros

COLUMNS = (
    "invoice", "item_id", "description", "quantity", "timestamp", "unit_price", "user_id", "country", "event_type"
)  # fmt: skip


def read(folder: Path, until: int | None = None) -> Raw:
    """Invoice lines as purchases; a cancellation is a purchase of negative value.

    With `until` (microseconds) only lines before it are read, so that titles and prices too know nothing later.

    `value` = quantity x unit price, `session_id` = invoice, `region` = country; people without an id are guests. Lines
    that sell nothing (postage, fees, write-offs, gifts at price 0) carry the reason in the column `reject`.
    """
    frame = read_table(Path(folder) / "events.parquet", COLUMNS)
    if until is not None:
        frame = frame[micros(frame["timestamp"]) < until]
    quantity = frame["quantity"].to_numpy(np.float64)
    price = frame["unit_price"].to_numpy(np.float64).round(3)  # stored as 32-bit floats
    cancel = frame["event_type"].eq("cancel").to_numpy()
    code = frame["item_id"].astype("string")
    reject = np.select(
        [
            ~code.str.match(r"^\d{5}").fillna(False).to_numpy(bool),
            ~(price > 0),
            ~cancel & ~(quantity > 0),
            cancel & ~(quantity < 0),
        ],
        [
            "item_id is not a product code",
            "unit_price is not above 0: a write-off or a gift",
            "quantity of a purchase is not above 0",
            "quantity of a cancellation is not below 0",
        ],
        default="",
    )  # fmt: skip
    row = frame.index.astype("string")
    events = pd.DataFrame(
        {
            "event_id": frame["invoice"].astype("string") + "-" + row,
            "user_id": as_id(frame["user_id"]),
            "item_id": code,
            "event_type": frame["event_type"].replace({"cancel": "purchase"}),
            "timestamp": frame["timestamp"],
            "session_id": as_id(frame["invoice"]),
            "value": np.where(cancel, -np.abs(quantity * price), quantity * price).round(3),
            "quantity": np.abs(quantity),
            "region": frame["country"],
            REJECT: pd.Series(reject, index=frame.index, dtype=object).where(reject != "", None),
        }
    )
    return Raw(events, _items(frame[(reject == "") & ~cancel]))


def _items(sold: pd.DataFrame) -> pd.DataFrame:
    """The catalogue as the invoices show it: usual description, median price, first sale."""
    titles = sold.dropna(subset=["description"]).groupby(["item_id", "description"]).size().rename("n").reset_index()
    titles = titles.sort_values(["item_id", "n", "description"], ascending=[True, False, True], kind="stable")
    title = titles.drop_duplicates("item_id").set_index("item_id")["description"].str.strip()
    groups = sold.groupby("item_id", sort=True)
    items = pd.DataFrame(
        {"price": groups["unit_price"].median().astype(float).round(3), "created_at": groups["timestamp"].min()}
    )
    items["title"] = title.reindex(items.index).map(str.title, na_action="ignore")
    items["text"] = title.reindex(items.index).str.lower()
    return items.reset_index()
