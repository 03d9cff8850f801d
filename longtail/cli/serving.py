"""`longtail serve` and `longtail recommend`: start the servers on this machine, and ask them."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from longtail.cli.options import DEFAULT_KEY_FILE, DEFAULT_REGISTRY, JsonOption, KeyFileOption, RegistryOption
from longtail.cli.training import replace_by
from longtail.errors import InvalidInput, Unavailable

DEFAULT_URL = "http://127.0.0.1:8080"
KEY_VARIABLE = "LONGTAIL_PSEUDONYM_KEY"
PATH = "/v1/models/recommender:predict"


def recommend(
    user: Annotated[str, typer.Option(help="Id of the person as the shop knows it; leave it out for a guest.")] = "",
    k: Annotated[int, typer.Option(help="Items to return.")] = 10,
    surface: Annotated[str, typer.Option(help="Where the list is shown.")] = "homepage",
    click: Annotated[list[str] | None, typer.Option(help="Item clicked in this session; repeat for more.")] = None,
    region: Annotated[str, typer.Option(help="Region of the person.")] = "",
    url: Annotated[str, typer.Option(envvar="LONGTAIL_URL", help="Address of a running recommender.")] = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Ask a running recommender (see `longtail serve`) for a list."""
    context: dict[str, Any] = {"events": [{"item_id": item, "event_type": "click"} for item in click or []]}
    if region:
        context["region"] = region
    instance = {"surface": surface, "k": k, "context": context} | ({"user_id": user} if user else {})
    answer = ask(url, instance)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    for place, item in enumerate(answer["items"], 1):
        typer.echo(f"{place:>3}  {item['item_id']:<20} {item['score']:8.4f}  {item['source']:<14} {item['reason']}")
    cause = f" ({answer['cause']})" if answer.get("cause") else ""
    typer.echo(f"model {answer['model_version']}, variant {answer['variant']}, level {answer['level']}{cause}")


def ask(url: str, instance: dict[str, Any], timeout_s: float = 10.0) -> dict[str, Any]:
    """The recommendation for one instance of the protocol.

    Raises:
        InvalidInput: the recommender refuses the request; the message is its own.
        Unavailable: nothing answers there.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    body = json.dumps({"instances": [instance]}).encode()
    try:
        request = Request(url.rstrip("/") + PATH, body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=timeout_s) as response:
            return json.load(response)["predictions"][0]
    except HTTPError as error:
        raise InvalidInput(f"the recommender refused the request: {_detail(error.read())}") from None
    except (OSError, HTTPException, ValueError, KeyError, IndexError) as error:
        reason = getattr(error, "reason", None) or error
        raise Unavailable(f"nothing answers at {url} ({reason}): run `longtail serve`, or name --url") from None


def _detail(body: bytes) -> str:
    try:
        found = json.loads(body)
    except ValueError:
        return body.decode(errors="replace").strip()[:200]
    return str(found.get("error") or found.get("detail") or found) if isinstance(found, dict) else str(found)


def serve(
    version: Annotated[
        str, typer.Argument(help="Alias or number in the registry, or the folder of a bundle.")
    ] = "champion",
    registry: RegistryOption = DEFAULT_REGISTRY,
    port: Annotated[int, typer.Option(help="Port on loopback where recommendations are asked for.")] = 8080,
    state: Annotated[Path, typer.Option(help="Folder for logs and online stores.")] = Path("runs/serving"),
    key_file: KeyFileOption = DEFAULT_KEY_FILE,
    clock: Annotated[
        str, typer.Option(help="wall, or data: go on from where the bundle's data ends, for shops of the past.")
    ] = "wall",
) -> None:
    """Run retriever, ranker and recommender on loopback until Ctrl-C.

    It is ready when it says so: a real recommendation came through.
    """
    if clock not in ("wall", "data"):
        raise typer.BadParameter(f"--clock {clock}: choose wall or data")
    parameters = {"--bundle": bundle_of(version, registry), "--state": state, "--port": port, "--clock": clock}
    if key_file.is_file() or os.environ.get(KEY_VARIABLE):
        parameters["--pseudonym-key"] = key_file
    else:
        typer.echo(f"no pseudonym key in {key_file}: ids in requests are taken to be pseudonyms", err=True)
    # longtail never imports the servers: this process becomes the one that runs them.
    replace_by("serving.serve", parameters)


def bundle_of(version: str, registry: str) -> Path:
    """The folder of a bundle, named by its path or by alias or number in the registry."""
    if (Path(version) / "manifest.json").is_file():
        return Path(version)
    from longtail.registry import Registry

    return Registry(registry).resolve(version)
