"""A file that a machine boots from. It is read piece by piece, and its pieces go straight into guest memory.

Nothing of it is believed: it may be any kind of file, of any size, and it may change while it is read.
"""

import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from dynmem.errors import ConfigError
from dynmem.vmbus.memory import GuestMemory

_PIECE: Final = 1 << 20


class BootFile:
    """A regular file that is open for reading; `option` names it in errors.

    Attributes:
        size: Its bytes when it was opened.
    """

    def __init__(self, option: str, path: Path) -> None:
        self._name = f"{option} {path}"
        try:
            # without O_NONBLOCK, a FIFO would be waited for
            self._descriptor: Final = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from None
        status = os.fstat(self._descriptor)
        self.size: Final = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise self.wrong("not a regular file: name the file itself")
        if not self.size:
            self.close()
            raise self.wrong("the file is empty: name another one")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)

    def wrong(self, sentence: str) -> ConfigError:
        """Return the error that says what is wrong with this file."""
        return ConfigError(f"{self._name}: {sentence}")

    def _unreadable(self, error: OSError | ValueError) -> ConfigError:
        what = error.strerror if isinstance(error, OSError) else str(error)
        return self.wrong(f"cannot be read: {what}: name a file that this user may read")

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes; ConfigError if the file does not have all of them."""
        if offset + length <= self.size:
            try:
                data = os.pread(self._descriptor, length, offset)
            except OSError as error:
                raise self._unreadable(error) from None
            if len(data) == length:
                return data
        raise self.wrong(
            f"ends before byte {offset + length}, where its headers say that it goes on: get a whole file"
        )

    def copy(self, offset: int, length: int, memory: GuestMemory, address: int) -> None:
        """Copy a part of the file into guest memory."""
        for done in range(0, length, _PIECE):
            memory.write(address + done, self.read(offset + done, min(_PIECE, length - done)))
