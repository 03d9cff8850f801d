"""Reader for what the servers wrote themselves: the collector's sealed events and the recommender's impression log.

The state folder holds `events/date=*/part-*.parquet` and `impressions/date=*/part-*.parquet`, one of them at least, and
`exposures/` where experiments ran, which become a file of the shop. A shown list becomes one `impression` event for
each place, with position, propensity and request id: what joins a click to what was on show, and how likely it was to
be shown. Ids in these logs are pseudonyms of one key already. What was imported before the servers ran, a shop under
the same key, can come first: the log goes on from there.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd

from longtail.datasets.raw import Raw, read_table
from longtail.errors import InvalidInput
from longtail.schema import GUEST_PREFIX

EVENTS, EXPOSURES = "events.parquet", "exposures.parquet"
# A shop's page may tell of an impression that the recommender logged, too: both get one id, so that it counts once. A
# request of nobody (no person, no session) is a session of its own.
SHOWN = """
SELECT
    'impression/' || request_id || '/' || surface || '/' || item_id AS event_id, user_id, item_id,
    'impression' AS event_type, time AS timestamp,
    CASE WHEN user_id IS NULL THEN coalesce(session_id, request_id) ELSE session_id END AS session_id, surface,
    CAST(place - 1 AS INTEGER) AS position, request_id,
    CASE WHEN chance > 0 AND chance <= 1 THEN chance END AS propensity, variant, model_version, level, source
FROM (
    SELECT
        request_id, surface, user_id, session_id, epoch_us(time) AS time, variant, model_version, level,
        unnest(items) AS item_id, unnest(propensity) AS chance, unnest(source) AS source,
        generate_subscripts(items, 1) AS place
    FROM read_parquet({impressions}, hive_partitioning = false)
)
"""
TOLD = """
SELECT
    coalesce(shown.event_id, event.event_id) AS event_id,
    event.* EXCLUDE (event_id, timestamp, received_at),
    epoch_us(event.timestamp) AS timestamp, epoch_us(event.received_at) AS received_at
FROM read_parquet({events}, hive_partitioning = false) event
"""
SEEN_TWICE = """
LEFT JOIN (SELECT request_id, item_id, min(event_id) AS event_id FROM shown GROUP BY ALL) shown
    ON event.event_type = 'impression' AND event.request_id = shown.request_id AND event.item_id = shown.item_id
"""
# A guest of back then may turn out to be somebody.
BEFORE = """
SELECT * REPLACE (
    epoch_us(timestamp) AS timestamp, CASE WHEN NOT starts_with(user_id, '{guest}') THEN user_id END AS user_id
)
FROM read_parquet({events})
"""
NOT_TWICE = "LEFT JOIN (SELECT NULL::VARCHAR AS event_id) shown ON true"


def read(
    folder: Path, items: Path | None = None, history: Path | None = None, scratch: Path | None = None
) -> Raw:  # fmt: skip
    """Events and impressions of a state folder as one log, impressions first.

    `history` is an imported shop whose events and exposures come before; an event that is in both counts once. `items`
    is the catalogue, a Parquet file with the item contract's columns; without it, that of `history` or `items.parquet`
    in the folder counts, else the catalogue is what the events mention. `scratch` takes the joined log; without it the
    log is held in memory.

    Raises:
        InvalidInput: neither log is there, `history` is no imported shop, or a file cannot be read.
    """
    logs = {
        name: sorted((folder / name).glob("date=*/part-*.parquet")) for name in ("events", "impressions", "exposures")
    }
    if not logs["events"] and not logs["impressions"]:
        raise InvalidInput(
            f"{folder} holds no events/date=*/part-*.parquet and no impressions: name the state folder of a collector "
            "that has sealed something"
        )
    if history is not None and not (history / EVENTS).is_file():
        raise InvalidInput(f"{history} is no imported shop: it has no {EVENTS}")
    try:
        with duckdb.connect(config={"temp_directory": str(scratch / "spill")} if scratch else {}) as con:
            con.execute("SET preserve_insertion_order = true")
            query = _joined(con, logs, history)
            events: pd.DataFrame | Path
            if scratch is None:
                events = con.execute(query).df()
            else:
                events = scratch / "collected.parquet"
                con.execute(f"COPY ({query}) TO {_text(events)} (FORMAT parquet, COMPRESSION zstd)")
    except (duckdb.Error, OSError) as error:
        raise InvalidInput(f"{folder} cannot be read: {str(error).splitlines()[0]}") from error
    met = [history / EXPOSURES] if history is not None and (history / EXPOSURES).is_file() else []
    return Raw(events, _catalogue(folder, items, history), pseudonymous=True, exposures=(*met, *logs["exposures"]))


def _joined(con: duckdb.DuckDBPyConnection, logs: dict[str, list[Path]], history: Path | None) -> str:
    """The query for all logs as one."""
    parts = []
    if history is not None:
        parts.append(BEFORE.format(events=_text(history / EVENTS), guest=GUEST_PREFIX))
    if logs["impressions"]:
        con.execute(f"CREATE TEMP VIEW shown AS {SHOWN.format(impressions=_list(logs['impressions']))}")
        parts.append("SELECT * FROM shown")
    if logs["events"]:
        told = TOLD.format(events=_list(logs["events"]))
        parts.append(told + (SEEN_TWICE if logs["impressions"] else NOT_TWICE))
    return " UNION ALL BY NAME ".join(f"({part})" for part in parts)


def _catalogue(folder: Path, items: Path | None, history: Path | None) -> pd.DataFrame | None:
    if items is not None:
        if not Path(items).is_file():
            raise InvalidInput(f"{items} does not exist: `--items` names the Parquet file of the catalogue")
        return read_table(Path(items), ("item_id",))
    beside = (history or folder) / "items.parquet"
    return read_table(beside, ("item_id",)) if beside.is_file() else None


def _list(paths: list[Path]) -> str:
    return "[" + ", ".join(_text(path) for path in paths) + "]"


def _text(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
