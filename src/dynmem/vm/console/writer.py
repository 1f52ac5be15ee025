"""A thread that writes a guest's output to something that may hold it: a slow disk, a stopped terminal."""

import threading
from collections.abc import Callable
from typing import Final

from dynmem.limits import CONSOLE_BYTES_PER_S
from dynmem.vm.console.backlog import Backlog
from dynmem.vm.console.threads import CLOSING_S, started

# A line is written at once instead of byte by byte, and whoever types does not notice.
_GATHERING_S: Final = 0.005


class Writer:
    """Writes what is added to its backlog, at a bounded rate, until it is closed."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        """Start the thread, which alone calls `write`. Raises ShortageError."""
        self._write: Final = write
        self._has_come: Final = threading.Event()
        self._is_closing: Final = threading.Event()
        self.backlog: Final = Backlog(self._has_come.set)
        self._thread: Final = started(self._serve)

    def close(self) -> bool:
        """Write what is left, unless that takes too long; return whether all is written."""
        self._is_closing.set()
        self._has_come.set()
        self._thread.join(CLOSING_S)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            # asked before the backlog: what is added before the end is written
            is_last = self._is_closing.is_set()
            while data := self.backlog.take():
                self._write(data)
                self._is_closing.wait(len(data) / CONSOLE_BYTES_PER_S)
            if is_last:
                return
            self._has_come.wait()
            self._has_come.clear()
            self._is_closing.wait(_GATHERING_S)
