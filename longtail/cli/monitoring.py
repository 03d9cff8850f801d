"""`longtail monitor`: look at a day, or at days of the past, and say whether anything needs attention."""

import json
import time
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from longtail.cli.options import DEFAULT_REGISTRY, JsonOption, RegistryOption
from longtail.cli.serving import bundle_of

LogArgument = Annotated[
    Path,
    typer.Argument(help="State folder of the servers (impressions, events) or an imported shop.", show_default=False),
]


def monitor(
    log: LogArgument,
    registry: RegistryOption = DEFAULT_REGISTRY,
    bundle: Annotated[str, typer.Option(help="What served: a bundle's folder, or its version.")] = "champion",
    day: Annotated[
        str | None, typer.Option(help="Day to check, such as 2024-03-01; otherwise yesterday (UTC).")
    ] = None,
    first: Annotated[str | None, typer.Option(help="Check every day of the log from this one on.")] = None,
    last: Annotated[str | None, typer.Option(help="Check every day of the log up to this one.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with other thresholds, see docs/monitoring.md.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for history.db, report.html, report.json and monitor.prom.")] = Path(
        "runs/monitoring"
    ),
    as_json: JsonOption = False,
) -> None:
    """Check what was served and what people did, against the bundle's training and the days before.

    Run it once a day: each day is remembered in `history.db`, which tells what is usual. Exit code 1: something
    critical fired on the newest day that was checked.
    """
    from longtail.cli.progress import shown
    from longtail.monitoring.config import Watch
    from longtail.monitoring.log import days_between, days_in, too_early, yesterday
    from longtail.monitoring.report import as_json as told
    from longtail.monitoring.report import sentence
    from longtail.monitoring.run import monitor as run

    watch = Watch.load(config)
    now = int(time.time() * 1e6)
    if first or last:
        if day:
            raise typer.BadParameter("name either --day, or --first and --last")
        oldest, newest = days_in(log)
        days = days_between(max(_day(first) or oldest, oldest), _day(last) or newest)
        if not days:
            raise typer.BadParameter("there is no such day: --first lies behind --last, or behind the end of the log")
    else:
        days = [_day(day) or yesterday()]
        if day is None and (early := too_early(log, days[0])):  # servers that began today: nobody is to be called
            typer.echo(json.dumps({"sentence": early, "signals": []}, indent=1) if as_json else early)
            return
    folder = bundle_of(bundle, registry)
    with shown() as progress:
        found = run(log, folder, out, days, watch, now, progress)
    newest_day = [s for s in found if s.day == days[-1]]
    if as_json:
        typer.echo(json.dumps({"sentence": sentence(newest_day), "signals": [told(s) for s in found]}, indent=1))
    else:
        typer.echo(f"{days[-1]}: {sentence(newest_day)}")
        typer.echo(f"the report is in {out / 'report.html'}")
    if any(s.fired and s.severity == "critical" for s in newest_day):
        raise typer.Exit(1)


def _day(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no day: write it as 2024-03-01") from None
