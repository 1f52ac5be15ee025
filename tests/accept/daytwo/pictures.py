"""Pictures of the run, taken while it goes on: `dynmem top`, the page, and the dashboards.

They are taken in every run, since they are figures as well: what is shown has to be there. Only with
``--pictures`` do they replace those in docs/.
"""

import asyncio
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any, Final

from tests.accept.daytwo.boards import Panel
from tests.accept.daytwo.script import VMS
from tests.accept.figures import Figures
from tests.rigs.browser import browsing
from tests.rigs.page_double import choose
from tests.rigs.prometheus import ROOT

from dynmem.lab import browser as setup
from dynmem.manager.api.client import ask, status_of
from dynmem.manager.api.messages import StatusReply

TERMINAL: Final = (104, 10)
TOP_LOOKS: Final = 4
PAINT_MS: Final = 1000.0
WINDOW: Final = (1280, 1000)
UPLOT: Final = ROOT / "src" / "dynmem" / "web" / "page" / "uplot"
#: A plot is drawn in the frame after its figures came.
SETTLED_S: Final = 1.0
#: Shows a time, given in seconds since the epoch; the browser's clock is in UTC.
_SINCE: Final = """
const text = (seconds) => new Date(1000 * seconds).toISOString().slice(0, 19);
document.querySelector("#span [value=custom]").click();
document.querySelector("#custom [name=since]").value = text(arguments[0]);
document.querySelector("#custom [name=until]").value = text(arguments[1]);
document.querySelector("#custom button").click();
"""
#: How many replies about this time have come.
_CAME: Final = """
const since = `since=${arguments[0]}.000`;
return performance.getEntriesByType("resource").filter((each) => each.name.includes(since)).length;
"""
#: What rich writes into an SVG for a font of another host's.
_FONT: Final = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)


class Shots:
    """The pictures of a run.

    Attributes:
        folder: Where they are made.
        docs: Where they are to be copied to; None: nowhere.
    """

    def __init__(self, folder: Path, docs: Path | None) -> None:
        self.folder, self.docs = folder, docs
        folder.mkdir()

    def _keep(self, path: Path) -> None:
        if self.docs is not None:
            shutil.copyfile(path, self.docs / path.name)

    async def top(self, socket: Path, figures: Figures) -> None:
        """Show `dynmem top` on a terminal that is only in memory, and take its picture."""
        try:
            from dynmem.top.screen import live_table
        except ImportError:
            figures.note("top: textual is not installed: no picture", "-")
            return
        from dynmem.cli.explain_text import explained

        looks = 0

        def look() -> StatusReply:
            nonlocal looks
            looks += 1
            return status_of(ask(socket, {"command": "status"}))

        app = live_table(look, explained, await asyncio.to_thread(look), None)
        async with app.run_test(size=TERMINAL) as pilot:
            while looks < TOP_LOOKS:
                await pilot.pause(0.1)
            await pilot.press("n")
            await pilot.pause()
            drawn = app.export_screenshot(title="dynmem top")
        shown = sorted(name for name in VMS if f">{name}&#160;" in drawn)
        figures.equal("top: VMs on its screen", ", ".join(shown), ", ".join(sorted(VMS)), "all")
        path = self.folder / "top.svg"
        path.write_text(alone(drawn))
        self._keep(path)

    async def page(self, address: str, since_s: float, figures: Figures) -> None:
        """Open the page in a browser, and take its picture."""
        if setup.find() is None:
            figures.note("page: no browser is set up: no picture", "-")
            return
        path = self.folder / "daytwo.png"
        seen = await asyncio.to_thread(_page, address, since_s, path)
        figures.equal("page: VMs that it shows", ", ".join(seen["vms"]), ", ".join(sorted(VMS)), "all")
        figures.equal("  complaints of the browser", seen["complaints"], [], "none")
        figures.at_most(
            "  first paint, ms", seen["paint_ms"], PAINT_MS, "the machine is busy with its guests"
        )
        self._keep(path)

    async def dashboards(self, panels: list[Panel], figures: Figures) -> None:
        """Draw the dashboards, and take the picture."""
        if setup.find() is None:
            figures.note("dashboards: no browser is set up: no picture", "-")
            return
        page, path = self.folder / "dashboards.html", self.folder / "dashboards.png"
        page.write_text(drawing(panels))
        drawn, complaints = await asyncio.to_thread(_drawn, page, path)
        figures.equal("dashboards: panels that are drawn", drawn, len(panels), "all")
        figures.equal("  complaints of the browser", complaints, [], "none")
        self._keep(path)


def alone(drawn: str) -> str:
    """Return an SVG that needs nothing from anywhere else."""
    return re.sub(r"font-family: ?[^;]*;", "font-family: monospace;", _FONT.sub("", drawn))


def drawing(panels: list[Panel]) -> str:
    """Return a page that draws panels, whole in one file."""
    script = (Path(__file__).parent / "boards.js").read_text()
    made = [panel._asdict() | {"lines": [line._asdict() for line in panel.lines]} for panel in panels]
    data = json.dumps(made).replace("</", "<\\/")
    return "\n".join(
        [
            '<!doctype html><meta charset="utf-8"><title>dashboards</title>',
            f"<style>{(UPLOT / 'uPlot.min.css').read_text()}</style>",
            f"<style>{(Path(__file__).parent / 'boards.css').read_text()}</style>",
            f"<body><script>{(UPLOT / 'uPlot.iife.min.js').read_text()}</script>",
            f"<script>const PANELS = {data};\n{script}</script>",
        ]
    )


def _page(address: str, since_s: float, path: Path) -> dict[str, Any]:
    """Open the page, look more closely at db since the run began, and take the picture."""
    with browsing() as browser:
        browser.open(address, WINDOW)
        browser.until(lambda: all(name in browser.texts("#rows button") for name in VMS))
        paints = browser.run("return performance.getEntriesByType('paint').map((p) => [p.name, p.startTime])")
        vms = browser.texts("#rows button")
        choose(browser, "db")
        since = round(since_s)
        browser.run(_SINCE, since, round(time.time()))
        browser.until(lambda: browser.text("#explain pre") and browser.run(_CAME, since) >= 2)
        time.sleep(SETTLED_S)
        path.write_bytes(browser.picture())
        return {
            "vms": sorted(vms),
            "complaints": browser.complaints(),
            "paint_ms": float(dict(paints)["first-contentful-paint"]),
            "explained": browser.text("#explain pre"),
            "note": browser.text("#plot-note"),
        }


def _drawn(page: Path, path: Path) -> tuple[int, list[str]]:
    with browsing() as browser:
        browser.open(page.as_uri(), WINDOW)
        browser.until(lambda: browser.driver.title == "drawn")
        path.write_bytes(browser.picture(whole=True))
        return len(browser.texts(".panel")), browser.complaints()
