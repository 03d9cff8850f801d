"""`longtail precompute`: lists for everybody before they ask, such as those of an e-mail."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longtail.cli.options import DEFAULT_KEY_FILE, DEFAULT_REGISTRY, KeyFileOption, RegistryOption
from longtail.cli.serving import KEY_VARIABLE, bundle_of
from longtail.errors import InvalidInput

if TYPE_CHECKING:
    from longtail.engine.precompute import Precomputed


def precompute(
    version: Annotated[
        str, typer.Argument(help="Alias or number in the registry, or the folder of a bundle.")
    ] = "champion",
    surface: Annotated[
        list[str] | None, typer.Option(help="Surface to make lists for; repeat for more. Default: `made: precomputed`.")
    ] = None,
    users: Annotated[
        Path | None, typer.Option(help="File of user ids, one a line, as the shop knows them. Default: everybody.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for one Parquet file a surface.")] = Path("runs/lists"),
    lists: Annotated[
        str, typer.Option(help="Store that the servers read: sqlite:///absolute/path/lists.db, redis://..., or none.")
    ] = "",
    live: Annotated[str, typer.Option(help="Store of live events to take along: sqlite:///... or redis://...")] = "",
    surfaces: Annotated[
        Path | None, typer.Option(help="Surfaces file, where the servers run with another than the bundle's.")
    ] = None,
    state: Annotated[Path, typer.Option(help="State folder of the servers, with their online stores.")] = Path(
        "runs/serving"
    ),
    k: Annotated[int | None, typer.Option(min=1, max=500, help="Places of a list. Default: the surface's.")] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Candidates ranked for each list, as in the servers.")] = 500,
    clock: Annotated[str, typer.Option(help="wall, or data: where the bundle's data ends.")] = "wall",
    chunk: Annotated[int, typer.Option(min=1, help="People whose lists are made at once: bounds memory.")] = 128,
    key_file: KeyFileOption = DEFAULT_KEY_FILE,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Make lists for all people of a bundle, by the engine that answers requests, into Parquet and the list store."""
    from longtail.cli.progress import shown
    from longtail.engine.lists import open_lists
    from longtail.engine.online import StoredPeople, lay_out
    from longtail.engine.parts import Bundle
    from longtail.engine.precompute import engine_of, everybody, local_hops, surfaces_to_make
    from longtail.engine.precompute import precompute as write
    from longtail.features.live import open_live
    from longtail.surfaces import Surfaces

    if clock not in ("wall", "data"):
        raise typer.BadParameter(f"--clock {clock}: choose wall or data")
    asked = None if users is None else pseudonyms(users, key_file)
    store = None if lists == "none" else open_lists(lists or f"sqlite://{state.resolve()}/lists.db")
    bundle = Bundle.open(bundle_of(version, registry))
    bound = bundle.surfaces if surfaces is None else Surfaces.load(surfaces).bind(bundle.catalogue, bundle.sources)
    chosen = surfaces_to_make(bound, surface or [])
    now = time.time_ns() // 1000 if clock == "wall" else bundle.as_of

    async def run() -> list[Precomputed]:
        done = []
        seen = open_live(live) if live else None
        with shown() as progress:
            progress("user features", 0, 0)
            people = StoredPeople(bundle, lay_out(bundle, state), live=seen)
            engine = engine_of(bundle, people, local_hops(bundle), now, candidates, bound, chunk)
            for one in chosen:
                total, ids = everybody(bundle.folder) if asked is None else (len(asked), iter(asked))
                label = f"lists for {one.name}"
                progress(label, 0, total)
                done.append(await write(engine, one, ids, out, store, k, lambda n: progress(label, n, total)))  # noqa: B023
        for opened in (store, seen):
            if opened is not None:
                await opened.close()
        return done

    start = time.monotonic()
    for made in asyncio.run(run()):
        without = f", {made.without:,} people without one" if made.without else ""
        typer.echo(f"{made.surface}: {made.lists:,} lists in {made.path}{without}")
    typer.echo(f"{time.monotonic() - start:.1f} s")


def pseudonyms(users: Path, key_file: Path) -> list[str]:
    """The stored ids of a file of user ids, each once.

    Raises:
        InvalidInput: the file cannot be read, or holds no id.
    """
    from longtail.identity import Pseudonymiser, load_key

    try:
        lines = users.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{users} cannot be read: {error}") from None
    ids = dict.fromkeys(line.strip() for line in lines if line.strip())
    if not ids:
        raise InvalidInput(f"{users} names nobody: write one user id a line")
    if key_file.is_file() or os.environ.get(KEY_VARIABLE):
        pseudonym = Pseudonymiser(load_key(key_file)).of
        return [pseudonym(user) for user in ids]
    typer.echo(f"no pseudonym key in {key_file}: the ids of {users} are taken to be pseudonyms", err=True)
    return list(ids)
