"""The guest's serial console: what it writes there goes to a file, at a bounded rate and in bounded space.

The guest writes to its end of a socket pair, and a thread of the machine carries what comes to the file: a
disk that is slow, or a terminal that is stopped, holds that thread and the guest, and not the machine. A
guest that writes faster than the line carries waits. A regular file that is full is renamed to ``NAME.1``, in
place of the one that was so renamed before, and begun again.
"""

import asyncio
import contextlib
import os
import socket
import stat
import threading
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError
from dynmem.limits import CONSOLE_BYTES_PER_S, CONSOLE_FILE_BYTES_MAX
from dynmem.vm.platform import ShortageError
from dynmem.vm.shortage import is_shortage

_BYTES_AT_ONCE: Final = 65_536
_CLOSING_S: Final = 1.0  # for what is still on its way when a guest has ended
_OWNER_ONLY: Final = 0o600


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
        file = _BoundedFile(path, empty=not self._was_opened)
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

    def __init__(self, file: "_BoundedFile") -> None:
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


class _BoundedFile:
    """A file that takes a bounded part of the disk: twice `CONSOLE_FILE_BYTES_MAX`."""

    def __init__(self, path: Path, *, empty: bool) -> None:
        self._path = path
        try:
            self._fd = self._open(os.O_TRUNC if empty else 0)
        except OSError as error:
            what, folder = f"the console cannot be opened: {path}: {error.strerror}", path.absolute().parent
            if is_shortage(error.errno or 0):
                raise ShortageError(what) from None
            step = "name another file" if folder.exists() else f"make the folder {folder}"
            raise ConfigError(f"{what}: {step}") from None
        status = os.fstat(self._fd)
        self._size = status.st_size
        self._is_regular = stat.S_ISREG(status.st_mode)

    def _open(self, flags: int) -> int:
        # without waiting for somebody who reads a pipe; what is written later may wait
        flags |= os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self._path, flags, _OWNER_ONLY)
        os.set_blocking(fd, True)
        return fd

    def write(self, data: bytes) -> None:
        """Write `data`, or what there is room for on the disk."""
        with contextlib.suppress(OSError):  # no space, or nobody reads: what a guest says is not worth more
            if self._is_regular and self._size + len(data) > CONSOLE_FILE_BYTES_MAX:
                self._begin_again()
            written = 0
            while written < len(data):
                written += os.write(self._fd, data[written:])
            self._size += written

    def _begin_again(self) -> None:
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        fd, self._fd = self._fd, self._open(os.O_TRUNC)
        self._size = 0
        os.close(fd)

    def close(self) -> None:
        os.close(self._fd)
