"""`longtail benchmark`: the product's own path on a public protocol, one list for each case."""

import json
from pathlib import Path
from typing import Annotated

import typer


def benchmark(
    protocol: Annotated[
        str, typer.Argument(help="repeat-week, new-week, last-item, temporal, pairs or sessions.", show_default=False)
    ],
    folder: Annotated[Path, typer.Argument(help="Data folder in the form of the protocol.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Parquet file for the lists: one row a case and rank.")],
) -> None:
    """Train on the training part of a data folder and write a list for each case, ready to be scored."""
    from longtail.benchmark import run

    typer.echo(json.dumps(run(protocol, folder, out), indent=2, default=str))
