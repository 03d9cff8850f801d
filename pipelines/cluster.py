"""Compile, submit, schedule and watch pipelines on a cluster; people meet it as `longtail pipeline`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtail.cli.terminal import one_line_errors
from longtail.errors import InvalidInput, Unavailable
from pipelines import cron, parameters
from pipelines.compile import PIPELINES, compiled
from pipelines.kubeflow import answered, connect, quiet
from pipelines.platform import Platform
from pipelines.run_state import RunState

if TYPE_CHECKING:
    from kfp.client import Client

AUDIT = "LONGTAIL_AUDIT"  # where the registry is a folder, the record lies in it
UNANSWERED = 10  # polls in a row that may fail while somebody waits for a run


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.cluster", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("compile", "submit", "schedule", "status"):
        command = verbs.add_parser(verb)
        command.add_argument("what", help="name of a pipeline; for status, a run by id or name, or nothing")
        if verb != "status":
            command.add_argument("--platform", default="")
        if verb != "compile":
            for flag in ("--host", "--namespace", "--token-file"):
                command.add_argument(flag, default="")
            command.add_argument("--experiment", default="longtail")
        if verb in ("submit", "schedule"):
            command.add_argument("--params", default="{}", help="JSON")
            command.add_argument("--name", default="")
        if verb in ("submit", "status"):
            command.add_argument("--wait", default="no", choices=["yes", "no"])
            command.add_argument("--every-s", type=float, default=5.0)
    verbs.choices["compile"].add_argument("--out", default="")
    verbs.choices["schedule"].add_argument("--cron", required=True)
    verbs.choices["status"].add_argument("--json", default="no", choices=["yes", "no"])
    return parser.parse_args(given)


def compile_to(args: argparse.Namespace) -> int:
    """Write the YAML that Kubeflow Pipelines takes."""
    platform = Platform.load(args.platform) if args.platform else None
    out = Path(args.out or f"{args.what}.yaml")
    text = compiled(args.what, platform)
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        beside.write_text(text)
        os.replace(beside, out)
    except OSError as error:
        raise InvalidInput(f"{out} cannot be written: {error.strerror}") from None
    print(f"wrote {out}")
    return 0


@contextmanager
def prepared(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What a run and a schedule send alike; everything is checked before the server hears of it."""
    platform = Platform.load(args.platform)
    given = parameters.checked(args.what, json.loads(args.params), platform.mounts())
    deciding = {"deploy": ["deploy"], "monitoring": []}.get(
        args.what, ["register", *(["deploy"] if platform.deploy else [])]
    )
    for step in deciding:
        if "://" in given["registry"] and not platform.keeps(step, AUDIT):
            raise InvalidInput(
                f"the step {step} records what it decides: name a file on one of its volumes in {args.platform}, "
                f"such as `env: {{{AUDIT}: /mnt/audit/audit.jsonl}}`"
            )
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / f"{args.what}.yaml"
        package.write_text(compiled(args.what, platform))
        yield {
            "pipeline_package_path": str(package),
            "params": given,
            "pipeline_root": platform.pipeline_root,
            "service_account": platform.service_account,
        }


def submit(args: argparse.Namespace) -> int:
    """Start a run."""
    with prepared(args) as sent:
        client = connect(args.host, args.namespace, args.token_file)
        name = args.name or f"{args.what} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        with answered(args.host), quiet():
            experiment = client.create_experiment(args.experiment, namespace=args.namespace or None)
            run = client.run_pipeline(experiment.experiment_id, name, **sent)
    print(f"run {run.run_id} ({name}) was submitted")
    return follow(client, run.run_id, args) if args.wait == "yes" else 0


def schedule(args: argparse.Namespace) -> int:
    """Start a run at every tick of a cron expression; a schedule of the same name is replaced."""
    expression = cron.checked(args.cron)
    name = args.name or args.what
    with prepared(args) as sent:
        client = connect(args.host, args.namespace, args.token_file)
        with answered(args.host), quiet():
            experiment = client.create_experiment(args.experiment, namespace=args.namespace or None)
            before = schedules(client, experiment.experiment_id, name)
            made = client.create_recurring_run(
                experiment.experiment_id, name, cron_expression=expression, max_concurrency=1, no_catchup=True, **sent
            )
            for old in before:
                client.delete_recurring_run(old)
    print(f"schedule {made.recurring_run_id} ({name}) runs {args.what} at '{expression}'")
    if before:
        print(f"it replaces {', '.join(before)}")
    return 0


def schedules(client: Client, experiment: str, name: str) -> list[str]:
    """The ids of the schedules of this name."""
    wanted = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
    found = client.list_recurring_runs(experiment_id=experiment, page_size=100, filter=json.dumps(wanted))
    return [run.recurring_run_id for run in found.recurring_runs or [] if run.display_name == name]


def status(args: argparse.Namespace) -> int:
    """Show a run by step; the exit code says how it ended."""
    client = connect(args.host, args.namespace, args.token_file)
    run = args.what if is_id(args.what) else newest(client, args)
    if args.wait == "yes":
        return follow(client, run, args)
    state = look(client, run, args.host)
    print(json.dumps(state.as_dict(), indent=2) if args.json == "yes" else "\n".join(state.lines()))
    return state.exit_code


def is_id(word: str) -> bool:
    """Whether it is a run's id, not its name."""
    try:
        return bool(uuid.UUID(word))
    except ValueError:
        return False


def newest(client: Client, args: argparse.Namespace) -> str:
    """The run of the experiment that was made last, of those of the given name where there is one."""
    wanted = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": args.what}]}
    with answered(args.host), quiet():
        try:
            experiment = client.get_experiment(experiment_name=args.experiment, namespace=args.namespace or None)
        except ValueError:
            raise InvalidInput(
                f"there is no experiment {args.experiment}: run `longtail pipeline submit` first"
            ) from None
        found = client.list_runs(
            experiment_id=experiment.experiment_id, page_size=1, sort_by="created_at desc",
            filter=json.dumps(wanted) if args.what else None,
        ).runs  # fmt: skip
    if not found and args.what:
        raise InvalidInput(f"the experiment {args.experiment} has no run {args.what}: name its id, or look in Kubeflow")
    if not found:
        raise InvalidInput(f"the experiment {args.experiment} has no runs: run `longtail pipeline submit` first")
    return found[0].run_id


def look(client: Client, run: str, host: str) -> RunState:
    """The state of a run now."""
    with answered(host):
        return RunState.of(client.get_run(run))


def follow(client: Client, run: str, args: argparse.Namespace) -> int:
    """Print the steps as they change until the run has ended."""
    shown: dict[str, str] = {}
    unanswered = 0
    while True:
        try:
            state = look(client, run, args.host)
            unanswered = 0
        except Unavailable as error:
            unanswered += 1
            if unanswered >= UNANSWERED:
                raise
            print(f"longtail: {error}", file=sys.stderr)
            time.sleep(args.every_s)
            continue
        for step in state.steps:
            if step.state != shown.get(step.name, "waiting"):
                shown[step.name] = step.state
                print(f"{step.name}: {step.state}{f', {step.took}' if step.took else ''}", flush=True)
        if state.ended:
            if getattr(args, "json", "no") == "yes":
                print(json.dumps(state.as_dict(), indent=2))
            else:
                print("\n".join(state.summary()))
            return state.exit_code
        time.sleep(args.every_s)


def main(given: list[str] | None = None) -> None:
    """Do what the command line says."""
    args = arguments(given)
    with one_line_errors():
        if args.verb != "status" and args.what not in PIPELINES:
            raise InvalidInput(f"no pipeline is called {args.what}: choose from {', '.join(PIPELINES)}")
        raise SystemExit(
            {"compile": compile_to, "submit": submit, "schedule": schedule, "status": status}[args.verb](args)
        )


if __name__ == "__main__":
    main()
