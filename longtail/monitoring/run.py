"""A day, or days of the past one by one: measure, judge, remember, tell."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longtail.engine.parts import Bundle
from longtail.errors import InvalidInput
from longtail.experiments.log import scan
from longtail.monitoring import business, data, drift, lasting, parity, popularity, serving
from longtail.monitoring.config import Watch
from longtail.monitoring.exposition import write_metrics
from longtail.monitoring.history import History
from longtail.monitoring.judging import Measured, judge
from longtail.monitoring.log import Log, day_of, days_in, iso, open_log, too_early
from longtail.monitoring.reference import NEW_DAYS, Reference
from longtail.monitoring.report import write_report
from longtail.monitoring.signal import Signal
from longtail.schema import DAY_US

HISTORY = "history.db"
COURSE = 60  # days that the report draws
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Watched:
    """A bundle and what it was trained on, opened once for many days."""

    bundle: Bundle
    reference: Reference | None

    @staticmethod
    def open(folder: Path) -> Watched:
        """Open a bundle folder.

        Raises:
            InvalidBundle: it cannot be read.
        """
        bundle = Bundle.open(folder, contents=False)
        return Watched(bundle, Reference.read(bundle.folder))


def monitor(
    log: Path | str, bundle: Path | str, out: Path | str, days: Sequence[str] | None = None, watch: Watch = Watch(),
    now: int | None = None, progress: Progress = lambda what, done, of: None,
) -> list[Signal]:  # fmt: skip
    """Check days (ISO, in their order; None: the newest of the log) and return all verdicts.

    `log` is a state folder of the servers or an imported shop. The folder `out` gets `history.db`, which the days are
    appended to and which tells what is usual, and of the newest day `report.html`, `report.json` and `monitor.prom`.
    `now`, microseconds, is when this happens; days that are not over are judged as far as they went.

    Raises:
        InvalidInput: the log or the history cannot be read, or a day lies in the future or before the log's first.
        InvalidBundle: the bundle cannot be read.
    """
    log, out = Path(log), Path(out)
    now = int(time.time() * 1e6) if now is None else now
    newest = days_in(log)[1]
    days = [newest] if days is None else list(days)
    watched, history = Watched.open(Path(bundle)), History(out / HISTORY)
    for day in days:
        if day_of(day) > now:
            raise InvalidInput(f"{day} lies in the future: name a day that has begun")
    if days and (why := too_early(log, min(days))):
        raise InvalidInput(why)
    found: list[Signal] = []
    for n, day in enumerate(days, 1):
        found += check_day(log, watched, history, day, watch, now, day == newest)
        progress("checking days", n, len(days))
    if days:
        last = [s for s in found if s.day == days[-1]]
        course = history.read(iso(day_of(days[-1]) - COURSE * DAY_US), days[-1])
        write_report(out, last, course, {"bundle": watched.bundle.version, "log": log.resolve().name})
        write_metrics(out / "monitor.prom", last, day_of(days[-1]) + DAY_US, now)
    return found


def check_day(
    log: Path, watched: Watched, history: History, day: str, watch: Watch, now: int, newest: bool = False
) -> list[Signal]:
    """Measure one day, judge it by the days in the history, and append the verdicts."""
    measured = measure_day(log, watched, day, watch, now, newest)
    first = iso(day_of(day) - (watch.before.days + lasting.DAYS - 1) * DAY_US)
    past: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for signal in history.read(first, iso(day_of(day) - DAY_US)):
        past[signal.name, signal.part][signal.day] = signal.value
    measured += lasting.measure(measured, past, day, watch)
    about = watched.reference.about if watched.reference else None
    since = iso(about.model_until if about else watched.bundle.as_of)
    signals = []
    for found in measured:
        check = watch.check(found.name)
        if check is None:
            continue
        before = past[found.name, found.part]
        if check.together:
            before = {d: value for d, value in before.items() if d >= since}
        signals.append(judge(check, found, day, before, watch.before))
    history.append(signals, now)
    return signals


def measure_day(log: Path, watched: Watched, day: str, watch: Watch, now: int, newest: bool = False) -> list[Measured]:
    """What every check measures of a day."""
    bundle, reference = watched.bundle, watched.reference
    about = reference.about if reference else None
    start = day_of(day)
    items = bundle.folder / "catalogue" / "items.parquet"
    with open_log(log, start, start + DAY_US, bundle.fallback.segments, watch.memory) as opened:
        usual_hours = np.array(about.hours, np.int64) if about else None
        out = data.measure(opened, items, usual_hours, about.missing if about else {}, watch.bots, newest, now)
        out += business.measure(opened, watch.least_places)
        out += serving.measure(opened, bundle.sources, about.sources if about else {}, watch.least_lists)
        counts = _places(opened, items, len(bundle.catalogue))
        places = about.places if about else 2_000
        out += popularity.measure(counts, reference.exposure if reference else None, places)
        out.append(_new_items(counts, bundle, start, about.new_items if about else math.nan, watch.least_places))
        served = opened.served
    if served:
        shown = drift.sample(log, start, bundle, watch.rows)
        out += drift.measure(shown, reference, bundle.sources, watch.least_lists)
        out.append(parity.measure(shown, log, bundle, watch.lists, watch.memory))
    else:
        why = "an imported shop holds no served features: name the servers' state folder"
        names = ("feature_drift", "feature_missing", "prediction_drift", "feature_parity")
        out += [Measured(name, "", math.nan, why_not=why) for name in names]
    return out + _ages(watched, min(start + DAY_US, now))


def _places(log: Log, items: Path, n_items: int) -> np.ndarray:
    """Places that each item of the catalogue got, int64 [I]."""
    found = log.con.execute(f"""
        SELECT row AS item, count(*) AS n FROM shown JOIN (
            SELECT item_id AS item, file_row_number AS row
            FROM {scan([str(items)], "file_row_number = true")}
        ) USING (item) GROUP BY row
    """).fetchnumpy()
    counts = np.zeros(n_items, np.int64)
    counts[np.asarray(found["item"], np.int64)] = found["n"]
    return counts


def _new_items(counts: np.ndarray, bundle: Bundle, start: int, training: float, least: int) -> Measured:
    created, total = bundle.catalogue.created_us, int(counts.sum())
    if total < least or not (created > 0).any():
        why = (
            f"only {total} places were shown" if total < least else "the catalogue does not say when items were listed"
        )
        return Measured("new_item_share", "", math.nan, why_not=why)
    new = (created > 0) & (created >= start - NEW_DAYS * DAY_US)
    p = float(counts[new].sum() / total)
    return Measured("new_item_share", "", p, math.sqrt(p * (1 - p) / total), training)


def _ages(watched: Watched, at: int) -> list[Measured]:
    about, as_of = watched.reference.about if watched.reference else None, watched.bundle.as_of
    known = {
        "model_age": about.model_until if about else as_of, "index_age": about.index_until if about else as_of,
        "features_age": about.features_until if about else as_of,
    }  # fmt: skip
    return [Measured(name, "", (at - until) / DAY_US) for name, until in known.items()]
