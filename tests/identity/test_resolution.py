from __future__ import annotations

import ibis
import pandas as pd

from longtail.identity.resolution import resolve


def test_guest_events_go_to_the_only_person_of_the_device() -> None:
    frame = pd.DataFrame(
        [(0, None, "phone"), (1, "anna", "phone"), (2, "anna", "tablet"), (3, "ben", "tablet"), (4, None, "tablet"),
         (5, None, "kiosk"), (6, None, None), (7, "anna", None)],
        columns=["row", "user_id", "device_id"],
    )  # fmt: skip
    con = ibis.duckdb.connect()
    con.con.register("events", frame)
    out = con.to_pandas(resolve(con.table("events")).order_by("row"))
    assert [None if u != u else u for u in out["user_id"]] == ["anna", "anna", "anna", "ben", None, None, None, "anna"]
    assert list(out["linked"]) == [True] + [False] * 7
