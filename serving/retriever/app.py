"""The command line of the retriever server."""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

from longtail.engine.deployment import Deployment, DeploymentWatch
from longtail.errors import LongtailError
from serving import logs
from serving.retriever.bundles import Bundles
from serving.retriever.model import RetrieverModel
from serving.server import Server


def main() -> None:
    """Load the bundles and serve their sources."""
    parser = argparse.ArgumentParser(prog="serving.retriever", description="Serve the candidate sources of bundles.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--bundle", type=Path, help="folder of one bundle")
    what.add_argument("--deployment", type=Path, help="YAML: variants and their bundles; followed while serving")
    parser.add_argument("--http_port", type=int, default=8081)
    args, _ = parser.parse_known_args()
    logs.configure("retriever")
    try:
        server = Server(args.http_port)
        watch = DeploymentWatch(args.deployment) if args.deployment else None
        bundles = Bundles()
        if watch is None:
            bundles.start(Deployment.single(args.bundle))
        else:
            bundles.start(watch.first(), watch.accepted)
    except LongtailError as error:
        sys.exit(f"retriever: {error}")
    gc.collect()
    gc.freeze()
    server.serve(RetrieverModel(bundles, watch))
