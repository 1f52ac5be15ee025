"""What runs beside the manager all the time, as on a host of an operator's: every reader that day two has.

dynmem events --follow --json     what happens, line by line
dynmem top -b                     a row for each VM and second
dynmem metrics --textfile         from a timer, for node_exporter
dynmem web                        the page
Prometheus                        where it is there, with our rules
"""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from tests.rigs.managers import DYNMEM, RunningManager, cli
from tests.rigs.prometheus import ROOT, program, serving
from tests.rigs.scenes import PATIENCE_S, until

TEXTFILE_S: Final = 15.0
#: An event is followed about a second after it happened.
FOLLOWED_S: Final = 4.0
RULES: Final = tuple(ROOT / "contrib" / "prometheus" / name for name in ("alerts.yml", "recording.yml"))


class Beside:
    """The readers.

    Attributes:
        folder: Where they write.
        metrics_port: Where the manager serves its metrics.
        web: The address of the page.
        prometheus: The address of Prometheus; empty: it is not there.
        textfiles: How often the file for node_exporter was written.
        codes: The exit code of each program that has ended.
        ended_s: When the first of them was to end, in seconds since the epoch.
    """

    def __init__(self, folder: Path, manager: RunningManager) -> None:
        self.folder = folder
        self.metrics_port = 0
        self.web = self.prometheus = ""
        self.textfiles = 0
        self.codes: dict[str, int | None] = {}
        self.ended_s = 0.0
        self._manager = manager

    @property
    def textfile(self) -> Path:
        """The file for node_exporter."""
        return self.folder / "dynmem.prom"

    def followed(self) -> list[dict[str, Any]]:
        """Return the events that were followed."""
        return [json.loads(line) for line in (self.folder / "events").read_text().splitlines()]

    @contextlib.asynccontextmanager
    async def run(self, state: Path) -> AsyncIterator[None]:
        """Run all of them for as long as the block lasts."""
        socket = str(self._manager.socket)
        served = await until(lambda: [line for line in self._manager.lines if "metrics are served" in line])
        self.metrics_port = int(served[0].rpartition(":")[2].removesuffix("/metrics"))
        async with contextlib.AsyncExitStack() as stack:
            for name, arguments in {
                "events": ("events", "--follow", "--json", "--state", str(state)),
                "top": ("top", "-b", "-d", "1", "--socket", socket),
                "web": ("web", "--listen", "127.0.0.1:0", "--socket", socket, "--state", str(state)),
            }.items():
                await stack.enter_async_context(self._running(name, *arguments))
            if program("prometheus"):
                home = self.folder / "prometheus"
                home.mkdir()
                self.prometheus = stack.enter_context(serving(home, self.metrics_port, *RULES))
            self.web = await until(self._page_address)
            writing = asyncio.create_task(self._write_textfiles(socket))
            try:
                yield
                await asyncio.sleep(FOLLOWED_S)
            finally:
                self.ended_s = time.time()
                writing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await writing

    def _page_address(self) -> str:
        begin, _, rest = (self.folder / "web").read_text().partition("http://")
        return f"http://{rest.split('/')[0]}" if begin and rest else ""

    async def _write_textfiles(self, socket: str) -> None:
        while True:
            code, _, error = await cli("metrics", "--textfile", self.textfile, "--socket", socket)
            assert code == 0, error
            self.textfiles += 1
            await asyncio.sleep(TEXTFILE_S)

    @contextlib.asynccontextmanager
    async def _running(self, name: str, *arguments: str) -> AsyncIterator[None]:
        """Run a command of dynmem until the block ends, then end it as Ctrl-C does."""
        with (self.folder / name).open("wb") as out, (self.folder / f"{name}.errors").open("wb") as errors:
            process = await asyncio.create_subprocess_exec(*DYNMEM, *arguments, stdout=out, stderr=errors)
        try:
            yield
            process.send_signal(signal.SIGINT)
            await asyncio.wait_for(process.wait(), PATIENCE_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            self.codes[name] = await process.wait()

    def errors(self, name: str) -> str:
        """Return what a program wrote on standard error."""
        return (self.folder / f"{name}.errors").read_text()
