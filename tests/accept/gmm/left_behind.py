"""Two processes share equal pages; both are killed, one after the other, and nothing is left behind.

The memory is a file that the processes map, so its blocks (`st_blocks`) say what it takes of the host,
whatever the books say.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from tests.accept.figures import Figures, in_bytes, in_pages
from tests.accept.gmm import caller
from tests.accept.gmm.host import NotAcceptedError
from tests.rigs.scenes import PATIENCE_S

from dynmem.chunks.memfd_store import MemfdStore
from dynmem.chunks.server import RequestServer
from dynmem.gmm import GlobalMemoryManager, Stats
from dynmem.gmm.constants import GMM_CHUNK_NUM_PAGES, NIL_GMM_PAGEID
from dynmem.gmm.serving import perform
from dynmem.gmm.structures import GMMSHAREDPAGEDESC
from dynmem.units import PAGE_SIZE, STAT_BLOCK_BYTES

EQUAL: Final = 700  # pages that both have
OWN: Final = 200  # pages that only one has, in the same places of the same module
_TURN_S: Final = 0.02


async def play(folder: Path, figures: Figures) -> None:
    """Play the scene."""
    with MemfdStore(last_chunk=64) as store:
        gmm = GlobalMemoryManager(64 * GMM_CHUNK_NUM_PAGES, store)
        with RequestServer(folder / "gmm.sock", gmm, store, partial(perform, gmm)) as server:
            _Scene(figures, gmm, store, server).play(folder / "gmm.sock")


class _Scene:
    """The books, their memory and their callers."""

    def __init__(
        self, figures: Figures, gmm: GlobalMemoryManager, store: MemfdStore, server: RequestServer
    ) -> None:
        self._figures = figures
        self._gmm = gmm
        self._store = store
        self._server = server

    def play(self, path: Path) -> None:
        """Play it."""
        figures = self._figures
        with self._calling(path, "anna") as anna, self._calling(path, "ben") as ben:
            pages = {"anna": self._line(anna), "ben": self._line(ben)}
            all_pages = 2 * (EQUAL + OWN)
            stats = self._statistics()
            figures.equal(
                "pages of two processes, by the books",
                stats.allocated_pages,
                all_pages,
                "asked for",
                in_pages,
            )
            chunks = stats.chunks * GMM_CHUNK_NUM_PAGES
            figures.equal(
                "blocks of the memory file", self._blocks(), chunks * PAGE_SIZE, "its chunks, whole", in_bytes
            )

            self._share("anna", anna, pages["anna"])
            merged = self._share("ben", ben, pages["ben"])
            stats = self._statistics()
            figures.equal("ben's pages that were freed for anna's", merged, EQUAL, "what both have")
            figures.equal("cSharedPages", stats.shared_pages, EQUAL + OWN, "anna's")
            figures.equal("cDuplicatePages", stats.duplicate_pages, EQUAL, "what both have")
            figures.equal(
                "allocated, by the books", stats.allocated_pages, all_pages - EQUAL, "once for both", in_pages
            )
            blocks = self._blocks()
            figures.equal(
                "blocks of the memory file", blocks, (chunks - EQUAL) * PAGE_SIZE, "so many fewer", in_bytes
            )
            for name, process in (("anna", anna), ("ben", ben)):
                self._check(name, process, pages[name])

            self._kill("anna", anna)
            stats = self._statistics()
            figures.equal("cLeftBehindSharedPages", stats.left_behind_shared_pages, EQUAL + OWN, "anna's")
            figures.equal("cSharedPages", stats.shared_pages, EQUAL, "ben has them: reclaimed is the rest")
            figures.equal("cDuplicatePages", stats.duplicate_pages, 0, "ben alone has them")
            figures.equal("allocated, by the books", stats.allocated_pages, EQUAL + OWN, "ben's", in_pages)
            figures.equal(
                "blocks returned to the host",
                blocks - self._blocks(),
                OWN * PAGE_SIZE,
                "anna's own pages",
                in_bytes,
            )
            self._check("ben", ben, pages["ben"])

            self._kill("ben", ben)
            stats = self._statistics()
            figures.equal(
                "cLeftBehindSharedPages", stats.left_behind_shared_pages, 2 * EQUAL + OWN, "and ben's"
            )
            for what, seen in (
                ("cSharedPages", stats.shared_pages),
                ("allocated, by the books", stats.allocated_pages),
                ("cChunks", stats.chunks),
                ("cShareableModules", stats.shareable_modules),
                ("blocks of the memory file", self._blocks()),
            ):
                figures.equal(what, seen, 0, "nobody is there")

    def _share(self, name: str, process: subprocess.Popen[str], pages: list[int]) -> int:
        """Share the pages of a stopped process; note those it is to use, and return how many were freed."""
        os.kill(process.pid, signal.SIGSTOP)
        self._until(lambda: _state(process.pid) == "T", f"{name} is not stopped")
        self._gmm.sharing.stop(name)
        descriptor, merged = np.zeros(1, GMMSHAREDPAGEDESC), 0
        for place, own in enumerate(pages):
            descriptor["idPage"], descriptor["GCPhys"] = own, caller.BASE + place * PAGE_SIZE
            self._gmm.shared_module_check_page(name, caller.BASE, 0, place, descriptor[0])
            now = int(descriptor["idPage"][0])
            if now not in (NIL_GMM_PAGEID, own):
                pages[place] = now
                merged += 1
        self._gmm.verify()
        self._gmm.sharing.resume(name)
        os.kill(process.pid, signal.SIGCONT)
        return merged

    def _check(self, name: str, process: subprocess.Popen[str], pages: list[int]) -> None:
        """Have a process look at every page that it is to use."""
        assert process.stdin is not None
        process.stdin.write(json.dumps(pages) + "\n")
        process.stdin.flush()
        wrong = self._line(process)
        self._figures.equal(
            f"{name}: pages with other bytes, of {len(pages)} read", wrong, 0, "what it wrote"
        )

    def _kill(self, name: str, process: subprocess.Popen[str]) -> None:
        """Kill a process and wait until its books are closed."""
        begun = time.monotonic()
        process.kill()
        self._until(lambda: name not in self._gmm, f"the books of {name} stay open")
        self._gmm.verify()
        self._figures.note(
            f"{name} killed (SIGKILL); seconds until its books are closed", f"{time.monotonic() - begun:.3f}"
        )

    def _statistics(self) -> Stats:
        return self._gmm.query_statistics()

    def _blocks(self) -> int:
        return os.fstat(self._store.fd).st_blocks * STAT_BLOCK_BYTES

    def _line(self, process: subprocess.Popen[str]) -> Any:
        """Return what a process writes next, and serve all of them until then."""
        output = process.stdout
        assert output is not None
        lines: list[str] = []
        self._until(lambda: bool(lines) or _has_line(output, lines), "a process writes nothing", process)
        return json.loads(lines[0])

    def _until(
        self, holds: Callable[[], bool], otherwise: str, process: subprocess.Popen[str] | None = None
    ) -> None:
        """Serve the callers until something holds. Raises NotAcceptedError."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > deadline or (process is not None and process.poll() is not None):
                raise NotAcceptedError(otherwise)
            self._server.turn(_TURN_S)

    @contextlib.contextmanager
    def _calling(self, path: Path, name: str) -> Iterator[subprocess.Popen[str]]:
        """Run a caller for as long as the block lasts."""
        command = [sys.executable, "-m", "tests.accept.gmm.caller", str(path), name, str(EQUAL), str(OWN)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()


def _has_line(output: IO[str], lines: list[str]) -> bool:
    """Take a line that has arrived, without waiting for one."""
    readable, _, _ = select.select([output], [], [], 0)
    if readable:
        lines.append(output.readline())
    return bool(lines)


def _state(pid: int) -> str:
    """Return the state of a process, one letter."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
