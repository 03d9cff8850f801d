"""`longtail playground`: the page on loopback, in the foreground, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import socket
import sys
import urllib.request
import webbrowser
from pathlib import Path

import uvicorn

from longtail.cli.terminal import one_line_errors
from longtail.errors import InvalidInput
from serving.playground.app import Playground
from serving.playground.shelf import Shelf
from serving.playground.upstream import Upstream, collector, recommender
from serving.process import LOOPBACK

KEY_VARIABLE = "LONGTAIL_API_KEY"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line; people meet it as `longtail playground --help`."""
    parser = argparse.ArgumentParser(prog="python -m serving.playground", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="names, prices and people come from it")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="the recommender")
    parser.add_argument("--collector", default="", help="address of the collector; none: clicks stay in the page")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--open", nargs="?", const="yes", default="", help="open the page in the browser")
    return parser.parse_args(given)


def listen(port: int) -> socket.socket:
    """A socket on loopback.

    Raises:
        InvalidInput: the port is taken, no port, or not for us.
    """
    if not 0 <= port < 2**16:
        raise InvalidInput(f"port {port}: a port is a number from 0 (any that is free) to 65535")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(128)  # who reads the address may ask at once
    except OSError as error:
        listener.close()
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise InvalidInput(f"port {port} {why}: choose another with --port") from None
    return listener


def answers(server: Upstream) -> bool:
    """Whether something is there and ready, asked once before the page is served."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(server.url + server.ready, timeout=2) as reply:
            return reply.status == 200
    except (OSError, ValueError):
        return False


def main(given: list[str] | None = None) -> None:
    """Serve until told to stop."""
    args = arguments(given)
    with one_line_errors():
        for url in filter(None, (args.url, args.collector)):
            if not url.startswith(("http://", "https://")):
                raise InvalidInput(f"{url} is no address: write one such as http://127.0.0.1:8080")
        shelf = Shelf.open(args.bundle)
        key = os.environ.get(KEY_VARIABLE)
        behind = [recommender(args.url, key), *([collector(args.collector, key)] if args.collector else [])]
        playground = Playground(shelf, behind[0], behind[1] if args.collector else None)
        listener = listen(args.port)
        address = f"http://{LOOPBACK}:{listener.getsockname()[1]}/"
        print(f"playground: {address}  (Ctrl-C stops)", flush=True)
        for server in behind:
            if not answers(server):
                print(f"longtail: {server.silent()}; the page waits for it", file=sys.stderr, flush=True)
        if args.open:
            webbrowser.open(address)
        config = uvicorn.Config(
            playground.app(), log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=2
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
