"""`longtail audit`: who promoted, rolled back, deployed, changed or erased what, and whether that record is whole."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longtail.cli.options import DEFAULT_REGISTRY, JsonOption, RegistryOption
from longtail.cli.serving import DEFAULT_STATE, StateOption
from longtail.errors import InvalidInput

if TYPE_CHECKING:
    from longtail.governance.audit import AuditLog

app = typer.Typer(no_args_is_help=True, help="Show and verify the record of decisions.")

LogsArgument = Annotated[
    list[Path] | None, typer.Argument(help="Audit logs; by default those of the registry and of the servers.")
]


@app.command("list")
def list_entries(
    logs: LogsArgument = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
    state: StateOption = DEFAULT_STATE,
    action: Annotated[str, typer.Option(help="Only entries of this kind, such as promotion.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Show every entry, oldest first; a broken chain ends it with exit code 1."""
    from longtail.governance.audit import ACTIONS

    if action and action not in ACTIONS:
        raise InvalidInput(f"no action {action!r}: choose one of {', '.join(ACTIONS)}")
    entries = [entry for log in _logs(logs, registry, state) for entry in log.entries()]
    entries = sorted((e for e in entries if action in ("", e.action)), key=lambda e: e.time)
    if as_json:
        typer.echo(json.dumps([asdict(e) for e in entries], indent=2))
        return
    for e in entries:
        about = ", ".join(f"{name} {value}" for name, value in e.about.items() if value not in (None, "", [], {}))
        typer.echo(f"{e.time[:19]}  {e.action:<16} {e.who:<12} {about}")
    if not entries:
        typer.echo("nothing was recorded")


@app.command()
def verify(
    logs: LogsArgument = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
    state: StateOption = DEFAULT_STATE,
    head: Annotated[
        str, typer.Option(help="Hash that an earlier verify told: it must still be there, else the end was cut off.")
    ] = "",
) -> None:
    """Check that no entry was altered, removed or inserted; names the first broken one and exits with 1."""
    chosen = _logs(logs, registry, state)
    if head and len(chosen) != 1:
        raise InvalidInput(f"--head is of one log and there are {len(chosen)}: name the log")
    for log in chosen:
        last = log.verify(head)
        typer.echo(f"{log.path}: {last.n} entries, whole; head {last.hash}" if last else f"{log.path}: empty")


def _logs(given: list[Path] | None, registry: str, state: Path) -> "list[AuditLog]":
    from longtail.governance.audit import VARIABLE, AuditLog

    if given:
        if missing := next((path for path in given if not path.is_file()), None):
            raise InvalidInput(f"{missing} does not exist: name an audit log")
        return [AuditLog(path) for path in given]
    found = {log.path: log for log in (AuditLog.of(registry), AuditLog.of(state))}
    present = [log for path, log in found.items() if path.is_file()]
    if not present and os.environ.get(VARIABLE):
        raise InvalidInput(f"{os.environ[VARIABLE]} does not exist: {VARIABLE} names no audit log")
    if not present:
        raise InvalidInput(f"nothing was recorded in {', '.join(map(str, found))}: name an audit log")
    return present
