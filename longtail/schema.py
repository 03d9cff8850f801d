"""The event and item contracts that every other part reads and writes.

An imported shop is a folder: `events.parquet`, `items.parquet`, `quarantine.parquet`, `import.json`, and
`exposures.parquet` where the servers ran experiments.

Events in it are validated, pseudonymised, sessionised and sorted by time; `user_id` and `session_id` are never null
there (a guest is one user per session, its id starting with `GUEST_PREFIX`).
"""

from typing import Final

import pyarrow as pa

DAY_US: Final = 86_400_000_000
GUEST_PREFIX: Final = "~"

EVENT_TYPES: Final = ("impression", "view", "click", "add_to_cart", "purchase", "skip", "rating")
EVENT_CODE: Final = {name: code for code, name in enumerate(EVENT_TYPES)}

# How much an event says that the person wants the item; impressions and skips are exposure, not interest.
EVENT_STRENGTH: Final = {
    "impression": 0.0,
    "view": 1.0,
    "click": 1.0,
    "add_to_cart": 3.0,
    "purchase": 5.0,
    "skip": 0.0,
    "rating": 2.0,
}

# A purchase with a negative `value` is a return or a cancellation. `value` is money for the whole line, in the shop's
# currency; for a rating it is the rating. `quantity` and `propensity` are optional extras that Longtail understands.
EVENT_SCHEMA: Final = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("event_type", pa.string()),
        ("timestamp", pa.timestamp("us", tz="UTC")),
        ("session_id", pa.string()),
        ("surface", pa.string()),
        ("position", pa.int32()),
        ("request_id", pa.string()),
        ("value", pa.float64()),
        ("dwell_ms", pa.int64()),
        ("device", pa.string()),
    ]
)
EVENT_EXTRAS: Final = pa.schema([("quantity", pa.float64()), ("propensity", pa.float64()), ("region", pa.string())])

ITEM_SCHEMA: Final = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("category", pa.string()),  # a path such as "kitchen/knives"
        ("brand", pa.string()),
        ("price", pa.float64()),
        ("margin", pa.float64()),  # share of the price, 0..1
        ("in_stock", pa.bool_()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("regions", pa.list_(pa.string())),  # null: everywhere
        ("min_age", pa.int32()),
        ("text", pa.string()),
    ]
)
