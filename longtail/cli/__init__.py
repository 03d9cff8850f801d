"""The `longtail` command line. Every heavy import waits inside its command, so that `--help` answers at once."""

from longtail.cli.app import app, main

__all__ = ["app", "main"]
