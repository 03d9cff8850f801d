from __future__ import annotations

import ibis
import pandas as pd

from longtail.events.sessions import sessionise

MINUTE = 60_000_000


def test_half_an_hour_of_silence_ends_a_session_and_given_sessions_stay() -> None:
    frame = pd.DataFrame(
        [(0, "a", None, 0, None), (1, "a", None, 29 * MINUTE, None), (2, "b", None, 30 * MINUTE, None),
         (3, "a", None, 59 * MINUTE, None), (4, "a", None, 70 * MINUTE, "given"), (5, None, "d", 71 * MINUTE, None),
         (6, "a", None, 80 * MINUTE, None)],
        columns=["row", "user_id", "device_id", "timestamp", "session_id"],
    )  # fmt: skip
    con = ibis.duckdb.connect()
    con.con.register("events", frame)
    sessions = list(con.to_pandas(sessionise(con.table("events")).order_by("row"))["session_id"])
    assert sessions[4] == "given" and sessions[0] == sessions[1] != sessions[3] == sessions[6]
    assert len({*sessions}) == 5
