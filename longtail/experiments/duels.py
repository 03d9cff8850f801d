"""What came of a duel: whose items people clicked in the lists that two bundles drafted in turn."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from scipy import stats

from longtail.errors import InvalidInput
from longtail.experiments.analysis import BROKEN_BELOW, Range
from longtail.experiments.config import Experiment
from longtail.experiments.decision import Outcome
from longtail.experiments.interleaving import Duel, credit, judge
from longtail.experiments.log import MEMORY, PARTS, micros, scan, text
from longtail.experiments.report import finite, page, write
from longtail.schema import DAY_US

# Every event of a drafted list goes to the team that chose its item, and counts on the day and surface of the list.
CREDITED = """
WITH drafted AS (
    SELECT {unit}_id AS unit, request_id, surface, ({time} - {start}) // {day} AS day, unnest(items) AS item_id,
        unnest(team) AS team
    FROM {drafts} WHERE experiment = {name} AND {unit}_id IS NOT NULL AND {window}
)
SELECT dense_rank() OVER (ORDER BY unit) - 1 AS unit, team, day, drafted.surface AS surface
FROM drafted JOIN {events} AS told USING (request_id, item_id) WHERE event_type = {kind} AND {until}
"""
GLOSSARY = {
    "duel": "Two rankers make each list in turn, as captains choose teams, with a fair coin for who begins. Everybody "
    "sees both at once, so that far fewer people are needed than where each person sees one.",
    "lead": "The share of the clicks for one ranker's items less that for the other's: +4% is 52 of 100 against 48.",
    "interval": "Where the true lead lies, in 95 of 100 such duels at the usual setting (alpha 0.05).",
    "unit": "A person, or a session: whose clicks go together.",
}


@dataclass(frozen=True)
class DuelResult:
    """`duel` is between the `control` (A) and the `treatment` (B), None where it may not be read (`broken` says why).
    The treatment chose first in `first` of the `lists`, by a fair coin with the chance `coin_p`. `events` that went to
    each; `minimum_effect` is the lead that the treatment was to have; `daily` the lead of each day by itself, `parts`
    by surface."""

    name: str
    control: str
    treatment: str
    event: str
    minimum_effect: float
    alpha: float
    days: int
    planned_days: int
    complete: bool
    lists: int
    units: int
    first: int
    coin_p: float
    broken: str = ""
    duel: Duel | None = None
    events: tuple[int, int] = (0, 0)
    daily: list[Range] = field(default_factory=list)
    parts: list[tuple[str, Range]] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """Whether to ship."""
        if self.duel is None:
            return "broken"
        if not self.complete:
            return "wait"
        if self.duel.low > 0:
            return "ship"
        return "do not ship" if self.duel.high < self.minimum_effect else "unclear"

    @property
    def sentence(self) -> str:
        """Whether to ship, and why."""
        found = self.duel
        if found is None:
            return f"Do not read this duel: {self.broken}."
        share, low, high = ((1 + lead) / 2 for lead in (found.preference, found.low, found.high))
        told = (
            f"{share:.1%} of the {sum(self.events):,} {self.event}s in {self.lists:,} lists went to items that "
            f"{self.treatment} chose ({low:.1%} to {high:.1%}, half is a draw)"
        )
        if not any(self.events):
            told = f"not one {self.event} in {self.lists:,} lists"
        left = self.planned_days - self.days
        when = f"{left} days are left" if left > 1 else "it ends within a day"
        worse = (
            "it ranks worse" if found.high < 0 else f"any lead is below the {self.minimum_effect:.1%} it was to have"
        )
        start = {
            "ship": f"Ship {self.treatment}", "wait": f"Wait, {when}; so far", "do not ship": f"Do not ship, {worse}",
            "unclear": "Do not ship, no lead is proven, nor that there is none",
        }[self.outcome]  # fmt: skip
        return f"{start}: {told}."

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what is unknown is null."""
        return finite({"outcome": self.outcome, "sentence": self.sentence, **asdict(self)})


def analyse_duel(experiment: Experiment, folder: Path | str, now: int) -> DuelResult:
    """Judge an experiment of `kind: interleaving` by `drafts/` and `events/` of a state folder.

    `now` in microseconds since 1970; nothing after it is read. An event counts when it carries the request id of its
    list.

    Raises:
        InvalidInput: the folder holds no drafts of it, or no events, or a file cannot be read.
    """
    logs = {name: sorted((Path(folder) / name).glob(PARTS)) for name in ("drafts", "events")}
    for name, files in logs.items():
        if not files:
            raise InvalidInput(f"{folder} holds no {name}/{PARTS}: name the servers' state folder")
    drafts, events = (scan(files) for files in logs.values())
    dates = experiment.dates
    end = min(now, dates.end_us)
    time = micros("time")
    window = f"{time} >= {dates.start_us} AND {time} < {end}"
    given = {
        "unit": experiment.unit, "drafts": drafts, "events": events, "name": text(experiment.name), "window": window,
        "kind": text(experiment.metric.event), "until": f"{micros('told.timestamp')} < {end}", "start": dates.start_us,
        "day": DAY_US, "time": time,
    }  # fmt: skip
    with duckdb.connect() as con:
        con.execute(f"SET memory_limit = {text(MEMORY)}; SET enable_progress_bar = false")
        try:
            lists, units, first = con.execute(
                f"SELECT count(*), count(DISTINCT {experiment.unit}_id), count(*) FILTER (team[1] = 1) FROM {drafts} "
                f"WHERE experiment = {given['name']} AND {experiment.unit}_id IS NOT NULL AND {window}"
            ).fetchone() or (0, 0, 0)
            found = con.execute(CREDITED.format(**given)).fetchnumpy()
        except duckdb.Error as error:
            raise InvalidInput(f"{folder} cannot be read: {str(error).splitlines()[0]}") from error
    if not lists:
        raise InvalidInput(f"{folder} holds no lists that {experiment.name} drafted since {dates.start}")
    coin = float(stats.binomtest(first, lists).pvalue)
    treatment, days = experiment.treatments[0], math.ceil((end - dates.start_us) / DAY_US)
    about = (
        experiment.name, experiment.control, treatment, experiment.metric.event, experiment.minimum_effect,
        experiment.alpha, days, dates.days, now >= dates.end_us, lists, units, first, coin,
    )  # fmt: skip
    if coin < BROKEN_BELOW:
        why = f"{first:,} of {lists:,} lists began with {treatment}, chance {coin:.1g} of a fair coin"
        return DuelResult(*about, why)
    who, team = np.asarray(found["unit"], np.int64), np.asarray(found["team"], np.int64)
    day, surface = np.asarray(found["day"], np.int64), np.asarray(found["surface"], object)

    def of(mask: np.ndarray | slice) -> Range:
        duel = judge(credit(who[mask], team[mask], units), experiment.alpha)
        return Range(duel.preference, duel.low, duel.high) if duel.se else Range(math.nan, math.nan, math.nan)

    clicks = credit(who, team, units)
    total = clicks.sum(0).astype(int).tolist()
    return DuelResult(
        *about, "", judge(clicks, experiment.alpha), (total[0], total[1]), [of(day == d) for d in range(days)],
        [(name, of(surface == name)) for name in sorted(set(surface.tolist()))],
    )  # fmt: skip


def write_duel(result: DuelResult, folder: Path, facts: dict[str, str] | None = None) -> Path:
    """Write `experiment.json` and `experiment.html` into the folder, each whole or not at all; returns the page."""
    return write(folder, json.dumps(result.as_dict(), indent=2), render_duel(result, facts))


def render_duel(result: DuelResult, facts: dict[str, str] | None = None) -> str:
    """The page as HTML that needs no other file; `facts` stand under the title."""
    from longtail.experiments import plots

    rows, leads, daily = [], "", ""
    if result.duel is not None:
        names, of_units = (result.control, result.treatment), (result.duel.for_a, result.duel.for_b)
        rows = list(zip(names, result.events, of_units, strict=True))
        whole = Range(result.duel.preference, result.duel.low, result.duel.high)
        known = [(name, lead) for name, lead in result.parts if math.isfinite(lead.low)]
        label = f"lead of {result.treatment} in {result.event}s"
        leads = plots.leads_plot([("all lists", whole), *known], result.minimum_effect, label)
        daily = plots.over_days({"": list(enumerate(result.daily, start=1))}, "day of the duel", label, "daily")
    return page(
        "duel.html.j2", result=result, outcome=result.outcome, sentence=result.sentence, facts=facts or {},
        glossary=GLOSSARY, broken_below=BROKEN_BELOW, rows=rows, leads_plot=leads, daily_plot=daily,
    )  # fmt: skip
