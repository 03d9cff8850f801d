"""`longtail train` and `longtail evaluate`: the whole pipeline on this machine, and its verdict again."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from longtail.cli.options import DEFAULT_REGISTRY, RegistryOption, ShopArgument
from longtail.errors import InvalidInput

ACTIONS = ("full", "incremental", "refresh")


def train(
    shop: ShopArgument,
    out: Annotated[Path, typer.Option(help="Folder of the run: steps, log, result.")] = Path("runs/train"),
    action: Annotated[
        str, typer.Option(help="full; or from the champion on: incremental, or refresh, which learns nothing new.")
    ] = "full",
    registry: RegistryOption = DEFAULT_REGISTRY,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with the training configuration; what it leaves out is default.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="What lists are for: clicks, conversion, revenue, net_revenue (less what "
            "comes back) or margin. A mix of several stands in the configuration file."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    surfaces: Annotated[Path | None, typer.Option(help="YAML file with the surfaces and their rules.")] = None,
    metric: Annotated[str, typer.Option(help="Figure that decides who is champion.")] = "ndcg@10",
    margin: Annotated[float, typer.Option(help="Lead over the champion that is needed.")] = 0.0,
    impressions: Annotated[
        Path | None, typer.Option(help="The champion's impression log: what it says may be worse gets no traffic.")
    ] = None,
    off_policy_margin: Annotated[
        float, typer.Option(min=0, max=1, help="How much worse by that log a bundle may be, as a share.")
    ] = 0.05,
    gate: Annotated[
        Path | None, typer.Option(help="YAML: what else a bundle must hold to lead, or to get traffic at all.")
    ] = None,
) -> None:
    """Run the training pipeline on an imported shop and register the bundle.

    Steps that an earlier run finished with the same code and data are reused.
    """
    for name in ("events.parquet", "items.parquet"):
        if not (shop / name).is_file():
            raise InvalidInput(f"{shop} has no {name}: run `longtail import` or `longtail simulate` first")
    if surfaces is not None:
        from longtail.surfaces import Surfaces

        Surfaces.load(surfaces)  # now: the step that needs it comes last
    if action not in ACTIONS:
        raise InvalidInput(f"--action {action}: choose one of {', '.join(ACTIONS)}")
    parameters = {
        "--action": action,
        "--source": shop,
        "--out": out,
        "--registry": registry,
        "--config": json.dumps(read_config(config, objective, seed)),
        "--surfaces": surfaces or "",
        "--metric": metric,
        "--margin": margin,
        "--impressions": impressions or "",
        "--off-policy-margin": off_policy_margin,
        "--gate": "" if gate is None else json.dumps(read_gate(gate)),
    }
    # longtail never imports a pipeline engine: this process becomes the one that runs it.
    replace_by("pipelines.run_local", parameters)


def read_config(path: Path | None, objective: str | None = None, seed: int | None = None) -> dict[str, Any]:
    """The training configuration of a YAML file with the given values put over it.

    Raises:
        InvalidInput: the file is absent or no YAML, or a value does not fit; the message names line and key.
    """
    settings: Any = {}
    if path is not None:
        import yaml

        from longtail.training import TrainingConfig
        from longtail.yaml_model import load_yaml

        load_yaml(path, TrainingConfig)
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    given = {"objective": objective, "seed": seed}
    return settings | {name: value for name, value in given.items() if value is not None}


def read_gate(path: Path) -> dict[str, Any]:
    """The gate's limits of a YAML file, those that it names.

    Raises:
        InvalidInput: the file cannot be read, or a value does not fit; the message names line and key.
    """
    import yaml

    from longtail.evaluation.gate import GateConfig
    from longtail.yaml_model import load_yaml

    load_yaml(path, GateConfig)
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def replace_by(module: str, parameters: dict[str, Any]) -> None:
    """Become `python -m module` with these parameters."""
    words = [word for name, value in parameters.items() for word in (name, str(value))]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *words])


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished `longtail train`.")] = Path("runs/train"),
    shop: Annotated[
        Path | None, typer.Option(help="Imported shop to judge on; by default the one it was trained on.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("runs/evaluation"),
) -> None:
    """Judge what a run trained on the newest window of a shop; write the figures as JSON and a page with plots."""
    from longtail import steps
    from longtail.training import TrainingConfig

    try:
        result = json.loads((run / "result.json").read_text())
    except (OSError, ValueError):
        raise InvalidInput(
            f"{run} holds no finished training run: run `longtail train SHOP --out {run}` first"
        ) from None
    parts = {name: Path(result[name]) for name in ("index", "candidates", "ranker")}
    parts["shop"] = shop or Path(result["shop"])
    missing = next((part for part in parts.values() if not part.is_dir()), None)
    if missing:
        raise InvalidInput(f"{missing} is not there: run `longtail train` again")
    figures = steps.evaluate(**parts, out=out, config=TrainingConfig.parse(result["config"]))
    for name, value in figures.items():
        if isinstance(value, float | int) and "/" not in name:  # parts such as cold users are in the report
            typer.echo(f"{name:<28} {value:.4f}")
    typer.echo(f"the report is {out / 'report.html'}")
