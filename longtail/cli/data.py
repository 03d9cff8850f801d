"""`longtail import` and `longtail simulate`: raw events become an imported shop."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from longtail.cli.options import DEFAULT_KEY_FILE, JsonOption, KeyFileOption, SeedOption

OutOption = Annotated[Path, typer.Option(help="Folder of the shop; a shop that is already there is replaced.")]
MICROS = 1_000_000


def import_shop(
    reader: Annotated[
        str,
        typer.Argument(
            help="Form of the data: mapped (your own, by a mapping file), online-retail, amazon-5core, "
            "movielens-ordered, pairs, sessions, simulator, or collected (what the servers wrote).",
            show_default=False,
        ),
    ],
    source: Annotated[Path, typer.Argument(help="Folder or file to read.", show_default=False)],
    out: OutOption,
    mapping: Annotated[Path | None, typer.Option(help="YAML file that says what your columns mean.")] = None,
    items: Annotated[Path | None, typer.Option(help="Catalogue (Parquet) for the reader collected.")] = None,
    history: Annotated[
        Path | None, typer.Option(help="Imported shop that comes before what was collected; its catalogue, too.")
    ] = None,
    max_bad_share: Annotated[float, typer.Option(help="Stop when more than this share of the rows is bad.")] = 0.05,
    until: Annotated[str | None, typer.Option(help="Keep events before this day or time, such as 2024-03-01.")] = None,
    key_file: KeyFileOption = DEFAULT_KEY_FILE,
    as_json: JsonOption = False,
) -> None:
    """Read raw events, validate them, replace ids by pseudonyms and write an imported shop."""
    from longtail.cli.progress import shown
    from longtail.datasets.importing import import_shop as run

    before = micros(until)
    with shown() as progress:
        summary = run(
            reader, source, out, key_file=key_file, max_bad_share=max_bad_share, mapping=mapping, items=items,
            history=history, until=before, progress=progress,
        )  # fmt: skip
    _show(summary, out, as_json)


def simulate(
    out: OutOption,
    users: Annotated[int, typer.Option(help="People.")] = 5_000,
    items: Annotated[int, typer.Option(help="Items.")] = 2_000,
    days: Annotated[int, typer.Option(help="Days.")] = 120,
    events: Annotated[int, typer.Option(help="Events, met within a few per cent.")] = 1_000_000,
    seed: SeedOption = 7,
    key_file: KeyFileOption = DEFAULT_KEY_FILE,
    as_json: JsonOption = False,
) -> None:
    """Make a shop with known tastes and propensities; the truth lies in its folder `truth`, for tests only."""
    from longtail.cli.progress import shown
    from longtail.datasets.importing import simulate_shop
    from longtail.datasets.simulator import SimulatorConfig

    config = SimulatorConfig(users=users, items=items, days=days, events=events, seed=seed)
    with shown() as progress:
        summary = simulate_shop(out, config, key_file=key_file, progress=progress)
    _show(summary, out, as_json)


def micros(text: str | None) -> int | None:
    """A day or time that somebody typed, UTC unless it names a zone, as microseconds since 1970."""
    if text is None:
        return None
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no day or time: write it as 2024-03-01 or 2024-03-01T12:00") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * MICROS + moment.microsecond


def _show(summary: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    typer.echo(
        f"{summary['good']:,} events of {summary['users']:,} users and {summary['guests']:,} guests over "
        f"{summary['items']:,} items, {summary['first'][:10]} to {summary['last'][:10]}"
    )
    reasons = ", ".join(f"{reason}: {n:,}" for reason, n in summary["reasons"].items())
    left = [f"{summary['bad']:,} bad rows ({reasons})"] if summary["bad"] else []
    left += [f"{summary['duplicates']:,} repeated ones"] if summary["duplicates"] else []
    if left:
        typer.echo(f"left out {' and '.join(left)}")
    typer.echo(f"the shop is in {out}; next: longtail train {out}")
