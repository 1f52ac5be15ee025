"""Files that a running machine adds lines to: whole lines only, at once on disk, and not without end."""

import logging
import os
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError
from dynmem.limits import TRACE_FILE_BYTES_MAX

_LOG: Final = logging.getLogger("dynmem.trace")
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
_MODE: Final = 0o600  # what guests say is nobody else's business


class LineFile:
    """A file of lines. Once it is full or cannot be written, which is logged, the rest is left out."""

    def __init__(self, path: Path, limit: int = TRACE_FILE_BYTES_MAX) -> None:
        """Begin the file anew. Raises ConfigError when it cannot be opened."""
        self._path = path
        self._left = limit
        try:
            self._descriptor: int | None = os.open(path, _FLAGS, _MODE)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from None

    def write(self, line: str) -> None:
        """Add one line, whose end it brings."""
        if self._descriptor is None:
            return
        data = line.encode("ascii", "replace")
        if len(data) > self._left:
            self._give_up("it has reached its limit")
            return
        self._left -= len(data)
        try:
            if os.write(self._descriptor, data) != len(data):
                self._give_up("its last line is cut: no space")
        except OSError as error:
            self._give_up(error.strerror or str(error))

    def _give_up(self, reason: str) -> None:
        _LOG.warning("%s takes no more lines: %s", self._path, reason)
        self.close()

    def close(self) -> None:
        """Let go of the file; lines that come later are left out."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
