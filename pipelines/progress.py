"""A pipeline's progress for people: bars on a terminal, plain lines in a log."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@contextlib.contextmanager
def shown(steps: int, console: Console) -> Iterator[Callable[[str, str, str], None]]:
    """A `report(event, step, text)` for `pipelines.local.run` over a pipeline of so many steps."""
    began: dict[str, float] = {}
    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[said]}"),
    )
    live = {"transient": True, "redirect_stdout": False, "redirect_stderr": False, "disable": not console.is_terminal}
    with Progress(*columns, console=console, **live) as bars:
        bar = bars.add_task("training", total=steps, said="")

        def report(event: str, step: str, text: str) -> None:
            name = step.replace("-", " ")
            if event == "started":
                began[step] = time.monotonic()
                bars.update(bar, description=name, said="")
                if not console.is_terminal:
                    console.print(f"{name}: started", highlight=False)
            elif event == "said":
                bars.update(bar, said=text[:60])
                if not console.is_terminal:
                    console.print(f"{name}: {text}", highlight=False, markup=False, soft_wrap=True)
            elif event in ("SUCCESS", "reused"):
                bars.advance(bar)
                took = "done before" if event == "reused" else f"{time.monotonic() - began.get(step, 0):6.1f} s"
                console.print(f"  [green]✓[/green] {name:<18} {took}", highlight=False)
            elif event == "FAILURE":
                console.print(f"  [red]✗[/red] {name}", highlight=False)

        yield report
