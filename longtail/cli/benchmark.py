"""`longtail benchmark`: the product's own path on public protocols, and its servers under load."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from longtail.cli.training import replace_by
from longtail.errors import InvalidInput

app = typer.Typer(
    no_args_is_help=True,
    help="Train on a public data folder and write a list for each case (one command a protocol), "
    "or put the servers under load (`serving`).",
)
PROTOCOLS = {
    "repeat-week": "What people buy in the next week, bought before or not (purchases).",
    "new-week": "What people buy in the next week for the first time (purchases).",
    "last-item": "The last item of each person (ordered interactions).",
    "temporal": "What follows a moment that cuts the data in two (interactions with times).",
    "pairs": "Held-out items of each person (pairs without times).",
    "sessions": "The next item of a session (anonymous sessions).",
}


def _protocol(name: str, about: str) -> None:
    def command(
        folder: Annotated[Path, typer.Argument(help="Data folder in the form of the protocol.", show_default=False)],
        out: Annotated[Path, typer.Option(help="Parquet file for the lists: one row a case and rank.")],
    ) -> None:
        from longtail.benchmark import run

        typer.echo(json.dumps(run(name, folder, out), indent=2, default=str))

    command.__doc__ = f"{about}\n\nTrains on the training part of a data folder and writes a list for each case."
    app.command(name)(command)


for _name, _about in PROTOCOLS.items():
    _protocol(_name, _about)


@app.command()
def serving(
    items: Annotated[int, typer.Option(help="Items of the made-up shop.")] = 2_000_000,
    candidates: Annotated[int, typer.Option(help="Candidates that a request ranks.")] = 500,
    clients: Annotated[int, typer.Option(help="Clients of the run under load.")] = 16,
    bundle: Annotated[Path | None, typer.Option(help="Measure this bundle instead of a made-up one.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Start the servers and measure them, beside the raw compute inside a request in the same run."""
    if find_spec("benchmarks") is None:
        raise InvalidInput("the benchmark of the servers is part of the source tree: run it from a checkout")
    parameters = {"--items": items, "--candidates": candidates, "--clients": clients}
    named = {"--bundle": bundle, "--out": out}
    replace_by("benchmarks.serving", parameters | {name: path for name, path in named.items() if path is not None})
