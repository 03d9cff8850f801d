"""The progress of long work on stderr: a bar on a terminal, plain lines in a log."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

EVERY_S = 10.0  # how often a log hears of work that lasts


@contextlib.contextmanager
def shown(console: Console | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """A `longtail.datasets.progress.Progress` for as long as the work lasts; the bar is gone afterwards."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines(console)
        yield lines
        lines.end()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("starting", total=None, count="")

        def report(what: str, done: int, of: int) -> None:
            count = f"{done:,} of {of:,}" if of else ""
            bars.update(bar, description=what, completed=done, total=of or None, count=count)

        yield report


class _Lines:
    """A line when a kind of work ends, with the time it took, and one now and then while it lasts.

    Nothing when it begins: a mistake that is found at once stays one line.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.what = ""
        self.began = self.said = time.monotonic()

    def __call__(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if what != self.what:
            self.end()
            self.what, self.began, self.said = what, now, now
        elif of and now - self.said >= EVERY_S:
            self.said = now
            self._say(f"{what}: {done:,} of {of:,}")

    def end(self) -> None:
        """The work that was under way is done."""
        if self.what:
            self._say(f"{self.what}: {time.monotonic() - self.began:.1f} s")

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
