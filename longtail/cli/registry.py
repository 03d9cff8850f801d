"""`longtail registry`: which bundle serves, which one did before, and changing that."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from longtail.cli.options import DEFAULT_REGISTRY, JsonOption, RegistryOption

if TYPE_CHECKING:
    from longtail.registry import Version

app = typer.Typer(no_args_is_help=True, help="List versions of the recommender, promote one, roll back.")


@app.command("list")
def list_versions(registry: RegistryOption = DEFAULT_REGISTRY, as_json: JsonOption = False) -> None:
    """Show every version with its role, its deciding figure and its data, newest first."""
    from longtail.registry import Registry

    versions = Registry(registry).versions()
    if as_json:
        typer.echo(json.dumps([asdict(v) for v in versions], indent=2))
    elif versions:
        _show(versions)
    else:
        typer.echo("no versions yet: run `longtail train` first")


@app.command()
def show(
    version: Annotated[str, typer.Argument(help="Number or alias of the version.")] = "champion",
    registry: RegistryOption = DEFAULT_REGISTRY,
    as_json: JsonOption = False,
) -> None:
    """Show one version: its role, its figures, and everything that the gate looked at."""
    from longtail.registry import Registry

    found = Registry(registry).get(version)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
        return
    made = datetime.fromtimestamp(found.created / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    typer.echo(f"version {found.number} ({found.bundle_version}), made {made}, data {found.data_fingerprint}")
    typer.echo(f"role: {', '.join(found.aliases) or 'none'}")
    typer.echo(f"decision: {found.decision}")
    for check in found.checks:
        typer.echo(f"  {'passed' if check['passed'] else 'FAILED':<7} {check['check']}: {check['reason']}")
    for name, value in found.figures.items():
        typer.echo(f"{name:<28} {value:.4f}")


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="Number, alias or bundle version, such as 3 or challenger.")],
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Make a version champion, whatever its figures."""
    from longtail.registry import Registry

    _announce(Registry(registry).promote(version))


@app.command()
def rollback(registry: RegistryOption = DEFAULT_REGISTRY) -> None:
    """Make the previous champion champion again."""
    from longtail.registry import Registry

    _announce(Registry(registry).rollback())


@app.command()
def path(
    version: Annotated[str, typer.Argument(help="Number or alias of the version.")] = "champion",
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Print the folder of a version's bundle."""
    from longtail.registry import Registry

    typer.echo(Registry(registry).resolve(version))


def _announce(version: "Version") -> None:
    typer.echo(f"version {version.number} ({version.bundle_version}) is champion; servers take it at their next start")


def _show(versions: "list[Version]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("version", "bundle", "role", "figure", "made", "data", "decided because")
    for v in versions:
        made = datetime.fromtimestamp(v.created / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        role = ", ".join(v.aliases)
        figure = f"{v.metric} {v.value:.4f}" + ("" if v.unseen else " (of cases it learned from)")
        table.add_row(str(v.number), v.bundle_version, role, figure, made, v.data_fingerprint[:8], v.decision)
    Console().print(table)
