"""`longtail playground`: a page to look at lists, click, and see why they change."""

from pathlib import Path
from typing import Annotated

import typer

from longtail.cli.options import DEFAULT_REGISTRY, RegistryOption
from longtail.cli.serving import DEFAULT_URL
from longtail.cli.training import replace_by


def playground(
    version: Annotated[
        str, typer.Argument(help="Alias or number in the registry of the bundle that names items and people.")
    ] = "champion",
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle, instead of one from the registry.")] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
    url: Annotated[str, typer.Option(envvar="LONGTAIL_URL", help="Address of a running recommender.")] = DEFAULT_URL,
    collector: Annotated[
        str, typer.Option(help="Address of a running collector that takes the clicks; without one the page keeps them.")
    ] = "",
    port: Annotated[int, typer.Option(help="Port on loopback where the page is.")] = 8090,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve a page on loopback: be somebody known or new, see the list, click, see the next one change, and why."""
    words = {"--bundle": bundle or bundle_of(version, registry), "--url": url, "--port": port}
    words |= {"--collector": collector} if collector else {}
    words |= {"--open": "yes"} if open_page else {}
    # longtail never imports the servers: this process becomes the one that serves the page.
    replace_by("serving.playground", words)


def bundle_of(version: str, registry: str) -> Path:
    """The folder of a bundle by its alias or number in the registry.

    Raises:
        InvalidInput: the registry has no such version.
    """
    from longtail.registry import Registry

    return Registry(registry).resolve(version)
