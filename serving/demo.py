"""`make demo`: a shop from raw events to served lists, on this machine, with everything stopped at the end."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from longtail.cli.terminal import ending_on_signals, one_line_errors
from longtail.client import Client
from longtail.errors import InvalidInput
from serving.collector.local import LocalCollector
from serving.demo_lists import Lists, show
from serving.local import LocalServing
from serving.playground.local import LocalPlayground
from serving.process import LOOPBACK

SHOP = {"users": 2_000, "items": 1_000, "days": 80, "events": 200_000}
CONFIG: dict[str, Any] = {
    "windows": 3,
    "requests": 1_500,
    "two_tower": {"epochs": 6, "dim": 32},
    "ranker": {"rounds": 150},
}
GRACE_S = 30
PAGE_PORT = 8090


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m serving.demo", description=__doc__)
    parser.add_argument("--dataset", default="simulator", help="simulator, or a reader such as online-retail")
    parser.add_argument("--data", default="", help="folder of the data, unless simulated")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--simulate", type=json.loads, default=SHOP, help="size of the simulated shop, JSON")
    parser.add_argument("--config", type=json.loads, default=CONFIG, help="training configuration, JSON")
    parser.add_argument("--stay", action="store_true", help="keep servers and playground up until Ctrl-C")
    return parser.parse_args(given)


def demo(args: argparse.Namespace, console: Console) -> None:
    """All acts of the demo, in order."""
    began = time.monotonic()
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    for old in ("mlflow", "serving"):  # finished training steps stay: with the same data and code they are the same
        shutil.rmtree(out / old, ignore_errors=True)
    key = out / "pseudonym.key"

    console.rule("1 the shop")
    shop = out / "shop"
    bring(args, shop, key, console)
    console.rule("2 training pipeline")
    train = {
        "--source": shop, "--out": out / "run", "--registry": out / "mlflow", "--config": json.dumps(args.config),
    }  # fmt: skip
    part("pipelines.run_local", *(str(word) for pair in train.items() for word in pair))
    result = json.loads((out / "run" / "result.json").read_text())
    console.rule("3 servers")
    bundle = Path(result["bundle"])
    state = out / "serving"
    collector = LocalCollector(state / "collector", key)
    serving = LocalServing(
        bundle, state, clock="data", pseudonym_key=key, extra=["--live", collector.live], report=lambda text: None
    )
    recommender = f"http://{LOOPBACK}:{serving.http_port}"
    page = LocalPlayground(bundle, recommender, state / "playground.log", collector.url, port())
    try:
        with console.status("starting Triton, retriever, recommender, collector and playground"):
            for part_of_it in (collector, page):  # while the others start: they cost no time of their own
                part_of_it.launch()
            serving.start()
            collector.wait()
        console.print(f"lists:  POST {serving.url}", highlight=False)
        console.print(f"clicks: POST {collector.url}/v1/events", highlight=False)
        console.rule("4 lists")
        with Client(recommender, events_url=collector.url) as client:
            show(serving.recommend, client.send_events, Lists.open(bundle), console)
        console.rule("5 playground")
        visit(page.wait(), args.stay, console)
    finally:
        with console.status("stopping the servers"):
            page.stop()
            serving.stop()
            collector.stop()
    console.rule("where everything lies")
    closing(result, out, console)
    console.print(f"[dim]all servers are stopped; {time.monotonic() - began:.0f} s in all[/dim]")


def visit(address: str, stay: bool, console: Console) -> None:
    """Say where the page is; with `stay`, keep everything up until Ctrl-C or SIGTERM."""
    console.print(f"the same lists as a page to click on: [bold]{address}[/bold]", highlight=False)
    if not stay:
        console.print("[dim]it stops with the servers now; `make demo STAY=1` keeps them up[/dim]")
        return
    console.print("servers and page stay up; Ctrl-C stops them", highlight=False)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def port() -> int:
    """The playground's usual port where it is free, else 0: any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, PAGE_PORT))
        except OSError:
            return 0
    return PAGE_PORT


def bring(args: argparse.Namespace, shop: Path, key: Path, console: Console) -> None:
    """Simulate or import the shop, unless the same one is there already."""
    simulated = args.dataset == "simulator" and not args.data
    if not simulated and not args.data:
        raise InvalidInput(f"DATASET={args.dataset} needs its folder: make demo DATASET={args.dataset} DATA=<folder>")
    if not simulated and not Path(args.data).exists():
        raise InvalidInput(f"{args.data} does not exist: name the folder of the data with DATA=<folder>")
    wanted = json.dumps({"dataset": args.dataset, "data": str(Path(args.data).resolve()), "simulate": args.simulate})
    marker = shop.parent / "shop.json"
    if marker.is_file() and marker.read_text() == wanted and (shop / "import.json").is_file():
        console.print(f"  the shop of the last run is in {shop}", highlight=False)
        return
    marker.unlink(missing_ok=True)
    if simulated:
        size = [word for name, value in args.simulate.items() for word in (f"--{name}", str(value))]
        words = ["simulate", "--out", str(shop), *size]
    else:
        words = ["import", args.dataset, args.data, "--out", str(shop)]
    part("longtail.cli", *words, "--key-file", str(key))  # it shows its own progress
    marker.write_text(wanted)


def part(module: str, *words: str) -> None:
    """Run a part of the product as a process of its own; on Ctrl-C or SIGTERM it is told, and waited for.

    Raises:
        SystemExit: the part failed, with its exit code; it has said why.
    """
    # A session of its own keeps the terminal's Ctrl-C away, so that the part is told once and cleans up in peace.
    process = subprocess.Popen([sys.executable, "-m", module, *words], start_new_session=True)
    try:
        code = process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
            process.wait(GRACE_S)
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code:
        raise SystemExit(code)


def closing(result: dict[str, Any], out: Path, console: Console) -> None:
    """Where everything lies, and the next commands."""
    registry, key = out / "mlflow", out / "pseudonym.key"
    rows = {
        "report": f"{result['evaluation']}/report.html",
        "bundle": result["bundle"],
        "MLflow": f".venv/bin/mlflow ui --backend-store-uri sqlite:///{out.resolve()}/mlflow/mlflow.db",
        "logs": f"{result['log']}, {out / 'serving'}",
        "serve": f".venv/bin/longtail serve --registry {registry} --key-file {key} --clock data",
        "page": f".venv/bin/longtail playground --registry {registry} --open  (while it serves)",
    }
    for name, value in rows.items():
        console.print(f"[bold]{name:<9}[/bold] {value}", highlight=False, soft_wrap=True)


def main(given: list[str] | None = None) -> None:
    """Run the demo."""
    args = arguments(given)
    with one_line_errors(), ending_on_signals():
        demo(args, Console())


if __name__ == "__main__":
    main()
