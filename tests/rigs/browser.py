"""A real browser for the tests: Debian's Chromium without a window, driven by its own driver.

It resolves no name and so reaches nothing but this machine, keeps all its files in a folder of its own, and
goes with its driver's process group. Starting it takes longer than a test: let one serve a module.
"""

import base64
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.rigs.scenes import PATIENCE_S
from tests.rigs.small_png import small_png

from dynmem.lab import browser as setup

_ARGUMENTS: Final = (
    "--headless=new",
    "--no-sandbox",  # it refuses to run as root with one
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--disable-features=MediaRouter,OptimizationHints,Translate,AutofillServerCommunication",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-proxy-server",
    "--password-store=basic",
)
#: What a desktop's window and a small phone's screen have, in CSS pixels.
DESKTOP: Final = (1280, 900)
PHONE: Final = (360, 740)


def require() -> setup.Found:
    """The browser; without it the test is skipped, or in the gate fails."""
    found = setup.find()
    if found is None and "DYNMEM_GATE" not in os.environ:
        pytest.skip("the browser is not set up: run scripts/setup-browser")
    assert found is not None
    return found


class Browser:
    """A browser with one page.

    Attributes:
        driver: Selenium's.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str, size: tuple[int, int] = DESKTOP) -> None:
        """Open a page at a size, as if for the first time."""
        self.blank()
        self.resize(size)
        self.driver.get(url)

    def blank(self) -> None:
        """Leave the page, and forget what it said and which media it was shown with."""
        self.driver.get("about:blank")
        self.media()
        self.driver.get_log("browser")

    def resize(self, size: tuple[int, int]) -> None:
        """Show the page at a size in CSS pixels: a window cannot be as narrow as a phone."""
        width, height = size
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def media(self, **features: str) -> None:
        """Prefer what is named (``prefers_color_scheme="dark"``); without any, what is the default."""
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.command("Emulation.setEmulatedMedia", features=wanted)

    def command(self, name: str, **parameters: object) -> dict[str, Any]:
        """Carry out a command of the DevTools protocol."""
        reply = self.driver.execute_cdp_cmd(name, parameters)
        assert isinstance(reply, dict)
        return reply

    def run(self, script: str, *arguments: object) -> Any:
        """Run JavaScript in the page, and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """What the first element of a selector shows."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def texts(self, selector: str) -> list[str]:
        """What each element of a selector shows."""
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText)"
        return list(self.run(script, selector))

    def until(self, wanted: Callable[[], Any]) -> Any:
        """Return what `wanted` returns once that is true; fail with the page's text and complaints."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := wanted()):
            assert time.monotonic() < deadline, (found, self.text("body")[-3000:], self.complaints())
            time.sleep(0.02)
        return found

    def fill(self, selector: str, value: str, kind: str = "input") -> None:
        """Write into a field, or choose in a list (*kind* "change")."""
        self.run(
            "const field = document.querySelector(arguments[0]);"
            "field.value = arguments[1]; field.dispatchEvent(new Event(arguments[2]))",
            selector,
            value,
            kind,
        )

    def click(self, selector: str) -> None:
        """Click the first element of a selector, wherever it is."""
        self.run("document.querySelector(arguments[0]).click()", selector)

    def press(self, *keys: str) -> None:
        """Press keys as a person does, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def focus(self) -> str:
        """What has the focus: its text, or its id."""
        return str(self.run("return document.activeElement.innerText || document.activeElement.id"))

    def complaints(self) -> list[str]:
        """What the console says since it was asked last: errors of scripts, and what the CSP forbids."""
        return [f"{each['source']}: {each['message']}" for each in self.driver.get_log("browser")]

    def counts(self) -> dict[str, int]:
        """What the page holds without garbage: Nodes, JSEventListeners, JSHeapUsedSize and others."""
        self.command("HeapProfiler.collectGarbage")
        return {
            each["name"]: int(each["value"]) for each in self.command("Performance.getMetrics")["metrics"]
        }

    def screenshot(self, *, whole: bool = False) -> bytes:
        """The page, or its window, as PNG."""
        shot = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])

    def picture(self, *, whole: bool = False) -> bytes:
        """The same for a document, several times smaller."""
        shot = base64.b64encode(self.screenshot(whole=whole)).decode()
        width, height, pixels = self.driver.execute_async_script(_PIXELS, shot)
        return small_png(width, height, base64.b64decode(pixels))


_PIXELS: Final = """
const [shot, done] = arguments;
const bytes = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
createImageBitmap(new Blob([bytes(shot)], { type: 'image/png' })).then((image) => {
  const drawn = new OffscreenCanvas(image.width, image.height).getContext('2d');
  drawn.drawImage(image, 0, 0);
  const { data } = drawn.getImageData(0, 0, image.width, image.height);
  let text = '';
  for (let at = 0; at < data.length; at += 32768) {
    text += String.fromCharCode(...data.subarray(at, at + 32768));
  }
  done([image.width, image.height, btoa(text)]);
});
"""


@contextlib.contextmanager
def browsing(language: str = "en-GB") -> Iterator[Browser]:
    """A browser that runs, and is gone afterwards with its driver and all its files."""
    found = require()
    from selenium import webdriver

    with tempfile.TemporaryDirectory(prefix="page-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        options = webdriver.ChromeOptions()
        options.binary_location = found.browser
        for argument in (*_ARGUMENTS, f"--user-data-dir={folder}/profile", f"--lang={language}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        environment = {"PATH": os.environ["PATH"], "HOME": name, "TMPDIR": name, "TZ": "UTC"}
        service = webdriver.ChromeService(
            found.driver,
            env=environment | {"LANG": "C.UTF-8"},
            popen_kw={"start_new_session": True},
        )
        driver = None
        try:
            driver = webdriver.Chrome(options, service)
            driver.execute_cdp_cmd("Performance.enable", {})
            yield Browser(driver)
        finally:
            if driver is not None:
                with contextlib.suppress(Exception):  # it has ended: its group is killed
                    driver.quit()
            if (process := getattr(service, "process", None)) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(PATIENCE_S)
