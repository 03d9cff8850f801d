"""Pictures of the playground for the docs: `python -m tests.serving.screenshots BUNDLE [--out docs]`."""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image

from serving.local import LocalServing
from serving.playground.local import LocalPlayground
from serving.process import LOOPBACK
from tests.serving.browser import SIZE, Page, browser

VIEW = (1360, 940, 1.5)
LARGEST = 300_000
CARD = ".found li:nth-of-type(2) .card"


def before_and_after(page: Page, url: str, out: Path) -> list[Path]:
    """Somebody's list, the next one after a click, and the trace of it: `playground-before`, `-after`, `-trace`."""
    page.resize(*VIEW)
    try:
        page.open(url)
        page.click("#choose")
        page.until(lambda: page.all(CARD), what="people")
        page.click(CARD)
        page.wait()
        made = [shoot(page, out / "playground-before.png")]
        # Something of another kind than what is on top: that is the click with something to say.
        tops = [path.split(" ")[0] for path in page.texts(".tile .path")]
        other = next((n for n, top in enumerate(tops) if n > 3 and top != tops[0]), 0)
        page.click(".tile [data-do=click]", other)
        page.wait()
        made.append(shoot(page, out / "playground-after.png"))
        page.click(".tile .reason", 1)
        page.until(lambda: page.all("#trace .bars li"), what="trace")
        return [*made, shoot(page, out / "playground-trace.png")]
    finally:
        page.resize(*SIZE)


def shoot(page: Page, path: Path) -> Path:
    """Write what is on the screen, in 256 colours: drawings lose nothing by it, and a clone stays small."""
    page.run("document.activeElement.blur(); scrollTo(0, 0)")
    page.settle()
    picture = Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < LARGEST, f"{path} has {path.stat().st_size} bytes"
    return path


def main() -> None:
    """Start the servers of a bundle, take the pictures, stop."""
    parser = argparse.ArgumentParser(prog="python -m tests.serving.screenshots", description=__doc__)
    parser.add_argument("bundle", type=Path, help="a bundle, such as the one that `make demo` names at its end")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, LocalServing(args.bundle, Path(folder), clock="data") as serving:
        url = f"http://{LOOPBACK}:{serving.http_port}"
        with LocalPlayground(args.bundle, url, Path(folder) / "playground.log") as playground, browser() as page:
            for path in before_and_after(page, playground.wait(), args.out):
                print(f"{path}  {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
