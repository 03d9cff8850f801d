"""`longtail retrain`: one pass from what monitoring said to a training run, and what came of earlier ones."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from longtail.cli.options import JsonOption
from longtail.errors import InvalidInput

app = typer.Typer(help="Retrain when monitoring asks for it; see what came of it.")

LedgerOption = Annotated[Path, typer.Option(help="Ledger of the runs, a SQLite file.")]
DEFAULT_LEDGER = Path("runs/retrain/ledger.db")


@app.callback(invoke_without_command=True)
def retrain(
    context: typer.Context,
    policy: Annotated[Path | None, typer.Option(help="YAML policy file, see docs/retraining.md.")] = None,
    monitoring: Annotated[Path, typer.Option(help="Folder of `longtail monitor`.")] = Path("runs/monitoring"),
    ledger: LedgerOption = DEFAULT_LEDGER,
) -> None:
    """Read what was checked, decide, and see one run to its end; then end. Made to be called again and again.

    Exit code 0: nothing to do, or what was done went well; 1: the run failed.
    """
    if context.invoked_subcommand is not None:
        return
    if policy is None:
        raise InvalidInput("name the policy file: longtail retrain --policy retraining.yaml")
    from longtail.cli.terminal import ending_on_signals
    from longtail.retraining.ledger import Ledger
    from longtail.retraining.passing import one_pass
    from longtail.retraining.policy import Policy

    rules = Policy.load(policy)
    with ending_on_signals():
        done = one_pass(rules, monitoring / "history.db", Ledger(ledger), typer.echo)
    if done is not None and done.state in ("failed", "lost"):
        raise typer.Exit(1)


@app.command()
def status(ledger: LedgerOption = DEFAULT_LEDGER, as_json: JsonOption = False) -> None:
    """Show why each run started, or did not, and what came of it, newest first."""
    from longtail.retraining.ledger import Ledger

    if not ledger.is_file():
        raise InvalidInput(f"{ledger} does not exist: nothing was decided yet, run `longtail retrain` first")
    found = Ledger(ledger)
    runs = found.runs()
    if as_json:
        rows = [asdict(run) | {"steps": found.steps(run.id)} for run in runs]
        typer.echo(json.dumps(rows, indent=2))
        return
    for run in runs:
        when = datetime.fromtimestamp(run.decided_at, UTC).strftime("%Y-%m-%d %H:%M")
        often = f", {run.seen} times" if run.seen > 1 else ""
        typer.echo(f"{run.id:>4}  {when}  {run.action:<11} {run.state}{often}: {run.reason}")
        if run.outcome:
            cost = f" ({run.cpu_s:.0f} s CPU)" if run.cpu_s else ""
            typer.echo(f"      {run.outcome}{cost}")
    if not runs:
        typer.echo("nothing was decided yet")
