"""Small logs of experiments whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from longtail.schema import DAY_US

START = 19_783 * DAY_US  # 2024-03-01
NAMES = np.array(["control", "new"], object)


def people(
    users: int = 2_000, days: int = 14, before: int = 14, lift: float = 0.0, seed: int = 1, wears_off: bool = False,
    new: np.ndarray | None = None,
):  # fmt: skip
    """Events of people (columns of the contract and `variant`): a list a visit, clicks and purchases with `lift`.

    `new` [users]: 1 for those who meet it; without it half of them by chance.
    """
    rng = np.random.default_rng(seed)
    taste = rng.gamma(2.0, 0.15, users)
    variant = rng.integers(0, 2, users) if new is None else new
    rows = []
    for day in range(-before, days):
        visits = np.flatnonzero(rng.random(users) < taste.clip(max=0.9))
        time = START + day * DAY_US + rng.integers(8, 20, len(visits)) * 3_600_000_000
        treated = variant[visits] * (day >= 0)
        more = 1 + lift * treated * (0.0 if wears_off and day >= days // 3 else 1.0)
        clicks = rng.random(len(visits)) < 0.3 * more
        buys = rng.random(len(visits)) < 0.2 * more
        name = np.where(day >= 0, NAMES[variant[visits]], "control")
        surface = np.where(rng.random(len(visits)) < 0.5, "homepage", "cart")
        for kind, mask, later in (
            ("impression", np.ones(len(visits), bool), 0),
            ("click", clicks, 5),
            ("purchase", buys, 9),
        ):
            of = visits[mask]
            rows.append(pd.DataFrame({
                "user": of, "event_type": kind, "time": time[mask] + later * 1_000_000, "surface": surface[mask],
                "variant": name[mask], "day": day,
                "value": np.round(rng.lognormal(3, 0.5, len(of)), 2) if kind == "purchase" else np.nan,
            }))  # fmt: skip
    out = pd.concat(rows, ignore_index=True)
    return out.sort_values("time", kind="stable", ignore_index=True)


def write_shop(folder: Path, events: pd.DataFrame) -> Path:
    """As an imported shop."""
    folder.mkdir(parents=True, exist_ok=True)
    when = pd.to_datetime(events["time"], unit="us", utc=True).dt.as_unit("us")
    frame = pd.DataFrame({
        "event_id": np.arange(len(events)).astype(str), "user_id": "u" + events["user"].astype(str), "item_id": "i",
        "event_type": events["event_type"], "timestamp": when,
        "session_id": "u" + events["user"].astype(str) + "-" + events["day"].astype(str), "surface": events["surface"],
        "value": events["value"], "variant": events["variant"],
    })  # fmt: skip
    frame.to_parquet(folder / "events.parquet", index=False)
    return folder


def write_state(folder: Path, events: pd.DataFrame) -> Path:
    """As what the servers write: lists of one item, and events."""
    user = "u" + events["user"].astype(str)
    time = pa.array(events["time"]).cast(pa.timestamp("us", tz="UTC"))
    session = user + "-" + events["day"].astype(str)
    shown = (events["event_type"] == "impression").to_numpy()
    lists = pa.table({
        "request_id": pa.array(np.arange(len(events)).astype(str)), "user_id": pa.array(user),
        "session_id": pa.array(session), "surface": pa.array(events["surface"].astype(str)), "time": time,
        "variant": pa.array(events["variant"].astype(str)), "items": pa.array([["i"]] * len(events)),
    }).filter(pa.array(shown))  # fmt: skip
    told = pa.table({
        "user_id": pa.array(user), "session_id": pa.array(session), "timestamp": time,
        "request_id": pa.nulls(len(events), pa.string()), "item_id": pa.array(["i"] * len(events)),
        "event_type": pa.array(events["event_type"].astype(str)), "value": pa.array(events["value"], from_pandas=True),
    }).filter(pa.array(~shown))  # fmt: skip
    for name, table in (("impressions", lists), ("events", told)):
        part = folder / name / "date=2024-03-01"
        part.mkdir(parents=True)
        pq.write_table(table, part / "part-0.parquet")
    return folder
