"""`longtail pipeline`: the pipelines on a cluster, through Kubeflow Pipelines."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from longtail.cli.options import JsonOption
from longtail.cli.training import read_config, replace_by
from longtail.errors import InvalidInput

app = typer.Typer(
    no_args_is_help=True,
    help="Compile pipelines for a cluster, submit and schedule them on Kubeflow Pipelines, see how they do.",
)

PipelineArgument = Annotated[str, typer.Argument(help="Name of the pipeline, such as training.", show_default=False)]
PlatformOption = Annotated[
    Path, typer.Option(help="YAML: image, resources, GPU, volumes, secrets of the steps.", show_default=False)
]
HostOption = Annotated[
    str,
    typer.Option(
        envvar="KF_PIPELINES_ENDPOINT",
        help="Address of Kubeflow Pipelines; inside its cluster, or with a kubeconfig, it is found.",
    ),
]
NamespaceOption = Annotated[str, typer.Option(help="Your namespace, where Kubeflow has several users.")]
TokenOption = Annotated[
    Path | None,
    typer.Option(
        envvar="KF_PIPELINES_SA_TOKEN_PATH",
        help="File with the token, read again at every request. Pods find their own.",
    ),
]
ExperimentOption = Annotated[str, typer.Option(help="Experiment that the runs belong to.")]
ParamOption = Annotated[list[str] | None, typer.Option(help="name=value of a parameter; repeat for more.")]
ConfigOption = Annotated[Path | None, typer.Option(help="YAML file with the training configuration.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Follow the run to its end.")]
EveryOption = Annotated[float, typer.Option(min=0.05, help="Seconds between looks while waiting.")]


@app.command("compile")
def compile_pipeline(
    pipeline: PipelineArgument,
    platform: Annotated[Path | None, typer.Option(help="YAML of the platform; without it, as on a laptop.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; by default PIPELINE.yaml.")] = None,
) -> None:
    """Write the YAML that Kubeflow Pipelines takes, for an upload by hand or a repository."""
    _become("compile", pipeline, {"--platform": platform, "--out": out})


@app.command()
def submit(
    pipeline: PipelineArgument,
    platform: PlatformOption,
    param: ParamOption = None,
    config: ConfigOption = None,
    name: Annotated[str, typer.Option(help="Name of the run; by default the pipeline and the time.")] = "",
    wait: WaitOption = False,
    every_s: EveryOption = 5.0,
    experiment: ExperimentOption = "longtail",
    host: HostOption = "",
    namespace: NamespaceOption = "",
    token_file: TokenOption = None,
) -> None:
    """Start a run. With `--wait` it ends as the run does: 0 after success, 1 after a failure."""
    _become("submit", pipeline, {
        "--platform": platform, "--params": parameters(param, config), "--name": name, "--wait": _word(wait),
        "--every-s": every_s, "--experiment": experiment, "--host": host, "--namespace": namespace,
        "--token-file": token_file,
    })  # fmt: skip


@app.command()
def schedule(
    pipeline: PipelineArgument,
    platform: PlatformOption,
    cron: Annotated[
        str, typer.Option(help="Six fields, seconds first: '0 30 3 * * *' is half past three every night.")
    ],
    param: ParamOption = None,
    config: ConfigOption = None,
    name: Annotated[str, typer.Option(help="Name of the schedule, by default the pipeline's.")] = "",
    experiment: ExperimentOption = "longtail",
    host: HostOption = "",
    namespace: NamespaceOption = "",
    token_file: TokenOption = None,
) -> None:
    """Run a pipeline again and again, one run at a time. A schedule of the same name is replaced."""
    _become("schedule", pipeline, {
        "--platform": platform, "--cron": cron, "--params": parameters(param, config), "--name": name,
        "--experiment": experiment, "--host": host, "--namespace": namespace, "--token-file": token_file,
    })  # fmt: skip


@app.command()
def status(
    run: Annotated[str, typer.Argument(help="Id or name of the run; by default the newest of the experiment.")] = "",
    wait: WaitOption = False,
    every_s: EveryOption = 5.0,
    as_json: JsonOption = False,
    experiment: ExperimentOption = "longtail",
    host: HostOption = "",
    namespace: NamespaceOption = "",
    token_file: TokenOption = None,
) -> None:
    """Show a run by step. Exit code 0: it succeeded, 1: it failed or was stopped, 3: it still runs."""
    _become("status", run, {
        "--wait": _word(wait), "--every-s": every_s, "--json": _word(as_json), "--experiment": experiment,
        "--host": host, "--namespace": namespace, "--token-file": token_file,
    })  # fmt: skip


def parameters(given: list[str] | None, config: Path | None) -> str:
    """`name=value` words as JSON, with the configuration file as the parameter `config`.

    Raises:
        InvalidInput: a word has no `=`, or the configuration cannot be read or has a mistake.
    """
    found = {}
    for word in given or []:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise InvalidInput(f"--param {word}: write name=value")
        found[name.strip().replace("-", "_")] = value
    if config is not None:
        from longtail.training import TrainingConfig

        found["config"] = json.dumps(read_config(config))
        TrainingConfig.parse(found["config"])  # now: on the cluster it would fail minutes later
    return json.dumps(found)


def _word(yes: bool) -> str:
    return "yes" if yes else "no"


def _become(verb: str, what: str, options: dict[str, Any]) -> None:
    # longtail never imports a pipeline engine: this process becomes the one that runs it.
    given = {name: value for name, value in options.items() if value not in (None, "")}
    replace_by("pipelines.cluster", {verb: what} | given)
