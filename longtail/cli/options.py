"""Options that several commands share, spelled and explained once."""

from pathlib import Path
from typing import Annotated

import typer

RegistryOption = Annotated[
    str,
    typer.Option(
        "--registry",
        envvar="LONGTAIL_REGISTRY",
        help="Folder of the model registry, or the address of an MLflow server.",
        show_default=True,
    ),
]
DEFAULT_REGISTRY = "runs/mlflow"

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random: the same seed gives the same result.")]
ShopArgument = Annotated[
    Path, typer.Argument(help="Folder that `longtail import` or `longtail simulate` made.", show_default=False)
]
KeyFileOption = Annotated[
    Path,
    typer.Option(
        help="File with the key of the pseudonyms, made when absent; LONGTAIL_PSEUDONYM_KEY goes before it. "
        "Servers need the same key.",
    ),
]
DEFAULT_KEY_FILE = Path("runs/pseudonym.key")
