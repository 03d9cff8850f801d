"""`longtail serve` and `longtail recommend`: start the servers on this machine, and ask them."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from longtail.cli.options import DEFAULT_REGISTRY, JsonOption, RegistryOption
from longtail.errors import InvalidInput, Unavailable

DEFAULT_URL = "http://127.0.0.1:8080"
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
