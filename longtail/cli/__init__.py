"""The `longtail` command line. Every heavy import waits inside its command, so that `--help` answers at once."""

from longtail.cli.terminal import one_line_errors

with one_line_errors():  # Ctrl-C while the rest is imported
    from longtail.cli.app import app, main

__all__ = ["app", "main"]
