"""What a real browser needs for the tests: Debian's Chromium, its driver, and a font to draw with.

Nothing is started and nothing configured.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.errors import ConfigError
from dynmem.lab import packages

_BROWSER: Final = "chromium"
_DRIVER: Final = "chromedriver"
#: Below these, any font will do: without one a page has no letters to measure.
_FONTS: Final = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
_SETUP: Final = "scripts/setup-browser"


class Found(NamedTuple):
    """A browser that tests can drive.

    Attributes:
        browser: The path of Chromium.
        driver: The path of its driver.
    """

    browser: str
    driver: str


def find() -> Found | None:
    """Return the browser and its driver; None if one of them is not installed."""
    browser, driver = shutil.which(_BROWSER), shutil.which(_DRIVER)
    return None if browser is None or driver is None else Found(browser, driver)


def missing() -> list[str]:
    """Return the packages that this machine lacks."""
    lacking = [] if shutil.which(_BROWSER) else ["chromium"]
    lacking += [] if shutil.which(_DRIVER) else ["chromium-driver"]
    has_font = any(True for folder in _FONTS if folder.is_dir() for _ in folder.rglob("*.ttf"))
    return lacking if has_font else [*lacking, "fonts-dejavu-core"]


def set_up(*, agree: Callable[[str], bool], at_terminal: bool) -> Found:
    """Install what is missing, and return the browser; at once if all is there.

    `agree` is passed what would be installed, and returns whether to go on. Raises ConfigError or
    DynmemError.
    """
    if lacking := missing():
        what = f"the packages {' '.join(lacking)}"
        if not agree(f"Tests of the web page run a real browser, which is not here yet: {what}"):
            raise ConfigError(f"the browser is not set up: nothing was fetched ({_SETUP} asks again)")
        packages.install(lacking, at_terminal=at_terminal)
    found = find()
    if found is None:
        raise ConfigError("chromium or chromedriver is not where Debian puts it: install them by hand")
    return found
