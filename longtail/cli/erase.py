"""`longtail erase`: forget a person in the stores, logs and shops, and say what still knows them."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longtail.cli.options import DEFAULT_KEY_FILE, DEFAULT_REGISTRY, JsonOption, RegistryOption
from longtail.cli.serving import DEFAULT_STATE, StateOption
from longtail.errors import InvalidInput

if TYPE_CHECKING:
    from longtail.governance.erasure import Erased


def erase(
    user: Annotated[str, typer.Argument(help="The person's id as the shop knows it, or `pseudonym:` and 32 digits.")],
    state: StateOption = DEFAULT_STATE,
    shop: Annotated[list[Path] | None, typer.Option(help="Imported shop; repeat for more.")] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
    live: Annotated[str, typer.Option(help="Store of live events, where it is not the state folder's.")] = "",
    lists: Annotated[str, typer.Option(help="Store of lists that `longtail precompute` filled.")] = "",
    key_file: Annotated[
        Path, typer.Option(help="The key file of the import, which must exist; LONGTAIL_PSEUDONYM_KEY goes before it.")
    ] = DEFAULT_KEY_FILE,
    as_json: JsonOption = False,
) -> None:
    """Erase a person from live store, stored lists, people's store, sealed events, shown lists and imported shops.

    It is recorded by pseudonym only. Exit code 0 also where something still knows the person, or nothing did: it is
    said.
    """
    import os

    from longtail.governance.audit import AuditLog
    from longtail.governance.erasure import Erased, erase_shop, erase_state, held_by
    from longtail.identity import Pseudonymiser, load_key
    from longtail.identity.pseudonyms import KEY_VARIABLE

    if not user.strip():
        raise InvalidInput("the id is empty: name the person as the shop knows them")
    if not key_file.is_file() and not os.environ.get(KEY_VARIABLE):
        raise InvalidInput(f"{key_file} does not exist: name the key file of the import, or set {KEY_VARIABLE}")
    person = Pseudonymiser(load_key(key_file)).of(user)
    places = [str(p) for p in ([state] if state.is_dir() else []) + (shop or [])] + [u for u in (live, lists) if u]
    if not places:
        raise InvalidInput(f"{state} does not exist and no shop is named: there is nothing to erase from")
    log, erased = AuditLog.of(state), Erased()
    with log.recording("erasure", {"pseudonym": person, "places": places}) as entry:
        events = live or (f"sqlite://{(state / 'live.db').resolve()}" if (state / "live.db").is_file() else "")
        asyncio.run(_stores(events, lists, person, erased))
        if state.is_dir():
            erase_state(state, person, erased)
        for folder in shop or []:
            erase_shop(folder, person, erased)
        bundles = held_by(registry, person)
        for number, roles, bundle in bundles.holding:
            role = f" ({roles})" if roles else ""
            erased.left.append(
                f"version {number}{role} holds their history: train on the erased shop, deploy that, then remove "
                f"{bundle}"
            )
        erased.left += [f"version {number} was not looked into: {why}" for number, why in bundles.unseen]
        erased.left.append(
            "not looked at: folders of training runs (each keeps the shop that it read: remove it, or name it with "
            "--shop), topics of Kafka, backups"
        )
    log.append("erasure", {"of": entry.n, "pseudonym": person, "erased": erased.rows, "left": erased.left})
    found = any(erased.rows.values()) or bool(bundles.holding)
    if as_json:
        told = {"pseudonym": person, "found": found, "erased": erased.rows, "left": erased.left}
        typer.echo(json.dumps(told, indent=2))
        return
    if not found:
        key = KEY_VARIABLE if os.environ.get(KEY_VARIABLE) else key_file
        typer.echo(f"nothing of them was found: is this their id, and {key} the key of the import?")
    for place, rows in erased.rows.items():
        typer.echo(f"{place}: {rows} erased")
    for text in erased.left:
        typer.echo(f"left: {text}")


async def _stores(live: str, lists: str, person: str, erased: "Erased") -> None:
    if live:
        from longtail.features.live import open_live

        store = open_live(live, writer=True)
        try:
            erased.add("live store", int(await store.forget(person)))
        finally:
            await store.close()
    if lists:
        from longtail.engine.lists import open_lists

        kept = open_lists(lists)
        try:
            erased.add("stored lists", int(await kept.forget(person)))
        finally:
            await kept.close()
