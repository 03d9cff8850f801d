"""What units met and did, from the servers' own logs or an imported shop, summed by DuckDB in bounded memory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from longtail.errors import InvalidInput
from longtail.experiments.assignment import HOLDOUT, places
from longtail.experiments.metrics import Metric
from longtail.schema import DAY_US, GUEST_PREFIX

MEMORY = "2GB"
# A list names what its person met as `experiment:variant`, several joined by `+`, see `routing`; or one plain variant.
_ONE = "unnest(coalesce(string_split(variant, '+'), [NULL::VARCHAR]))"
LABELS = (f"nullif(regexp_extract({_ONE}, '^(.*):', 1), '') AS experiment, "
          f"regexp_extract({_ONE}, '([^:]*)$', 1) AS variant")  # fmt: skip
PARTS = "date=*/part-*.parquet"
EVENTS = ("impression", "view", "click", "add_to_cart", "purchase", "rating")
# One event is one of `amount`; only a logged list counts for several impressions.
COLUMNS = {
    f"{kind}_count": f"coalesce(sum(amount) FILTER (kind = '{kind}'), 0)" for kind in EVENTS if kind != "purchase"
}
COLUMNS |= {f"{kind}_value": f"coalesce(sum(value) FILTER (kind = '{kind}'), 0)" for kind in EVENTS}
COLUMNS |= {f"{kind}_returned": f"-coalesce(sum(value) FILTER (kind = '{kind}' AND value < 0), 0)" for kind in EVENTS}
COLUMNS["purchase_count"] = "count(*) FILTER (kind = 'purchase' AND coalesce(value, 0) >= 0)"
COLUMNS["session_count"] = "count(DISTINCT session)"  # of a day: one that lasts over midnight counts twice


@dataclass(frozen=True)
class Window:
    """Microseconds since 1970: what is in [start, end) counts, what is in [covariate, start) came before."""

    start: int
    end: int
    covariate: int

    @property
    def days(self) -> int:
        """Days that have begun."""
        return -(-(self.end - self.start) // DAY_US)


class UnitLog:
    """A log opened for reading; nothing is read before it is asked for.

    Its views are `met` (unit, experiment, variant, time, surface, device, region, exposure), `did` (unit, time,
    request, item, kind, amount, value, session) and `placed`, a place of a list each (unit, time, request, surface,
    item, place from 0); all times are microseconds since 1970. `exposure`: the servers said so, else it is a list that
    was shown; its `variant` may then be one of no experiment.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, first: int, last: int, variants: bool) -> None:
        self.con, self.first, self.last, self.has_variants = con, first, last, variants

    def units(
        self, window: Window, surfaces: Sequence[str] = (), variants: Sequence[str] | None = None, experiment: str = ""
    ) -> None:
        """Make the table `units`: first exposures in the window, one row a unit.

        Its columns: unit, variant, first (time), entered (day of the window), surface, device, region, crossed (met
        several variants). Without `variants` everybody who saw a list is one variant: what a plan counts with.
        """
        where = _seen(window, surfaces)
        variant = "'all'"
        if variants is None:
            where += " AND NOT exposure"
        else:
            logged = self.con.execute("SELECT 1 FROM met WHERE exposure AND experiment = ? LIMIT 1", [experiment])
            where += " AND exposure" if logged.fetchone() else " AND NOT exposure"
            where += f" AND variant IN ({', '.join(text(v) for v in variants)})"
            where += f" AND coalesce(experiment, {text(experiment)}) = {text(experiment)}"
            variant = "arg_min(variant, time)"
        crossed = "false" if variants is None else "min(variant) <> max(variant)"
        self.con.execute(f"""
            CREATE OR REPLACE TEMP TABLE units AS
            SELECT unit, {variant} AS variant, min(time) AS first, {crossed} AS crossed,
                (min(time) - {window.start}) // {DAY_US} AS entered,
                arg_min(surface, time) AS surface, arg_min(device, time) AS device, arg_min(region, time) AS region
            FROM met WHERE {where} GROUP BY unit
        """)

    def surfaces(self) -> list[str]:
        """The surfaces on which units met lists, in alphabetical order."""
        found = self.con.execute("SELECT DISTINCT surface FROM met WHERE unit IS NOT NULL AND surface IS NOT NULL")
        return sorted(surface for (surface,) in found.fetchall())

    def held_out(self, window: Window, share: float, others: str) -> None:
        """Put the `units` of everybody into two variants, `HOLDOUT` and `others`, by the hash that the servers use.

        One of the holdout who met an experiment in the window all the same is `crossed`.
        """
        ids = self.con.sql("SELECT unit FROM units").to_arrow_table()["unit"]
        held = pa.table({"unit": ids, "held": places(ids.to_pylist(), HOLDOUT) < share})
        self.con.register("held", held)
        self.con.execute(f"""
            CREATE OR REPLACE TEMP TABLE units AS
            SELECT units.* REPLACE (
                CASE WHEN held THEN {text(HOLDOUT)} ELSE {text(others)} END AS variant,
                held AND unit IN (
                    SELECT unit FROM met WHERE experiment IS NOT NULL AND time >= {window.start} AND time < {window.end}
                ) AS crossed)
            FROM units JOIN held USING (unit)
        """)
        self.con.unregister("held")

    def sums(self, window: Window, metrics: Sequence[Metric]) -> None:
        """Make `unit_day` (unit, day, and a column for each sum) from each unit's first exposure on, and `before` with
        the same sums of the covariate's days; only for units that kept to one variant."""
        columns = sorted({m.numerator for m in metrics} | {m.denominator for m in metrics if m.denominator})
        sums = ", ".join(f"CAST({COLUMNS[c]} AS DOUBLE) AS {c}" for c in columns)
        joined = "FROM did JOIN units USING (unit) WHERE NOT crossed"
        self.con.execute(f"""
            CREATE OR REPLACE TEMP TABLE unit_day AS
            SELECT unit, (time - {window.start}) // {DAY_US} AS day, {sums}
            {joined} AND time >= first AND time < {window.end} GROUP BY ALL
        """)
        self.con.execute(f"""
            CREATE OR REPLACE TEMP TABLE before AS
            SELECT unit, count(*) AS events, {sums}
            {joined} AND time >= {window.covariate} AND time < {window.start} GROUP BY unit
        """)

    def credits(self, window: Window, kind: str, surfaces: Sequence[str] = ()) -> tuple[int, float, float]:
        """What a duel would have had to credit: units that saw a list, and events of `kind` on these lists' items; and
        the variance of one ranker's lead in them, had each two places been a round that a coin gave to two rankers."""
        units, events, variance = self.con.execute(f"""
            WITH places AS (SELECT * FROM placed WHERE {_seen(window, surfaces)}),
            rounds AS (
                SELECT count(*)::DOUBLE AS n, sum(CASE WHEN place % 2 = 1 THEN -1.0 ELSE 1.0 END) AS lead
                FROM did JOIN places ON did.request = places.request AND did.item = places.item
                WHERE kind = {text(kind)} AND did.time < {window.end}
                GROUP BY did.request, coalesce(place // 2, -1), CASE WHEN place IS NULL THEN did.item END
            )
            SELECT (SELECT count(DISTINCT unit) FROM places), coalesce(sum(n), 0), coalesce(sum(lead * lead), 0)
            FROM rounds
        """).fetchone() or (0, 0.0, 0.0)
        return int(units), float(events), float(variance)


@contextlib.contextmanager
def open_log(folder: Path | str, unit: Literal["user", "session"], memory: str = MEMORY) -> Iterator[UnitLog]:
    """The log of a state folder (`impressions/` and `events/`, see `datasets.collected`) or of an imported shop.

    Either may hold exposures too, see `engine.experiment_log`: to an experiment that stands there, only these are
    exposures. What does not fit into `memory` is spilled to a folder that is removed afterwards.

    Raises:
        InvalidInput: the folder holds neither, or a file cannot be read.
    """
    folder = Path(folder)
    with tempfile.TemporaryDirectory(prefix="longtail-") as spill, duckdb.connect() as con:
        con.execute(f"SET memory_limit = {text(memory)}; SET temp_directory = {text(spill)}")
        con.execute("SET preserve_insertion_order = false; SET enable_progress_bar = false")
        try:
            variants = _views(con, folder, unit)
            first, last = con.execute("SELECT min(time), max(time) FROM (FROM did SELECT time)").fetchone() or (None, 0)
            if first is None:
                raise InvalidInput(f"{folder} holds no events")
            yield UnitLog(con, int(first), int(last), variants)
        except (duckdb.Error, OSError) as error:
            raise InvalidInput(f"{folder} cannot be read: {str(error).splitlines()[0]}") from error


def _views(con: duckdb.DuckDBPyConnection, folder: Path, unit: str) -> bool:
    """Make `met` and `did`; says whether exposures name variants."""
    if (folder / "events.parquet").is_file():
        return _shop(con, folder / "events.parquet", unit)
    logs = {name: sorted((folder / name).glob(PARTS)) for name in ("impressions", "events", "exposures")}
    if not logs["impressions"]:
        raise InvalidInput(
            f"{folder} holds neither events.parquet nor impressions/{PARTS}: name an imported shop or the servers' "
            "state folder"
        )
    who = f"{unit}_id AS unit, {micros('time')} AS time"
    shown = scan(logs["impressions"])
    empty = "NULL::VARCHAR AS device, NULL::VARCHAR AS region"
    met = [f"SELECT {who}, {LABELS}, surface, {empty}, false AS exposure FROM {shown}"]
    if logs["exposures"]:
        met.append(_exposures(logs["exposures"], unit))
    con.execute(f"CREATE TEMP VIEW met AS {' UNION ALL BY NAME '.join(met)}")
    con.execute(f"CREATE TEMP VIEW placed AS SELECT {who}, request_id AS request, surface, unnest(items) AS item, "
                f"generate_subscripts(items, 1) - 1 AS place FROM {shown}")  # fmt: skip
    did = [f"SELECT {who}, request_id AS request, 'impression' AS kind, len(items) AS amount, NULL::DOUBLE AS value, "
           f"session_id AS session, NULL::VARCHAR AS item FROM {shown}"]  # fmt: skip
    if logs["events"]:
        told = scan(logs["events"])
        # Lists are counted from the servers' own log: what a page tells of them again is left out.
        did.append(f"SELECT {unit}_id AS unit, {micros('timestamp')} AS time, request_id AS request, "
                   f"event_type AS kind, 1 AS amount, value, session_id AS session, item_id AS item FROM {told} "
                   "WHERE event_type <> 'impression'")  # fmt: skip
    con.execute(f"CREATE TEMP VIEW did AS {' UNION ALL '.join(did)}")
    return True


def _shop(con: duckdb.DuckDBPyConnection, events: Path, unit: str) -> bool:
    columns = pq.read_schema(events).names
    told = {name: name if name in columns else f"NULL::VARCHAR AS {name}" for name in ("variant", "device", "region")}
    request = ("request_id" if "request_id" in columns else "NULL::VARCHAR") + " AS request"
    place = ("position" if "position" in columns else "NULL::INTEGER") + " AS place"
    # A guest is a new one on each visit: no user that could keep a variant.
    who = (
        "session_id" if unit == "session" else f"CASE WHEN NOT starts_with(user_id, '{GUEST_PREFIX}') THEN user_id END"
    )
    log = f"read_parquet({text(events)}, hive_partitioning = false)"
    exposures = events.with_name("exposures.parquet")
    logged = f"UNION ALL BY NAME {_exposures([exposures], unit)}" if exposures.is_file() else ""
    con.execute(f"""
        CREATE TEMP VIEW met AS SELECT {who} AS unit, {micros("timestamp")} AS time, surface, {LABELS},
            device, region, false AS exposure
        FROM (SELECT event_type, user_id, session_id, timestamp, surface, {", ".join(told.values())} FROM {log})
        WHERE event_type = 'impression' {logged}
    """)
    con.execute(f"""
        CREATE TEMP VIEW did AS SELECT {who} AS unit, {micros("timestamp")} AS time, event_type AS kind, 1 AS amount,
            value, session_id AS session, {request}, item_id AS item FROM {log}
    """)
    con.execute(f"""
        CREATE TEMP VIEW placed AS SELECT {who} AS unit, {micros("timestamp")} AS time, {request}, surface,
            item_id AS item, {place}
        FROM {log} WHERE event_type = 'impression'
    """)
    return "variant" in columns or bool(logged)


def _seen(window: Window, surfaces: Sequence[str]) -> str:
    """What a unit saw in the window on these surfaces, on any where none is named."""
    where = f"unit IS NOT NULL AND time >= {window.start} AND time < {window.end}"
    return where + (f" AND surface IN ({', '.join(text(s) for s in surfaces)})" if surfaces else "")


def _exposures(files: Sequence[Path], unit: str) -> str:
    return (f"SELECT {unit}_id AS unit, {micros('time')} AS time, experiment, variant, surface, device, region, "
            f"true AS exposure FROM {scan(files, 'hive_partitioning = false, union_by_name = true')}")  # fmt: skip


def scan(paths: Sequence[Path | str], option: str = "hive_partitioning = false") -> str:
    """Parquet files as a table in SQL."""
    return f"read_parquet([{', '.join(text(p) for p in paths)}], {option})"


def micros(column: str) -> str:
    """A column of times in SQL as microseconds since 1970, whatever its unit and time zone."""
    return f"epoch_ns({column}) // 1000"  # DuckDB 2.0 has no epoch_us of nanoseconds with a time zone


def text(value: object) -> str:
    """A value as SQL text."""
    return "'" + str(value).replace("'", "''") + "'"
