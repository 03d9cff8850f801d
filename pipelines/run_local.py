"""Run a training pipeline on this machine; people meet it as `longtail train`."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtail.cli.terminal import ending_on_signals, leave, one_line_errors
from longtail.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

RESULT = "result.json"
UNCACHED = ("ingest",)  # its data is part of the local fingerprint
PATHS = ("source", "key_file", "mapping", "surfaces", "impressions")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line: the pipeline's parameters and where the run lies."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.run_local", description=__doc__)
    parser.add_argument("--action", default="full", choices=["full", "incremental", "refresh"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--reader", default="shop")
    parser.add_argument("--source", required=True)
    parser.add_argument("--registry", required=True)
    for name in ("key-file", "mapping", "surfaces", "impressions"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--max-bad-share", type=float, default=0.05)
    parser.add_argument("--config", default="{}", help="training configuration, JSON")
    parser.add_argument("--metric", default="ndcg@10")
    parser.add_argument("--margin", type=float, default=0.0)
    parser.add_argument("--off-policy-margin", type=float, default=0.05)
    parser.add_argument("--gate", default="", help="JSON; empty for the pipeline's own")
    parser.add_argument("--run", default="", help="name that the registered version carries")
    return parser.parse_args(given)


def train(out: Path, parameters: dict[str, Any], console: "Console") -> dict[str, Any]:
    """Run the pipeline, show its progress, and write and return where its results lie (`out/result.json`)."""
    from pipelines.incremental import incremental
    from pipelines.local import run
    from pipelines.progress import shown
    from pipelines.training import training

    pipeline = training
    if parameters["action"] == "full":
        parameters.pop("action")
    else:
        pipeline = incremental
    if not parameters["gate"]:
        parameters.pop("gate")
    for name in PATHS:
        if parameters[name]:
            path = Path(parameters[name]).resolve()
            if name != "key_file" and not path.exists():
                raise InvalidInput(f"{parameters[name]} does not exist: name an existing file or folder for {name}")
            parameters[name] = str(path)
    if not parameters["registry"].startswith(("http://", "https://")):
        parameters["registry"] = str(Path(parameters["registry"]).resolve())
    data = [Path(parameters[name]) for name in ("source", "mapping", "surfaces") if parameters[name]]
    steps = len(pipeline.pipeline_spec.root.dag.tasks)
    with shown(steps, console) as report:
        outputs = run(pipeline, parameters, out, report, data, UNCACHED)
    registered = outputs["bundle"].metadata
    result = {name: artifact.path for name, artifact in outputs.items()} | {
        "version": int(registered["version"]),
        "aliases": list(registered["aliases"]),
        "held": bool(registered["held"]),
        "registry": parameters["registry"],
        "config": parameters["config"],
        "log": str(out.resolve() / "pipeline.log"),
    }
    beside = out / f".{RESULT}"
    beside.write_text(json.dumps(result, indent=2))
    os.replace(beside, out / RESULT)
    return result


def outcome(version: int, aliases: Sequence[str], held: bool) -> str:
    """The registered version and the role it has, or why it has none."""
    role = ", ".join(aliases) or ("held back" if held else "no role")
    return f"version {version} ({role})" + ("" if aliases else f": `longtail registry show {version}` says why")


def tell_steps() -> None:
    """Interrupt the running step."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        child.send_signal(signal.SIGINT)


def main(given: list[str] | None = None) -> None:
    """Run, then say where everything lies."""
    parameters = vars(arguments(given))
    out = parameters.pop("out")
    with one_line_errors(), ending_on_signals(tell_steps):
        with ending_on_signals(leave):  # what a run imports
            import psutil  # noqa: F401
            from kfp import local  # noqa: F401
            from rich.console import Console

            import pipelines.incremental
            import pipelines.local
            import pipelines.progress  # noqa: F401
        console = Console(file=sys.stdout)  # the very stream: `sys.stdout` is another one while steps speak
        result = train(out, parameters, console)
        said = outcome(result["version"], result["aliases"], result["held"])
        console.print(said, highlight=False, markup=False, soft_wrap=True)
        console.print(f"report    {result['evaluation']}/report.html", highlight=False, soft_wrap=True)
        console.print(f"bundle    {result['bundle']}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
