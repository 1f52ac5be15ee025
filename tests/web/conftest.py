"""The page's tests: one browser for all of a module, and a page and its server for each."""

import time
from collections.abc import Iterator

import pytest
from tests.rigs.browser import Browser, browsing
from tests.rigs.page_double import PageDouble, names, page_double, status

from dynmem.units import MIB


@pytest.fixture(scope="module")
def module_browser() -> Iterator[Browser]:
    """A browser that runs."""
    with browsing() as running:
        yield running


@pytest.fixture
def browser(module_browser: Browser) -> Iterator[Browser]:
    """The module's browser, before and after on an empty page."""
    module_browser.blank()
    yield module_browser
    module_browser.blank()


@pytest.fixture
def double() -> Iterator[PageDouble]:
    """A server of the page with ten minutes of history."""
    with page_double(status()) as listening:
        now = time.time()
        listening.times = [now - 600 + each for each in range(0, 600, 6)]
        listening.series = {
            name: [float(at * MIB + each)] * len(listening.times)
            for each, (name, at) in enumerate(
                (("demand_bytes", 300), ("actual_bytes", 512), ("held_bytes", 600))
            )
        }
        yield listening


@pytest.fixture
def page(browser: Browser, double: PageDouble) -> Browser:
    """The page, live."""
    browser.open(double.url)
    browser.until(lambda: browser.text("#link") == "Live" and names(browser))
    return browser
