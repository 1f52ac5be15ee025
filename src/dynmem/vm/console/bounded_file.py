"""The file that a guest's console is written to: for its owner only, and of bounded size.

A regular file that is full is renamed to ``NAME.1``, in place of the one that was so renamed before, and
begun again.
"""

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError
from dynmem.limits import CONSOLE_FILE_BYTES_MAX
from dynmem.vm.platform import ShortageError
from dynmem.vm.shortage import is_shortage

_OWNER_ONLY: Final = 0o600


class BoundedFile:
    """A file that takes a bounded part of the disk: twice `CONSOLE_FILE_BYTES_MAX`."""

    def __init__(self, path: Path, *, empty: bool) -> None:
        """Open it, emptied if that is asked for. Raises ConfigError, or ShortageError."""
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
        """Close it."""
        os.close(self._fd)
