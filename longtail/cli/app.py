"""The commands of `longtail`, put together."""

from typing import Annotated

import typer
from typer.exceptions import TyperException

from longtail import __version__
from longtail.cli import (
    audit,
    benchmark,
    data,
    erase,
    experiment,
    monitoring,
    pipeline,
    playground,
    precompute,
    registry,
    retrain,
    serving,
    training,
)
from longtail.cli.terminal import INTERRUPTED, one_line_errors
from longtail.errors import InvalidInput

app = typer.Typer(
    name="longtail",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"longtail {__version__}")
        raise typer.Exit


@app.callback()
def longtail(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """A two-stage recommender: from raw events to served lists.

    The usual order: `import` (or `simulate`) a shop, `train` on it, `serve` the result, ask with `recommend`.
    """


app.command("import")(data.import_shop)
app.command()(data.simulate)
app.command()(training.train)
app.command()(training.evaluate)
app.command()(serving.serve)
app.command()(serving.deploy)
app.command()(serving.recommend)
app.command()(precompute.precompute)
app.command()(erase.erase)
app.command()(playground.playground)
app.command()(monitoring.monitor)
app.add_typer(registry.app, name="registry")
app.add_typer(retrain.app, name="retrain")
app.add_typer(experiment.app, name="experiment")
app.add_typer(audit.app, name="audit")
app.add_typer(pipeline.app, name="pipeline")
app.add_typer(benchmark.app, name="benchmark")


def main() -> None:
    """The entry point of the `longtail` script: exit code 2 and one line for a user's mistake."""
    with one_line_errors():
        try:
            code = app(prog_name="longtail", standalone_mode=False)
        except TyperException as error:
            raise InvalidInput(_in_one_line(error)) from None
        if code == INTERRUPTED:  # Typer has caught it, and says nothing
            raise KeyboardInterrupt
    raise SystemExit(code or 0)


def _in_one_line(error: TyperException) -> str:
    message = " ".join(error.format_message().split()) or "name a command"
    context = getattr(error, "ctx", None)
    return f"{message} (see `{context.command_path if context else 'longtail'} --help`)"
