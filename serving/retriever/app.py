"""The command line of the retriever server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from longtail.errors import LongtailError
from serving.retriever.model import RetrieverModel
from serving.server import Server


def main() -> None:
    """Load a bundle and serve its sources."""
    parser = argparse.ArgumentParser(prog="serving.retriever", description="Serve a bundle's candidate sources.")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--http_port", type=int, default=8080)
    parser.add_argument("--grpc_port", type=int, default=8081)
    args, _ = parser.parse_known_args()
    model = RetrieverModel(args.bundle)
    try:
        model.load()
    except LongtailError as error:
        sys.exit(f"retriever: {error}")
    Server(args.http_port, args.grpc_port).serve(model)
