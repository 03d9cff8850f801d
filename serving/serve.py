"""`longtail serve`: all servers of a bundle in the foreground, until Ctrl-C or SIGTERM."""

import argparse
import signal
import threading
from pathlib import Path

from longtail.cli.terminal import one_line_errors
from serving.local import LocalServing


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line; people meet it as `longtail serve --help`."""
    parser = argparse.ArgumentParser(prog="python -m serving.serve", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True, help="folder for logs and online stores")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--clock", choices=["wall", "data"], default="wall")
    parser.add_argument("--pseudonym-key", type=Path)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Serve until told to stop, then end every server."""
    args = arguments(given)
    told = threading.Event()
    say = lambda text: print(text, flush=True)  # noqa: E731
    with one_line_errors():
        serving = LocalServing(
            args.bundle,
            args.state,
            http_port=args.port,
            clock=args.clock,
            pseudonym_key=args.pseudonym_key,
            report=say,
        )

        def tell(*_: object) -> None:
            told.set()
            serving.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, tell)
        with serving:
            say(f"logs are in {serving.state}; Ctrl-C stops")
            told.wait()
            say("stopping")


if __name__ == "__main__":
    main()
