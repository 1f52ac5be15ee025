"""The guest's serial console: what it writes there goes to a file, at a bounded rate and in bounded space.

The guest writes to its end of a socket pair, and a thread of the machine carries what comes to the file: a
disk that is slow, or a terminal that is stopped, holds that thread and the guest, and not the machine. A
guest that writes faster than the line carries waits.
"""

import asyncio
import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Final

from dynmem.limits import CONSOLE_BYTES_PER_S
from dynmem.vm.console.bounded_file import BoundedFile
from dynmem.vm.platform import ShortageError

_BYTES_AT_ONCE: Final = 65_536
_CLOSING_S: Final = 1.0  # for what is still on its way when a guest has ended


class Console:
    """One machine's console, for one guest after another. Without a file, what they write is dropped."""

    def __init__(self, path: Path | None) -> None:
        """Prepare it; nothing is opened before the first `connect`."""
        self._path = path
        self._was_opened = False
        self._line: _Line | None = None

    def connect(self) -> socket.socket:
        """Return a guest's end, for the caller to close. The first time, empty the file, as QEMU does.

        Raises ConfigError if it cannot be opened, ShortageError if it cannot be opened now.
        """
        assert self._line is None
        path = Path(os.devnull) if self._path is None else self._path
        file = BoundedFile(path, empty=not self._was_opened)
        try:
            self._line = _Line(file)
        except (OSError, RuntimeError) as error:  # no descriptor is left, or no thread
            file.close()
            raise ShortageError(f"the console cannot be opened: {error}") from None
        self._was_opened = True
        return self._line.guest_end

    async def disconnect(self) -> None:
        """Write what a guest that has ended has left, unless that takes too long."""
        line, self._line = self._line, None
        if line is None:
            return
        try:
            await asyncio.to_thread(line.close)
        except RuntimeError:  # the host has no thread for it
            line.close()


class _Line:
    """One guest's line to the file, and the thread that serves it."""

    def __init__(self, file: BoundedFile) -> None:
        self.guest_end: socket.socket
        self._end, self.guest_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._file = file
        self._is_closing = threading.Event()
        # a daemon: one that a stopped terminal holds does not keep the program from its end
        self._thread = threading.Thread(target=self._serve, name="console", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_closing.set()
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)  # what has come can still be read
        self._thread.join(_CLOSING_S)

    def _serve(self) -> None:
        with self._end, contextlib.closing(self._file), contextlib.suppress(OSError):
            while data := self._end.recv(_BYTES_AT_ONCE):
                self._file.write(data)
                self._is_closing.wait(len(data) / CONSOLE_BYTES_PER_S)
