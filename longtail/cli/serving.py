"""`longtail serve`, `deploy` and `recommend`: start the servers on this machine, change what they serve, ask them."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longtail.cli.options import DEFAULT_KEY_FILE, DEFAULT_REGISTRY, JsonOption, KeyFileOption, RegistryOption
from longtail.cli.training import replace_by
from longtail.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from longtail.engine.deployment import Deployment

DEFAULT_URL = "http://127.0.0.1:8080"
KEY_VARIABLE = "LONGTAIL_PSEUDONYM_KEY"
PATH = "/v1/models/recommender:predict"
DEFAULT_STATE = Path("runs/serving")

VersionArgument = Annotated[str, typer.Argument(help="Alias or number in the registry, or the folder of a bundle.")]
ChallengerOption = Annotated[str, typer.Option(help="A second version beside it, named in the same ways.")]
ShareOption = Annotated[float, typer.Option(min=0, max=1, help="Share of the people that the challenger answers.")]
StateOption = Annotated[Path, typer.Option(help="Folder for logs, events, shown lists and online stores.")]
AnywayOption = Annotated[bool, typer.Option("--anyway", help="Also a version that the gate holds back.")]
UrlOption = Annotated[str, typer.Option(envvar="LONGTAIL_URL", help="Address of a running recommender.")]


def recommend(
    user: Annotated[str, typer.Option(help="Id of the person as the shop knows it; leave it out for a guest.")] = "",
    k: Annotated[int, typer.Option(help="Items to return.")] = 10,
    surface: Annotated[str, typer.Option(help="Where the list is shown.")] = "homepage",
    click: Annotated[list[str] | None, typer.Option(help="Item clicked in this session; repeat for more.")] = None,
    region: Annotated[str, typer.Option(help="Region of the person.")] = "",
    url: UrlOption = DEFAULT_URL,
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
    version: VersionArgument = "champion",
    challenger: ChallengerOption = "",
    share: ShareOption = 0.1,
    registry: RegistryOption = DEFAULT_REGISTRY,
    port: Annotated[int, typer.Option(help="Port on loopback where recommendations are asked for.")] = 8080,
    events_port: Annotated[int, typer.Option(help="Port on loopback where the collector takes events.")] = 8082,
    state: StateOption = DEFAULT_STATE,
    surfaces: Annotated[Path | None, typer.Option(help="YAML of surfaces, followed. Default: the bundle's.")] = None,
    live: Annotated[str, typer.Option(help="Store of live events that another collector fills: none is started.")] = "",
    lists: Annotated[str, typer.Option(help="Store of lists that `longtail precompute` filled.")] = "",
    guard: Annotated[Path | None, typer.Option(help="YAML: API keys, rate and size limits. Default: open.")] = None,
    impression_features: Annotated[
        str, typer.Option(help="Whose features are logged: none, shown, or candidates, which off-policy checks need.")
    ] = "shown",
    key_file: KeyFileOption = DEFAULT_KEY_FILE,
    clock: Annotated[
        str, typer.Option(help="wall, or data: go on from where the bundle's data ends, for shops of the past.")
    ] = "wall",
    anyway: AnywayOption = False,
) -> None:
    """Run retriever, ranker, recommender and collector on loopback until Ctrl-C.

    It is ready when it says so: a real recommendation came through. `longtail deploy` puts another version in its
    place while it serves.
    """
    if clock not in ("wall", "data"):
        raise typer.BadParameter(f"--clock {clock}: choose wall or data")
    if impression_features not in ("none", "shown", "candidates"):
        raise typer.BadParameter(f"--impression-features {impression_features}: choose none, shown or candidates")
    parameters: dict[str, Any] = {
        "--bundle": traffic_of(version, registry, anyway), "--state": state, "--port": port, "--clock": clock,
        "--impression_features": impression_features,
    }  # fmt: skip
    if challenger:
        parameters |= {"--challenger": traffic_of(challenger, registry, anyway), "--share": share}
    given = {"--surfaces": surfaces, "--lists": lists, "--guard": guard, "--live": live}
    parameters |= {flag: value for flag, value in given.items() if value}
    if key_file.is_file() or os.environ.get(KEY_VARIABLE):
        parameters["--pseudonym-key"] = key_file
        if not live:
            parameters["--events-port"] = events_port
    else:
        typer.echo(f"no pseudonym key in {key_file}: ids in requests are taken to be pseudonyms", err=True)
        typer.echo("and no collector is started: it would have to make up a key", err=True)
    with recorded(state, registry, {"champion": version, "challenger": challenger}, share=share if challenger else 0):
        pass
    # longtail never imports the servers: this process becomes the one that runs them.
    replace_by("serving.serve", parameters)


def deploy(
    version: VersionArgument = "champion",
    challenger: ChallengerOption = "",
    share: ShareOption = 0.1,
    registry: RegistryOption = DEFAULT_REGISTRY,
    state: StateOption = DEFAULT_STATE,
    url: UrlOption = DEFAULT_URL,
    anyway: AnywayOption = False,
    timeout_s: Annotated[float, typer.Option(help="Seconds to wait until it serves or is refused.")] = 180.0,
) -> None:
    """Put another version in front of people while `longtail serve` runs, without a failed request.

    It takes over when it has given a full recommendation; one that is not sound is refused, and what served goes on.
    """
    from longtail.engine.bundle import verify
    from longtail.engine.deployment import DEPLOYMENT, Deployment

    file = state / DEPLOYMENT
    if not file.is_file():
        raise InvalidInput(f"{file} does not exist: name the --state folder of a running `longtail serve`")
    before, served = status(url), Deployment.load(file)
    deployment = Deployment.of(
        traffic_of(version, registry, anyway),
        traffic_of(challenger, registry, anyway) if challenger else None,
        share,
    ).beside(served)
    wanted = {name: verify(variant.bundle).version for name, variant in deployment.variants.items()}
    with recorded(state, registry, {"champion": version, "challenger": challenger}, share=share if challenger else 0):
        with putting_back(deployment.replace(file, served), file, served):
            now = taken_over(url, lambda now: _versions(now) == wanted, before, timeout_s, state)
        for name, variant in now["variants"].items():
            typer.echo(f"{name} serves {variant['version']} to {variant['share']:.0%} of the people")


def _versions(now: dict[str, Any]) -> dict[str, str]:
    return {name: variant["version"] for name, variant in now["variants"].items()}


@contextmanager
def putting_back(new: "Deployment", file: Path, before: "Deployment") -> Iterator[None]:
    """Whatever goes wrong, the file says what it said `before` again, unless somebody else wrote it since `new`."""
    try:
        yield
    except BaseException:
        with suppress(InvalidInput):
            before.replace(file, new)
        raise


def taken_over(
    url: str, wanted: Callable[[dict[str, Any]], bool], before: dict[str, Any], timeout_s: float, state: Path
) -> dict[str, Any]:
    """The `status` of servers that were given another deployment, once it is as `wanted`.

    `before` is their status without it, `state` the folder of their logs.

    Raises:
        InvalidInput: they refuse it.
        Unavailable: nothing answers there, or not in that time.
    """
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        now = status(url)
        if wanted(now):
            return now
        if now["refused"] and now["refused"] != before["refused"]:
            raise InvalidInput(f"refused, what served goes on: {now['refused']['why']}")
        time.sleep(0.2)
    raise Unavailable(f"not taken over within {timeout_s:g} s, what served goes on: see the logs in {state}")


def status(url: str) -> dict[str, Any]:
    """What a running recommender serves, and what it refused last.

    Raises:
        Unavailable: nothing answers there.
    """
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        with urlopen(url.rstrip("/") + "/v1/status", timeout=10) as response:
            return json.load(response)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise Unavailable(f"nothing answers at {url} ({reason}): run `longtail serve`, or name --url") from None


def recorded(state: Path, registry: str, versions: dict[str, str], **about: Any) -> "AbstractContextManager[Any]":
    """An entry in the audit log of the servers: these versions, by variant, get traffic; an empty name is none.

    A version that the gate holds back makes it an override.
    """
    from longtail.governance.audit import AuditLog
    from longtail.registry import Registry

    named = {variant: version for variant, version in versions.items() if version}
    bundles, held = {}, {}
    for variant, version in named.items():
        if (Path(version) / "manifest.json").is_file():
            bundles[variant] = str(Path(version).resolve())
            continue
        found = Registry(registry).get(version)
        bundles[variant] = found.bundle_version
        if found.held:
            held[variant] = found.decision
    content = {"versions": named, "bundles": bundles, "held_back": held, **about}
    return AuditLog.of(state).recording("override" if held else "deployment", content)


def bundle_of(version: str, registry: str) -> Path:
    """The folder of a bundle, named by its path or by alias or number in the registry."""
    if (Path(version) / "manifest.json").is_file():
        return Path(version)
    from longtail.registry import Registry

    return Registry(registry).resolve(version)


def traffic_of(version: str, registry: str, anyway: bool) -> Path:
    """`bundle_of` a version that people are to meet.

    Raises:
        InvalidInput: the gate holds it back, nobody promoted it since, and it is not asked for `anyway`.
    """
    if (Path(version) / "manifest.json").is_file() or anyway:
        return bundle_of(version, registry)
    from longtail.registry import CHAMPION, Registry

    found = Registry(registry).get(version)
    if found.held and CHAMPION not in found.aliases:
        raise InvalidInput(f"version {found.number} is {found.decision} (--anyway gives it traffic all the same)")
    return bundle_of(version, registry)
