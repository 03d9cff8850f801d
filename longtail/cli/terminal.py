"""How every command ends: one clear line and an exit code for a user's mistake, a traceback only for ours."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

from longtail.errors import LongtailError

INTERRUPTED = 130
STOPPED = "longtail: stopped\n"


@contextlib.contextmanager
def ending_on_signals(tell: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the work through its clean-up, as Ctrl-C does, after `tell` has passed it on.

    Also where a shell started the program with SIGINT ignored.
    """

    def stop(*_: object) -> None:
        tell()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave() -> None:
    """End now, for `ending_on_signals`: while modules are imported, where an exception may get lost or become another
    one, and nothing was begun that had to be put in order."""
    os.write(2, STOPPED.encode())  # a handler must not print: it may have come in the middle of a print
    os._exit(INTERRUPTED)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a `LongtailError` into its message on stderr and its exit code, Ctrl-C into exit code 130.

    `LONGTAIL_DEBUG=1` lets the traceback through.
    """
    try:
        yield
    except LongtailError as error:
        if os.environ.get("LONGTAIL_DEBUG"):
            raise
        print(f"longtail: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        sys.stderr.write(STOPPED)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of a pipe left: what it did not read it did not want.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
