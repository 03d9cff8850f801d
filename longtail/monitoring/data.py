"""Is the log itself sound: volume, gaps, delay, missing values, unknown items, quarantine, bots."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from longtail.experiments.log import scan
from longtail.monitoring.config import Bots
from longtail.monitoring.judging import Measured
from longtail.monitoring.log import Log, quarantined
from longtail.schema import DAY_US

HOUR_US = DAY_US // 24
# What an event of some kind carries where all is well; the share that lacks it is held against training.
EXPECTED = {
    "user_id": ("user", "true"), "surface": ("surface", "true"), "device": ("device", "true"),
    "request_id of clicks": ("request", "kind = 'click'"), "value of purchases": ("value", "kind = 'purchase'"),
}  # fmt: skip
LEAST = 100  # events behind a share
LEAST_OF_HOURS = 1_000  # and behind a spread over hours: a session's events fall into one


def hours(log: Log) -> np.ndarray:
    """Events by hour of the day, int64 [24]."""
    out = np.zeros(24, np.int64)
    for hour, n in log.rows(f"SELECT time // {HOUR_US} % 24, count(*) FROM told GROUP BY ALL"):
        out[int(hour)] = n
    return out


def missing(log: Log) -> dict[str, tuple[int, int]]:
    """(events that lack it, events) of each column in `EXPECTED`."""
    columns = ", ".join(
        f"count(*) FILTER (({where}) AND {column} IS NULL), count(*) FILTER ({where})"
        for column, where in EXPECTED.values()
    )
    found = log.one(f"SELECT {columns} FROM told")
    return {name: (int(found[2 * n]), int(found[2 * n + 1])) for n, name in enumerate(EXPECTED)}


def psi(current: np.ndarray, reference: np.ndarray) -> float:
    """The population stability index of two histograms [n]: the sum of (p - q) log(p / q), half an event a bin."""
    p, q = ((counts + 0.5) / (counts + 0.5).sum() for counts in (current, reference))
    return float(((p - q) * np.log(p / q)).sum())


def measure(
    log: Log, items: Path, usual_hours: np.ndarray | None, lacking: dict[str, float], bots: Bots, newest: bool, now: int
) -> list[Measured]:  # fmt: skip
    """All data checks of a day. `items` is the bundle's catalogue, a Parquet file; `usual_hours` int [24] and `lacking`
    (share by column) are those of the training log; `now` (microseconds) may lie inside the day."""
    by_hour = hours(log)
    events = int(by_hour.sum())
    out = [Measured("events_volume", "", float(events), math.sqrt(events))]
    out.append(_hours(by_hour, usual_hours, log, now))
    out += _freshness(log, now)
    out.append(_delay(log))
    for name, (lack, of) in missing(log).items():
        if of < LEAST or name not in lacking:
            why = f"only {of} events" if of < LEAST else "the training reference does not say"
            out.append(Measured("missing_values", name, math.nan, why_not=why))
        else:
            out.append(Measured("missing_values", name, lack / of, training=lacking[name]))
    unknown = log.one(
        f"SELECT count(*) FROM told ANTI JOIN (SELECT item_id AS item FROM {scan([str(items)])}) USING (item)"
    )
    out.append(_share("unknown_items", int(unknown[0]), events))
    bad = quarantined(log, newest)
    out.append(_share("quarantined_events", bad, events + bad))
    out.append(_share("bot_traffic", _by_bots(log, bots), events))
    return out


def _hours(by_hour: np.ndarray, usual: np.ndarray | None, log: Log, now: int) -> Measured:
    if usual is None or usual.sum() == 0 or by_hour.sum() < LEAST_OF_HOURS or now < log.end:
        why = "the day is not over" if now < log.end else "too few events, here or in training"
        return Measured("events_hours", "", math.nan, why_not=why)
    return Measured("events_hours", "", psi(by_hour, usual))


def _freshness(log: Log, now: int) -> list[Measured]:
    end = min(log.end, now)
    out = []
    for view, part in (("told", "events"), ("lists", "impressions")):
        newest = log.one(f"SELECT max(time) FROM {view}")[0]
        if newest is not None:
            out.append(Measured("log_freshness", part, (end - int(newest)) / HOUR_US))
        elif view == "told" or log.served:
            out.append(Measured("log_freshness", part, (end - log.start) / HOUR_US))
        else:
            out.append(Measured("log_freshness", part, math.nan, why_not="the log holds no lists"))
    return out


def _delay(log: Log) -> Measured:
    late = log.one("SELECT quantile_cont(greatest(received - time, 0), 0.95) FROM told WHERE received IS NOT NULL")[0]
    if late is None:
        return Measured("event_delay", "", math.nan, why_not="the log does not say when events came in")
    return Measured("event_delay", "", float(late) / 1e6)


def _by_bots(log: Log, bots: Bots) -> int:
    minute = 60_000_000
    return int(log.one(f"""
        SELECT coalesce(sum(n), 0) FROM (
            SELECT who, sum(n) AS n, max(n) AS most FROM (
                SELECT who, time // {minute} AS minute, count(*) AS n FROM told GROUP BY ALL
            ) GROUP BY who
        ) WHERE n > {bots.day} OR most > {bots.minute}
    """)[0])  # fmt: skip


def _share(name: str, part: int, whole: int) -> Measured:
    if whole < LEAST:
        return Measured(name, "", math.nan, why_not=f"only {whole} events")
    p = part / whole
    return Measured(name, "", p, math.sqrt(p * (1 - p) / whole))
