"""`longtail experiment`: how long one must run, running it, and what came of it."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longtail.cli import experiment_running
from longtail.cli.data import micros
from longtail.cli.options import JsonOption

if TYPE_CHECKING:
    from longtail.experiments.config import Experiment
    from longtail.experiments.planning import Plan

app = typer.Typer(no_args_is_help=True, help="Plan an experiment from the shop's own log, run one, judge it.")
for _command in (experiment_running.start, experiment_running.ramp, experiment_running.status, experiment_running.stop):
    app.command()(_command)

FileArgument = Annotated[
    Path, typer.Argument(help="The experiment's YAML file, see docs/experiment.yaml.", show_default=False)
]
LogArgument = Annotated[
    Path,
    typer.Argument(help="State folder of the servers (impressions, events) or an imported shop.", show_default=False),
]


@app.command()
def plan(file: FileArgument, log: LogArgument, as_json: JsonOption = False) -> None:
    """Say how many units and days an experiment needs, counted from the log."""
    from longtail.experiments.config import Experiment
    from longtail.experiments.planning import plan as run

    experiment = Experiment.load(file)
    found = run(experiment, log)
    if as_json:
        typer.echo(json.dumps({"sentence": found.sentence, **asdict(found)}, indent=2))
    else:
        _show(found)


@app.command()
def analyse(
    file: FileArgument,
    log: LogArgument,
    out: Annotated[Path | None, typer.Option(help="Folder for experiment.html and experiment.json.")] = None,
    until: Annotated[str | None, typer.Option(help="Judge as of this day or time, such as 2024-03-01.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say in one sentence whether to ship, and why. Exit code 1: the experiment is broken and cannot be read."""
    from longtail.experiments.analysis import analyse as run
    from longtail.experiments.config import Experiment
    from longtail.experiments.decision import decide
    from longtail.experiments.report import to_json, write_report

    experiment, now = Experiment.load(file), micros(until) or int(time.time() * 1e6)
    if experiment.kind == "interleaving":
        _duel(experiment, log, now, out, as_json)
        return
    result = run(experiment, log, now)
    decision = decide(result)
    page = write_report(result, out, {"log": log.resolve().name}) if out else None
    typer.echo(to_json(result) if as_json else decision.sentence)
    if page and not as_json:
        typer.echo(f"the report is in {page}")
    if decision.outcome == "broken":
        raise typer.Exit(1)


def _duel(experiment: "Experiment", log: Path, now: int, out: Path | None, as_json: bool) -> None:
    from longtail.experiments.duels import analyse_duel, write_duel

    result = analyse_duel(experiment, log, now)
    page = write_duel(result, out, {"log": log.resolve().name}) if out else None
    typer.echo(json.dumps(result.as_dict(), indent=2) if as_json else result.sentence)
    if page and not as_json:
        typer.echo(f"the report is in {page}")
    if result.outcome == "broken":
        raise typer.Exit(1)


def _show(found: "Plan") -> None:
    from rich.console import Console
    from rich.table import Table

    duel = found.kind == "interleaving"
    table = Table("days", "units", found.metric, f"tells a {'lead' if duel else 'change'} of",
                  f"needed for {found.minimum_effect:.1%}", "power", *([] if duel else ["CUPED leaves"]))  # fmt: skip
    for o in found.outlooks:
        left = f"{(o.adjusted_sd / o.sd) ** 2:.0%}" if o.sd else "-"
        tells = f"{o.effect:.1%}" if o.effect < 100 else "-"
        table.add_row(f"{o.days}" if o.counted else f"{o.days} (carried on)", f"{o.units:,}", f"{o.value:,.4g}",
                      tells, f"{o.needed:,}", f"{o.chance:.0%}", *([] if duel else [left]))  # fmt: skip
    Console().print(table)
    typer.echo(found.sentence)
