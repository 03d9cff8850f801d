"""`longtail serve`: all servers of a bundle in the foreground, until Ctrl-C or SIGTERM."""

import argparse
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from longtail.cli.terminal import one_line_errors
from longtail.engine.deployment import DEPLOYMENT, Deployment, DeploymentWatch
from longtail.errors import InvalidInput
from serving.collector.local import LocalCollector
from serving.local import LocalServing

PASSED_ON = ("surfaces", "lists", "guard", "impression_features")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line; people meet it as `longtail serve --help`."""
    parser = argparse.ArgumentParser(prog="python -m serving.serve", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--challenger", type=Path, help="a second bundle beside it")
    parser.add_argument("--share", type=float, default=0.1, help="of the people, that the challenger answers")
    parser.add_argument("--state", type=Path, required=True, help="folder for logs, events, lists and online stores")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--events-port", type=int, help="of the collector; none: no collector")
    parser.add_argument("--live", help="store of live events that another collector fills")
    for name in PASSED_ON:
        parser.add_argument(f"--{name}", help="see `python -m serving.recommender --help`")
    parser.add_argument("--clock", choices=["wall", "data"], default="wall")
    parser.add_argument("--pseudonym-key", type=Path)
    return parser.parse_args(given)


def resumed(deployment: Deployment, file: Path, say: Callable[[str], None]) -> Deployment:
    """The deployment with the experiments and the holdout of the last one that was served here.

    Raises:
        InvalidInput: experiments ran, and this has several variants.
    """
    try:
        before = DeploymentWatch(file).first()
    except InvalidInput:
        return deployment
    for name, placed in before.experiments.items():
        gone = [str(bundle) for bundle in placed.bundles if not (bundle / "manifest.json").is_file()]
        if gone:
            say(f"experiment {name} does not go on: there is no bundle in {', '.join(gone)}")
            before = before.without(name)
        else:
            say(f"experiment {name} goes on")
    return deployment.beside(before)


def main(given: list[str] | None = None) -> None:
    """Serve until told to stop, then end every server."""
    args = arguments(given)
    told = threading.Event()
    say = lambda text: print(text, flush=True)  # noqa: E731
    with one_line_errors():
        collector = None
        if args.events_port is not None:
            collector = LocalCollector(args.state, args.pseudonym_key, args.events_port)
        extra = [word for name in PASSED_ON if getattr(args, name) for word in (f"--{name}", getattr(args, name))]
        deployment = resumed(Deployment.of(args.bundle, args.challenger, args.share), args.state / DEPLOYMENT, say)
        serving = LocalServing(
            deployment,
            args.state,
            http_port=args.port,
            clock=args.clock,
            pseudonym_key=args.pseudonym_key,
            impressions=args.state / "impressions",
            live=args.live,
            collector=collector,
            extra=extra,
            report=say,
        )

        def tell(*_: object) -> None:
            told.set()
            serving.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, tell)
        with serving:
            if collector is not None:
                say(f"events are taken at {collector.url}/v1/events")
            say(f"logs are in {serving.state}; Ctrl-C stops")
            told.wait()
            say("stopping")


if __name__ == "__main__":
    main()
