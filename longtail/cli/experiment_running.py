"""`longtail experiment start`, `ramp`, `status` and `stop`: experiments on the servers of `longtail serve`."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longtail.cli.options import DEFAULT_REGISTRY, JsonOption, RegistryOption
from longtail.cli.serving import (
    DEFAULT_STATE,
    DEFAULT_URL,
    DEPLOYMENT,
    StateOption,
    UrlOption,
    bundle_of,
)
from longtail.cli.serving import (
    status as serving,
)
from longtail.errors import InvalidInput, Unavailable
from longtail.governance.audit import AuditLog

if TYPE_CHECKING:
    from longtail.engine.deployment import Deployment

NameArgument = Annotated[str, typer.Argument(help="The experiment's name.", show_default=False)]
TimeoutOption = Annotated[float, typer.Option(help="Seconds to wait until the servers have taken it.")]


def start(
    file: Annotated[Path, typer.Argument(help="The experiment's YAML file.", show_default=False)],
    registry: RegistryOption = DEFAULT_REGISTRY,
    state: StateOption = DEFAULT_STATE,
    url: UrlOption = DEFAULT_URL,
    timeout_s: TimeoutOption = 180.0,
) -> None:
    """Put an experiment in front of the file's share of the people, beside what serves everybody now."""
    from longtail.engine.bundle import verify
    from longtail.experiments import running
    from longtail.experiments.config import Experiment

    experiment, now = Experiment.load(file), running.utc_now()
    running.can_run(experiment, now)
    (before,) = _deployment(state).bundles if len(_deployment(state).variants) == 1 else (None,)
    if before is None:
        raise InvalidInput("several variants serve already: stop the experiment that runs, or `longtail deploy` one")
    folder = state / "experiments" / experiment.name
    if (folder / running.RECORD).is_file():
        raise InvalidInput(f"there was an experiment {experiment.name} already: give this one another name")
    bundles = {
        n: bundle_of(v.bundle, registry).resolve() if v.bundle else before for n, v in experiment.variants.items()
    }
    for bundle in bundles.values():
        verify(bundle)
    record = running.Running(
        name=experiment.name, bundles=bundles, before=before,
        ramps=(running.Ramp(time=now, allocation=experiment.allocation),),
    )  # fmt: skip
    about = {"experiment": experiment.name, "bundles": bundles, "allocation": record.allocation}
    with AuditLog.of(state).recording("experiment_start", about):
        _put(record.deployed(experiment), state, url, timeout_s)
        running.save(folder, record, file)
    typer.echo(f"{experiment.name} runs for {record.allocation:.0%} of the people until {experiment.dates.end}")


def ramp(
    name: NameArgument,
    allocation: Annotated[float, typer.Argument(help="Share of the people from now on, such as 0.5.")],
    state: StateOption = DEFAULT_STATE,
    url: UrlOption = DEFAULT_URL,
    timeout_s: TimeoutOption = 180.0,
) -> None:
    """Let more people in; nobody who is in changes variant."""
    from longtail.experiments import running

    folder = state / "experiments" / name
    experiment, record = running.load(folder)
    record = record.ramped(allocation, running.utc_now())
    with AuditLog.of(state).recording("experiment_ramp", {"experiment": name, "allocation": allocation}):
        _put(record.deployed(experiment), state, url, timeout_s)
        running.save(folder, record)
    typer.echo(f"{name} runs for {allocation:.0%} of the people until {experiment.dates.end}")


def stop(
    name: NameArgument,
    ship: Annotated[bool, typer.Option("--ship", help="Everybody meets the treatment from now on.")] = False,
    state: StateOption = DEFAULT_STATE,
    url: UrlOption = DEFAULT_URL,
    timeout_s: TimeoutOption = 180.0,
) -> None:
    """End an experiment: what served before it serves everybody again, or, with --ship, its treatment does."""
    from longtail.experiments import running

    folder = state / "experiments" / name
    experiment, record = running.load(folder)
    (treatment,) = experiment.treatments
    ended = treatment if ship else running.EVERYBODY_ELSE
    record = record.stop(ended, running.utc_now())
    bundle = record.bundles[treatment] if ship else record.before
    about = {"experiment": name, "ended": ended, "bundle": bundle}
    with AuditLog.of(state).recording("experiment_stop", about):
        _put({running.EVERYBODY_ELSE: (bundle, 1.0)}, state, url, timeout_s)
        running.save(folder, record)
    typer.echo(f"{name} has ended; {treatment if ship else 'what served before it'} serves everybody")


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
            typer.echo(f"{record.name}: ended {record.stopped:%Y-%m-%d %H:%M}, then {record.ended} served everybody")
        else:
            people = f"{record.allocation:.0%} of the people"
            typer.echo(f"{record.name}: runs {since} for {people}, until {experiment.dates.end}")


def _deployment(state: Path) -> "Deployment":
    from longtail.engine.deployment import Deployment

    file = state / DEPLOYMENT
    if not file.is_file():
        raise InvalidInput(f"{file} does not exist: name the --state folder of a running `longtail serve`")
    return Deployment.load(file)


def _put(shares: dict[str, tuple[Path, float]], state: Path, url: str, timeout_s: float) -> None:
    """Hand the shares to the servers and wait; where they refuse, the file is put back as it was."""
    from longtail.engine.deployment import Deployment, Variant

    old, before = _deployment(state), serving(url)
    new = Deployment(variants={name: Variant(bundle=bundle, share=share) for name, (bundle, share) in shares.items()})
    wanted = {name: (str(v.bundle), v.share) for name, v in new.variants.items()}
    new.save(state / DEPLOYMENT)
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        now = serving(url)
        if {name: (v["bundle"], v["share"]) for name, v in now["variants"].items()} == wanted:
            return
        if now["refused"] and now["refused"] != before["refused"]:
            old.save(state / DEPLOYMENT)
            raise InvalidInput(f"refused, what served goes on: {now['refused']['why']}")
        time.sleep(0.2)
    old.save(state / DEPLOYMENT)
    raise Unavailable(f"not taken over within {timeout_s:g} s, what served goes on: see the logs in {state}")
