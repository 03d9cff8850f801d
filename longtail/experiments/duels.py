"""What came of a duel: whose items people clicked in the lists that two bundles drafted in turn."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from scipy import stats

from longtail.errors import InvalidInput
from longtail.experiments.analysis import BROKEN_BELOW
from longtail.experiments.config import Experiment
from longtail.experiments.interleaving import Duel, credit, judge
from longtail.experiments.log import MEMORY, PARTS, scan, text

# Every event of a drafted list goes to the team that chose its item.
CREDITED = """
WITH drafted AS (
    SELECT {unit}_id AS unit, request_id, unnest(items) AS item_id, unnest(team) AS team FROM {drafts}
    WHERE experiment = {name} AND {unit}_id IS NOT NULL AND {window}
)
SELECT dense_rank() OVER (ORDER BY unit) - 1, team
FROM drafted JOIN {events} AS told USING (request_id, item_id) WHERE event_type = {kind} AND {until}
"""


@dataclass(frozen=True)
class DuelResult:
    """`duel` is between the `control` (A) and the `treatment` (B), None where it may not be read (`broken` says why).
    The treatment chose first in `first` of the `lists`, by a fair coin with the chance `coin_p`."""

    name: str
    control: str
    treatment: str
    event: str
    days: int
    planned_days: int
    complete: bool
    lists: int
    units: int
    first: int
    coin_p: float
    broken: str = ""
    duel: Duel | None = None

    @property
    def outcome(self) -> str:
        """prefer, keep, wait, unclear or broken."""
        if self.duel is None:
            return "broken"
        if not self.complete:
            return "wait"
        return "prefer" if self.duel.low > 0 else "keep" if self.duel.high < 0 else "unclear"

    @property
    def sentence(self) -> str:
        """What to do, and why."""
        found = self.duel
        if found is None:
            return f"Do not read this duel: {self.broken}."
        told = (
            f"of the {self.event}s in {self.lists:,} lists of {self.units:,} units, {self.treatment} got "
            f"{found.preference:+.1%} more than {self.control} ({found.low:+.1%} to {found.high:+.1%})"
        )
        start = {
            "wait": f"Wait: {self.planned_days - self.days} days are left; so far",
            "prefer": f"{self.treatment} ranks better:", "keep": f"{self.control} ranks better:",
            "unclear": "Neither is proven to rank better:",
        }[self.outcome]  # fmt: skip
        return f"{start} {told}."

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"outcome": self.outcome, "sentence": self.sentence, **asdict(self)}


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
    window = f"epoch_us(time) >= {dates.start_us} AND epoch_us(time) < {end}"
    given = {
        "unit": experiment.unit, "drafts": drafts, "events": events, "name": text(experiment.name), "window": window,
        "kind": text(experiment.metric.event), "until": f"epoch_us(told.timestamp) < {end}",
    }  # fmt: skip
    with duckdb.connect() as con:
        con.execute(f"SET memory_limit = {text(MEMORY)}; SET enable_progress_bar = false")
        try:
            lists, units, first = con.execute(
                f"SELECT count(*), count(DISTINCT {experiment.unit}_id), count(*) FILTER (team[1] = 1) FROM {drafts} "
                f"WHERE experiment = {given['name']} AND {experiment.unit}_id IS NOT NULL AND {window}"
            ).fetchone() or (0, 0, 0)
            columns = con.execute(CREDITED.format(**given)).fetchnumpy()
        except duckdb.Error as error:
            raise InvalidInput(f"{folder} cannot be read: {str(error).splitlines()[0]}") from error
    if not lists:
        raise InvalidInput(f"{folder} holds no lists that {experiment.name} drafted since {dates.start}")
    who, team = (np.asarray(column) for column in columns.values())
    coin = float(stats.binomtest(first, lists).pvalue)
    broken = ""
    if coin < BROKEN_BELOW:
        broken = f"{first:,} of {lists:,} lists began with {experiment.treatments[0]}, chance {coin:.1g} of a fair coin"
    duel = None if broken else judge(credit(who, team, units), experiment.alpha)
    days = math.ceil((end - dates.start_us) / 86_400_000_000)
    return DuelResult(
        experiment.name, experiment.control, experiment.treatments[0], experiment.metric.event, days, dates.days,
        now >= dates.end_us, lists, units, first, coin, broken, duel,
    )  # fmt: skip


def write_duel(result: DuelResult, folder: Path) -> Path:
    """Write `experiment.json` into the folder, whole or not at all; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    beside, out = folder / f".experiment.json.{os.getpid()}", folder / "experiment.json"
    beside.write_text(json.dumps(result.as_dict(), indent=2), encoding="utf-8")
    os.replace(beside, out)
    return out
