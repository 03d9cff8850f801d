"""Pictures of the playground for the docs: `python -m tests.serving.screenshots BUNDLE [--out docs]`."""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image

from serving.collector.local import LocalCollector
from serving.local import LocalServing
from serving.playground.local import LocalPlayground
from serving.process import LOOPBACK
from tests.serving.browser import SIZE, Page, browser

VIEW = (1360, 940, 1.5)
LARGEST = 300_000


def before_and_after(page: Page, url: str, out: Path) -> list[Path]:
    """The list of somebody new, the next one after a click, and its trace: `playground-before`, `-after`, `-trace`."""
    page.resize(*VIEW)
    try:
        page.open(url)
        page.press("n")  # the first list of servers that have just started is no typical one
        page.wait()
        made = [shoot(page, out / "playground-before.png")]
        # Something of another kind than what is on top: that is the click with something to say.
        tops = [path.split(" ")[0] for path in page.texts(".tile .path")]
        other = next((n for n, top in enumerate(tops) if n > 3 and top != tops[0]), 0)
        page.click(".tile button[data-do=click]", other)
        page.wait()
        made.append(shoot(page, out / "playground-after.png"))
        new = page.run("return [...document.querySelectorAll('.tile')].findIndex(t => t.querySelector('.move.new'))")
        page.click(".tile .reason", max(new, 0))
        page.until(lambda: page.all("#trace .bars li"), what="trace")
        return [*made, shoot(page, out / "playground-trace.png", top=False)]
    finally:
        page.resize(*SIZE)


def shoot(page: Page, path: Path, top: bool = True) -> Path:
    """Write what is on the screen, at the page's `top` or where it is."""
    page.run("document.activeElement.blur(); if (arguments[0]) scrollTo(0, 0)", top)
    page.settle()
    picture = Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    # 256 colours, spread over all that occur and then moved to where they are needed: no eye sees the difference.
    small = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    assert path.stat().st_size < LARGEST, f"{path} has {path.stat().st_size} bytes"
    return path


def main() -> None:
    """Start the servers of a bundle, take the pictures, stop."""
    parser = argparse.ArgumentParser(prog="python -m tests.serving.screenshots", description=__doc__)
    parser.add_argument("bundle", type=Path, help="a bundle, such as the one that `make demo` names at its end")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, browser() as page:
        state = Path(folder)
        collector = LocalCollector(state / "collector", state / "key")
        serving = LocalServing(
            args.bundle, state, clock="data", pseudonym_key=state / "key", extra=["--live", collector.live]
        )
        url = f"http://{LOOPBACK}:{serving.http_port}"
        with collector, LocalPlayground(args.bundle, url, state / "log.txt", collector.url) as playground, serving:
            collector.wait()
            for path in before_and_after(page, playground.wait(), args.out):
                print(f"{path}  {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
