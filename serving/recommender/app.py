"""The command line of the recommender server."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from longtail.engine.asking import Pseudonym, unchanged
from longtail.engine.config import EngineConfig
from longtail.engine.deployment import Deployment, DeploymentWatch
from longtail.engine.experiment_log import DraftLog, ExposureLog
from longtail.engine.fleet import Fleet
from longtail.engine.impressions import ImpressionLog
from longtail.engine.lists import open_lists
from longtail.errors import InvalidInput, LongtailError
from longtail.features.live import open_live
from longtail.governance.audit import AuditLog
from longtail.identity import Pseudonymiser, load_key
from longtail.identity.pseudonyms import KEY_VARIABLE
from longtail.surfaces.watch import SurfacesWatch
from serving import logs
from serving.edge.guard import Guard
from serving.recommender.model import RecommenderModel
from serving.recommender.opening import Opener
from serving.recommender.upkeep import upkeep
from serving.server import Server, kserve_app

VARIABLE = "LONGTAIL_"
# While a bundle is opened in a thread, a request waits no longer than this for its turn at the interpreter.
SWITCH_S = 0.001


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line; what `EngineConfig` holds may also come from the environment."""
    parser = argparse.ArgumentParser(prog="serving.recommender", description="Serve recommendations of bundles.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--bundle", type=Path, help="folder of one bundle that answers everybody")
    what.add_argument("--deployment", type=Path, help="YAML: variants and their shares; followed while serving")
    parser.add_argument("--state", type=Path, required=True, help="folder for the online stores")
    parser.add_argument("--retriever", default="127.0.0.1:8081", help="host:port of the retriever")
    parser.add_argument("--ranker", default="127.0.0.1:8000", help="host:port of Triton")
    parser.add_argument("--live", help="live events: sqlite:///path/live.db or redis://; none: the bundle's histories")
    parser.add_argument("--lists", help="lists made before: sqlite:///path/lists.db or redis://; none: nobody's")
    parser.add_argument("--surfaces", type=Path, help="YAML, followed while serving; none: the bundle's own")
    parser.add_argument("--pseudonym_key", type=Path, help="key file of the import; none: ids are pseudonyms already")
    parser.add_argument("--clock", choices=["wall", "data"], default="wall", help="data: go on from the bundle's end")
    parser.add_argument("--impressions", type=Path, help="folder of the impression log; none: not logged")
    parser.add_argument("--experiments", type=Path, help="folder for exposures/ and drafts/; none: not logged")
    parser.add_argument(
        "--impression_features", choices=["none", "shown", "candidates"], default="shown",
        help="whose features are logged with a shown list",
    )  # fmt: skip
    parser.add_argument("--salt", default="longtail", help="another one deals the people anew to the variants")
    parser.add_argument("--seed", type=int, help="of the exploration; none: random")
    parser.add_argument("--guard", type=Path, help="YAML: API keys, rate and size limits; none: open, 1 MiB a request")
    parser.add_argument("--http_port", type=int, default=8080)
    parser.add_argument("--grpc_port", type=int, help="Open Inference Protocol over gRPC; none: REST only")
    for setting in fields(EngineConfig):
        if "help" in setting.metadata and setting.default is not MISSING:
            kind = type(setting.default)
            default = os.environ.get(f"{VARIABLE}{setting.name.upper()}", setting.default)
            parser.add_argument(f"--{setting.name}", type=kind, default=default, help=setting.metadata["help"])
    return parser.parse_known_args(given)[0]


def config_of(args: argparse.Namespace) -> EngineConfig:
    """The engine's part of the command line.

    Raises:
        InvalidInput: a value is negative.
    """
    given: dict[str, Any] = {f.name: getattr(args, f.name) for f in fields(EngineConfig) if "help" in f.metadata}
    for name, value in given.items():
        if not value >= (1 if name in ("candidates", "batch") else 0):
            raise InvalidInput(f"--{name} {value}: is too small")
    return EngineConfig(**given)


def pseudonym_of(key_file: Path | None) -> Pseudonym:
    """How ids become stored ones.

    Raises:
        InvalidInput: the key file does not exist: one that is made up here would match nobody who was imported.
    """
    if key_file is None:
        return unchanged
    if not key_file.is_file() and not os.environ.get(KEY_VARIABLE):
        raise InvalidInput(f"{key_file} does not exist: name the key file of the import")
    return Pseudonymiser(load_key(key_file)).of


def model_of(args: argparse.Namespace) -> RecommenderModel:
    """Open the bundles and their stores, and connect to the hops (lazily: they may start later).

    Raises:
        LongtailError: a mistake in the arguments, or no bundle can be opened.
    """
    surfaces = SurfacesWatch(args.surfaces) if args.surfaces else None
    watch = DeploymentWatch(args.deployment) if args.deployment else None
    opener = Opener(
        args.state, args.retriever, args.ranker, config_of(args), args.clock, pseudonym_of(args.pseudonym_key),
        open_live(args.live) if args.live else None, open_lists(args.lists) if args.lists else None,
        ImpressionLog(args.impressions, args.impression_features) if args.impressions else None,
        lambda: surfaces.current if surfaces else None, args.seed,
        exposures=ExposureLog(args.experiments / "exposures") if args.experiments else None,
    )  # fmt: skip
    drafts = DraftLog(args.experiments / "drafts") if args.experiments else None
    in_force = surfaces.current if surfaces else None
    fleet = Fleet(opener, args.salt, pseudonym=opener.pseudonym, surfaces=in_force, drafts=drafts)
    if watch is None:
        fleet.start(Deployment.single(args.bundle))
    else:
        wanted = watch.first()
        fleet.start(wanted, watch.accepted)
        if fleet.refused is None:
            watch.accept(wanted)
    opener.beside = True
    return RecommenderModel(fleet, lambda: upkeep(fleet, watch, surfaces, AuditLog.of(args.state)))


def main() -> None:
    """Serve until told to stop."""
    args = arguments()
    logs.configure("recommender")
    sys.setswitchinterval(SWITCH_S)
    try:
        server = Server(args.http_port, args.grpc_port)
        guard = Guard.load(args.guard)
        model = model_of(args)
    except LongtailError as error:
        sys.exit(f"recommender: {error}")
    kserve_app.add_api_route("/v1/status", model.status, methods=["GET"])
    # What is there now stays: the collector of garbage need not look at millions of objects again and again.
    gc.collect()
    gc.freeze()
    server.serve(model, guard)
