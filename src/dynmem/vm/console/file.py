"""A console in a file: what the guest writes, at a bounded rate and in bounded space."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from dynmem.vm.console.bounded_file import BoundedFile
from dynmem.vm.console.writer import Writer
from dynmem.vm.platform import ShortageError


class FileConsole:
    """A `Console` that is only written to; it begins empty."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises ConfigError, or ShortageError."""
        self._file: Final = BoundedFile(path, empty=True)
        try:
            self._writer: Final = Writer(self._file.write)
        except ShortageError:
            self._file.close()
            raise

    def connect(self, arrived: Callable[[], None]) -> None:
        pass

    def write(self, data: bytes) -> None:
        self._writer.backlog.append(data)

    def read(self, limit: int) -> bytes:
        return b""

    def close(self) -> None:
        if self._writer.close():  # else its thread still uses it, and ends with the program
            self._file.close()
