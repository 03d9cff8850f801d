"""`longtail experiment start`, `ramp`, `status` and `stop`: experiments on the servers of `longtail serve`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longtail.cli.options import DEFAULT_REGISTRY, JsonOption, RegistryOption
from longtail.cli.serving import (
    DEFAULT_STATE,
    DEFAULT_URL,
    AnywayOption,
    StateOption,
    UrlOption,
    putting_back,
    taken_over,
    traffic_of,
)
from longtail.cli.serving import (
    status as serving,
)
from longtail.errors import InvalidInput
from longtail.governance.audit import AuditLog

if TYPE_CHECKING:
    from longtail.engine.deployment import Deployment
    from longtail.experiments.config import Experiment

NameArgument = Annotated[str, typer.Argument(help="The experiment's name.", show_default=False)]
IntoOption = Annotated[
    Path | None, typer.Option(help="Change this deployment file instead, such as a cluster's, and ask no servers.")
]
TimeoutOption = Annotated[float, typer.Option(help="Seconds to wait until the servers have taken it.")]


def start(
    file: Annotated[Path, typer.Argument(help="The experiment's YAML file.", show_default=False)],
    registry: RegistryOption = DEFAULT_REGISTRY,
    state: StateOption = DEFAULT_STATE,
    url: UrlOption = DEFAULT_URL,
    into: IntoOption = None,
    anyway: AnywayOption = False,
    timeout_s: TimeoutOption = 180.0,
) -> None:
    """Put an experiment in front of the file's share of its layer, beside what serves everybody and what runs."""
    from longtail.engine.bundle import verify
    from longtail.experiments import running
    from longtail.experiments.config import Experiment

    experiment, now = Experiment.load(file), running.utc_now()
    running.can_run(experiment, now)
    folder, deployment = state / "experiments" / experiment.name, _deployment(state, into)
    if (folder / running.RECORD).is_file() or experiment.name in deployment.experiments:
        raise InvalidInput(f"there was an experiment {experiment.name} already: give this one another name")
    if len(deployment.variants) > 1:
        raise InvalidInput("several variants serve by share: `longtail deploy` one, and name the other in the file")
    named = {n: v.bundle for n, v in experiment.variants.items() if v.bundle}
    if into is not None and all(Path(bundle).is_absolute() for bundle in named.values()):
        bundles = {n: Path(bundle) for n, bundle in named.items()}  # folders of the servers' machines
    else:
        bundles = {n: traffic_of(bundle, registry, anyway).resolve() for n, bundle in named.items()}
        for bundle in bundles.values():
            verify(bundle)
    placed = running.placed(experiment, bundles, file.parent, deployment.experiments)
    holdout = max(deployment.holdout, experiment.holdout)
    if holdout > deployment.holdout and deployment.experiments:
        raise InvalidInput(
            f"{deployment.holdout:.1%} are kept out of the experiments that run, the file asks for {holdout:.1%}: "
            "people would leave these; stop them first, or write the smaller share"
        )
    about = {"experiment": experiment.name, "bundles": bundles, "allocation": experiment.allocation}
    with AuditLog.of(state).recording("experiment_start", about):
        # The record comes first: what runs without one could not be stopped.
        running.save(folder, running.begun(experiment.name, placed, experiment.allocation, now), file)
        try:
            _put(deployment.running(experiment.name, placed, holdout), deployment, state, into, url, timeout_s)
        except BaseException:
            running.forget(folder)
            raise
    typer.echo(_told(experiment.name, experiment.allocation, experiment))


def ramp(
    name: NameArgument,
    allocation: Annotated[float, typer.Argument(min=0, max=1, help="Share of the layer from now on, such as 0.5.")],
    state: StateOption = DEFAULT_STATE,
    url: UrlOption = DEFAULT_URL,
    into: IntoOption = None,
    timeout_s: TimeoutOption = 180.0,
) -> None:
    """Let more people in; nobody who is in changes variant."""
    from longtail.engine.deployment import DEPLOYMENT
    from longtail.experiments import running

    folder, deployment = state / "experiments" / name, _deployment(state, into)
    experiment, record = running.load(folder)
    if record.stopped:
        raise InvalidInput(f"{name} was stopped on {record.stopped:%Y-%m-%d %H:%M}: start another experiment")
    if name not in deployment.experiments:
        raise InvalidInput(f"{into or state / DEPLOYMENT} does not have {name}: stop it, and start another experiment")
    placed = running.ramped(name, allocation, deployment.experiments)
    with AuditLog.of(state).recording("experiment_ramp", {"experiment": name, "allocation": allocation}):
        _put(deployment.running(name, placed, deployment.holdout), deployment, state, into, url, timeout_s)
        running.save(folder, record.ramped(placed, allocation, running.utc_now()))
    typer.echo(_told(name, allocation, experiment))


def stop(
    name: NameArgument,
    ship: Annotated[bool, typer.Option("--ship", help="Everybody meets the treatment's bundle from now on.")] = False,
    variant: Annotated[str, typer.Option(help="Which one, where there are several treatments.")] = "",
    state: StateOption = DEFAULT_STATE,
    url: UrlOption = DEFAULT_URL,
    into: IntoOption = None,
    timeout_s: TimeoutOption = 180.0,
) -> None:
    """End an experiment: its people meet what serves the others again, or, with --ship, all meet its treatment."""
    from longtail.engine.bundle import MANIFEST, Manifest
    from longtail.experiments import running

    folder, deployment = state / "experiments" / name, _deployment(state, into)
    experiment, record = running.load(folder)
    shipped = _shipped(experiment, variant) if ship else ""
    record = record.stop(shipped, running.utc_now())
    placed = deployment.experiments.get(name)
    bundle = placed.variants[shipped].bundle if placed is not None and shipped else None
    about = {"experiment": name, "shipped": shipped, "bundle": bundle}
    with AuditLog.of(state).recording("experiment_stop", about):
        if placed is not None:
            _put(deployment.without(name).serving(bundle), deployment, state, into, url, timeout_s)
        running.save(folder, record)
    typer.echo(f"{name} has ended; {shipped or 'what served beside it'} serves everybody")
    if bundle is not None and (bundle / MANIFEST).is_file():
        version = Manifest.read(bundle).version
        typer.echo(f"servers that start anew serve the champion: `longtail registry promote {version}` makes it that")


def _shipped(experiment: "Experiment", variant: str) -> str:
    """The treatment that everybody is to meet.

    Raises:
        InvalidInput: it is not clear which, or it is no bundle.
    """
    chosen = variant or (experiment.treatments[0] if len(experiment.treatments) == 1 else "")
    if chosen not in experiment.treatments:
        raise InvalidInput(f"name the --variant to ship: {', '.join(experiment.treatments)}")
    it = experiment.variants[chosen]
    if it.surfaces is not None or it.rules is not None:
        raise InvalidInput(
            f"{chosen} has rules or surfaces of its own: write them into the servers' surfaces file, "
            "`longtail deploy` its bundle where it has one, and stop without --ship"
        )
    return chosen


def _told(name: str, allocation: float, experiment: "Experiment") -> str:
    return f"{name} runs for {allocation:.0%} of the layer {experiment.layer} until {experiment.dates.end}"


def status(state: StateOption = DEFAULT_STATE, as_json: JsonOption = False) -> None:
    """Show the experiments of these servers: what runs, for how many people, since when, and how others ended."""
    from longtail.experiments import running

    found = running.all_of(state)
    if as_json:
        typer.echo(json.dumps([record.model_dump(mode="json") for _, record in found], indent=2))
        return
    if not found:
        typer.echo("no experiment was started here: see `longtail experiment start --help`")
    for experiment, record in found:
        since = f"since {record.ramps[0].time:%Y-%m-%d %H:%M}"
        if record.stopped:
            then = f", then {record.shipped} served everybody" if record.shipped else ""
            typer.echo(f"{record.name}: ended {record.stopped:%Y-%m-%d %H:%M}{then}")
        else:
            people = f"{record.allocation:.0%} of the layer {experiment.layer}"
            typer.echo(f"{record.name}: runs {since} for {people}, until {experiment.dates.end}")


def _deployment(state: Path, into: Path | None = None) -> "Deployment":
    from longtail.engine.deployment import DEPLOYMENT, Deployment

    file = into or state / DEPLOYMENT
    if into is None and not file.is_file():
        raise InvalidInput(f"{file} does not exist: name the --state folder of a running `longtail serve`")
    return Deployment.load(file)


def _put(new: "Deployment", before: "Deployment", state: Path, into: Path | None, url: str, timeout_s: float) -> None:
    """Hand a deployment to the servers and wait; where they refuse, the file is put back as it was `before`."""
    from longtail.engine.deployment import DEPLOYMENT

    if into is not None:
        new.replace(into, before)
        return
    served, file = serving(url), state / DEPLOYMENT
    offered = new.replace(file, before)
    with putting_back(offered, file, before):
        taken_over(url, lambda now: now["deployment"] == offered.fingerprint, served, timeout_s, state)
