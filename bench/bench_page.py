"""The page in headless Chromium, by the browser's own clock, from the start of the navigation.

What is served comes from a server of the tests on this machine, with 200 VMs that change with each status.
"Rows painted" is the first frame in which every VM has its row.
"""

from collections.abc import Iterator
from functools import partial
from typing import Final

from tests.rigs.browser import Browser, browsing
from tests.rigs.page_double import names, page_double, status
from tests.rigs.status_double import vm_view

from bench.figures import Figure
from dynmem.units import MIB

VMS: Final = 200
UPDATES: Final = 50
PAINT_MS: Final = 1000.0
NODES_OF_A_VM_MAX: Final = 40.0
_WATCH: Final = """
const look = () => {
  if (document.querySelectorAll('#rows > *').length < %d) requestAnimationFrame(look);
  else requestAnimationFrame(() => { window.rowsPainted = performance.now(); });
};
requestAnimationFrame(look);
"""


def run() -> Iterator[Figure]:
    """Yield the figures."""
    looks = [
        status(*(vm_view(number, demand_bytes=(300 + number + turn) * MIB) for number in range(VMS)))
        for turn in range(2)
    ]
    with page_double(looks[0]) as double, browsing() as browser:
        browser.command("Page.addScriptToEvaluateOnNewDocument", source=_WATCH % VMS)
        browser.open(double.url)
        browser.until(lambda: browser.run("return window.rowsPainted"))
        painted_ms = float(browser.run("return window.rowsPainted"))
        first_ms = float(browser.run("return performance.getEntriesByType('paint')[0].startTime"))
        yield Figure("first contentful paint", first_ms, "ms", promised=PAINT_MS)
        yield Figure(f"rows of {VMS} VMs painted", painted_ms, "ms", promised=PAINT_MS)
        before = browser.counts()["Nodes"]
        spent_s = -_spent_s(browser)
        for turn in range(UPDATES):
            double.show(looks[(turn + 1) % 2])
            first = ("301 MiB", "300 MiB")[turn % 2]
            browser.until(partial(_shows, browser, first))
        spent_s += _spent_s(browser)
        yield Figure(f"main thread, an update of {VMS} rows that all change", spent_s / UPDATES * 1e3, "ms")
        after = browser.counts()["Nodes"]
        assert len(names(browser)) == VMS
        yield Figure("elements and texts in the page, a VM", after / VMS, "", at_most=NODES_OF_A_VM_MAX)
        yield Figure("more of them after these updates", after - before, "", at_most=0)


def _shows(browser: Browser, demand: str) -> bool:
    """Whether the first row has a demand; cheap, since looking counts as well."""
    return bool(
        browser.run("return document.querySelector('#rows .demand').textContent === arguments[0]", demand)
    )


def _spent_s(browser: Browser) -> float:
    """For how long the page's main thread has worked, by the browser."""
    metrics = browser.command("Performance.getMetrics")["metrics"]
    return float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))
