"""`longtail registry`: which bundle serves, which one did before, and changing that."""

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from longtail.cli.options import DEFAULT_REGISTRY, JsonOption, RegistryOption

if TYPE_CHECKING:
    from longtail.registry import Version

INDENT = "    "
app = typer.Typer(no_args_is_help=True, help="List versions of the recommender, promote one, roll back.")


@app.command("list")
def list_versions(registry: RegistryOption = DEFAULT_REGISTRY, as_json: JsonOption = False) -> None:
    """Show every version with its role, its deciding figure and its data, newest first."""
    from longtail.registry import Registry

    versions = Registry(registry).versions()
    if as_json:
        typer.echo(json.dumps([asdict(v) for v in versions], indent=2))
    elif versions:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        typer.echo("\n".join(listed(versions, width)))
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
    typer.echo(
        f"version {version.number} ({version.bundle_version}) is champion; servers take it at their next start, or now "
        f"by `longtail deploy {version.number}`"
    )


def listed(versions: "Sequence[Version]", width: int | None = None) -> list[str]:
    """A line for each version below a heading; on a terminal of this `width` its reason stands below, in two lines at
    most."""
    rows = [("version", "role", "figure", "bundle", "data")] + [
        (
            str(v.number),
            ", ".join(v.aliases) or "-",
            f"{v.metric} {v.value:.4f}",
            v.bundle_version,
            v.data_fingerprint[:8],
        )
        for v in versions
    ]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    heading, *heads = ("  ".join(cell.ljust(n) for cell, n in zip(row, wide, strict=True)) for row in rows)
    if width is None:
        return [f"{heading}  decided because", *(f"{h}  {_because(v)}" for h, v in zip(heads, versions, strict=True))]
    out = [heading.rstrip()]
    for head, v in zip(heads, versions, strict=True):
        more = f" ... `longtail registry show {v.number}`"
        out += [head.rstrip(), *textwrap.wrap(_because(v), width, initial_indent=INDENT, subsequent_indent=INDENT,
                                              max_lines=2, placeholder=more)]  # fmt: skip
    return out


def _because(version: "Version") -> str:
    learned = "" if version.unseen else " (the figure is of cases it learned from)"
    return " ".join(version.decision.split()) + learned
