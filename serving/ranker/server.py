"""The ranker as a server of its own: Triton with the rankers of a deployment, which is followed while serving."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from longtail.engine.deployment import Deployment, DeploymentWatch
from longtail.errors import LongtailError
from serving import logs
from serving.process import LOOPBACK
from serving.ranker.models import Models
from serving.ranker.triton import Triton

TEND_EVERY_S = 1.0
logger = logging.getLogger("longtail.ranker")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="serving.ranker", description="Serve the rankers of bundles with Triton.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--bundle", type=Path, help="folder of one bundle")
    what.add_argument("--deployment", type=Path, help="YAML: variants and their bundles; followed while serving")
    parser.add_argument("--state", type=Path, required=True, help="folder for links to rankers and Triton's backend")
    parser.add_argument("--http_port", type=int, default=8000)
    parser.add_argument("--metrics_port", type=int, help="Triton's own metrics; none: not served")
    return parser.parse_known_args(given)[0]


def serve(args: argparse.Namespace, told: threading.Event) -> int:
    """Serve until `told`, or until Triton ends: its exit code.

    Raises:
        LongtailError: no bundle has a ranker, or there is no Triton.
    """
    watch = DeploymentWatch(args.deployment) if args.deployment else None
    serving = before = watch.first() if watch else Deployment.single(args.bundle)
    triton = Triton(
        args.state / "rankers", args.state, args.http_port,
        host=os.environ.get("LONGTAIL_HOST", LOOPBACK), metrics_port=args.metrics_port, own_log=False,
    )  # fmt: skip
    models = Models(triton, logger.warning)
    models.start(serving)
    with triton.launch():
        models.restarted()
        assert triton.process is not None
        while not told.wait(TEND_EVERY_S):
            code = triton.process.poll()
            if code is not None:
                logger.error("Triton ended with code %s", code)
                return code or 1
            try:
                if watch is not None and (found := watch.changed()) is not None:
                    models.take(found)
                    serving, before = found, serving
            except LongtailError as error:
                logger.error("not taken: %s", error)
            models.tend()
            # A recommender that refused the new deployment asks for the rankers of the one before.
            models.drop(before.bundles)
    return 0


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    args = arguments()
    logs.configure("ranker")
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    try:
        code = serve(args, told)
    except LongtailError as error:
        sys.exit(f"ranker: {error}")
    sys.exit(code)
