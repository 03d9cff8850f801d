"""The command line of the recommender server."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from longtail.engine.asking import Pseudonym, unchanged
from longtail.engine.config import EngineConfig
from longtail.engine.engine import Engine
from longtail.engine.impressions import ImpressionLog
from longtail.engine.online import StoredPeople, lay_out
from longtail.engine.parts import Bundle
from longtail.errors import InvalidInput, LongtailError
from longtail.identity import Pseudonymiser, load_key
from longtail.identity.pseudonyms import KEY_VARIABLE
from serving.edge.guard import Guard
from serving.recommender.model import RecommenderModel, ranker_hop, retriever_hop
from serving.server import Server


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="serving.recommender", description="Serve recommendations of a bundle.")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True, help="folder for the online stores")
    parser.add_argument("--retriever", default="127.0.0.1:8081", help="gRPC address of the retriever")
    parser.add_argument("--ranker", default="127.0.0.1:9000", help="gRPC address of Triton")
    parser.add_argument("--retriever_deadline_ms", type=float, default=500)
    parser.add_argument("--ranker_deadline_ms", type=float, default=500)
    parser.add_argument("--candidates", type=int, default=500, help="candidates ranked per request")
    parser.add_argument("--variant", default="champion", help="name of this experiment arm")
    parser.add_argument("--pseudonym_key", type=Path, help="key file of the import; none: ids are pseudonyms already")
    parser.add_argument("--clock", choices=["wall", "data"], default="wall", help="data: go on from the bundle's end")
    parser.add_argument("--impressions", type=Path, help="folder of the impression log; none: not logged")
    parser.add_argument(
        "--impression_features", choices=["none", "shown", "candidates"], default="shown",
        help="whose features are logged with a shown list",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="of the exploration; none: random")
    parser.add_argument("--guard", type=Path, help="YAML: API keys, rate and size limits; none: open, 1 MiB a request")
    parser.add_argument("--http_port", type=int, default=8080)
    parser.add_argument("--grpc_port", type=int, help="Open Inference Protocol over gRPC; none: REST only")
    return parser.parse_known_args()[0]


def clock_of(kind: str, as_of: int) -> Callable[[], int]:
    """Microseconds since 1970, of the wall or continuing from where the data ends (for shops of the past)."""
    if kind == "wall":
        return lambda: time.time_ns() // 1000
    start = time.monotonic_ns()
    return lambda: as_of + (time.monotonic_ns() - start) // 1000


def engine_of(args: argparse.Namespace) -> Engine:
    """Open the bundle and its stores, and connect the engine to its hops (lazily: they may start later)."""
    bundle = Bundle.open(args.bundle)
    pseudonym: Pseudonym = unchanged
    if args.pseudonym_key:
        # A key that is made up here would match nobody who was imported with another.
        if not args.pseudonym_key.is_file() and not os.environ.get(KEY_VARIABLE):
            raise InvalidInput(f"{args.pseudonym_key} does not exist: name the key file of the import")
        pseudonym = Pseudonymiser(load_key(args.pseudonym_key)).of
    people = StoredPeople(bundle, lay_out(bundle, args.state), pseudonym)
    return Engine(
        bundle=bundle,
        people=people,
        retrieve=retriever_hop(
            args.retriever, args.retriever_deadline_ms / 1e3, bundle.manifest.version, len(bundle.sources)
        ),
        score=ranker_hop(args.ranker, bundle.ranker, args.ranker_deadline_ms / 1e3),
        clock=clock_of(args.clock, bundle.as_of),
        rng=np.random.default_rng(args.seed),
        pseudonym=pseudonym,
        config=EngineConfig(candidates=args.candidates, variant=args.variant),
        impressions=ImpressionLog(args.impressions, args.impression_features) if args.impressions else None,
    )


def main() -> None:
    """Serve until told to stop."""
    args = arguments()
    try:
        guard = Guard.load(args.guard)
        model = RecommenderModel(engine_of(args))
    except LongtailError as error:
        sys.exit(f"recommender: {error}")
    Server(args.http_port, args.grpc_port).serve(model, guard)
