"""A real browser on the playground: Chromium from the system's packages, headless, with a profile of its own."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
SIZE = (1440, 1000)


def missing() -> str | None:
    """Why there is no browser here, None where there is one."""
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"{program} is not installed (apt-get install chromium chromium-driver)"
    return None


class Page:
    """The playground in a browser, as a person sees it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.lists = 0

    def open(self, url: str) -> Page:
        self.driver.get(url)
        self.lists = 0
        return self.wait()

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        """What is read there: "" where nothing is, or nothing shows."""
        return self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def texts(self, selector: str) -> list[str]:
        """What is read at each place, all at one moment."""
        return self.run("return [...document.querySelectorAll(arguments[0])].map(n => n.innerText)", selector)

    def shown(self) -> list[str]:
        """Item ids of the list, best first."""
        return self.run("return [...document.querySelectorAll('.tile')].map(t => t.dataset.item)")

    def click(self, selector: str, n: int = 0) -> None:
        """Click as a mouse does: on what lies on top there."""
        self.settle()
        node = self.all(selector)[n]
        self.run("arguments[0].scrollIntoView({block: 'center'})", node)
        node.click()

    def press(self, *keys: str) -> None:
        """Keys go where the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def wait(self, timeout_s: float = 30) -> Page:
        """Until one more list stands on the screen than after the last wait."""
        self.until(lambda: int(self.run("return document.body.dataset.lists || 0")) > self.lists, timeout_s, "a list")
        self.lists = int(self.run("return document.body.dataset.lists"))
        return self

    def until(self, true: Callable[[], object], timeout_s: float = 15, what: str = "it") -> None:
        deadline = time.monotonic() + timeout_s
        while not true():
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} after {timeout_s} s; the page says: {self.text('body')[:400]}")
            time.sleep(0.03)

    def settle(self) -> None:
        """Until nothing moves any more."""
        moving = (
            "return document.getAnimations().some(a => a.playState === 'running') "
            " || document.fonts.status !== 'loaded'"
        )
        self.until(lambda: not self.run(moving), what="end of the movement")

    def complaints(self) -> list[str]:
        """What the browser's console holds: refused resources and scripts that failed."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def dark(self, on: bool = True) -> None:
        value = "dark" if on else "light"
        feature = {"features": [{"name": "prefers-color-scheme", "value": value}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        view = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)


@contextmanager
def browser() -> Iterator[Page]:
    """A page in a fresh browser."""
    from selenium import webdriver

    folder = tempfile.mkdtemp(prefix="longtail-browser-")
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*FLAGS, f"--user-data-dir={folder}", "--window-size={},{}".format(*SIZE)):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        page = Page(driver)
        page.resize(*SIZE)
        yield page
    finally:
        driver.quit()
        shutil.rmtree(folder, ignore_errors=True)
