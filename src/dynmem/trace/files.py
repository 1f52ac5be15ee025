"""Files that a running machine appends to: whole lines, written at once, up to a limit."""

import errno
import logging
import os
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError
from dynmem.limits import TRACE_FILE_BYTES_MAX

_LOG: Final = logging.getLogger("dynmem.trace")
# Not to wait for the reader of a pipe, neither here nor at a line: a machine waits for nobody.
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
_MODE: Final = 0o600  # only for its owner: it holds what guests say


class LineFile:
    """A file of lines. Once it is full or cannot be written, it logs that and drops the rest."""

    def __init__(self, path: Path, limit: int = TRACE_FILE_BYTES_MAX) -> None:
        """Truncate or create the file. Raises ConfigError if it cannot be opened."""
        self._path = path
        self._left = limit
        try:
            self._descriptor: int | None = os.open(path, _FLAGS, _MODE)
        except OSError as error:
            folder = path.absolute().parent
            step = f"make the folder {folder}" if not folder.exists() else "name another file"
            what = "nobody reads this pipe" if error.errno == errno.ENXIO else error.strerror
            raise ConfigError(f"{path} cannot be written: {what}: {step}") from None

    def write(self, line: str) -> None:
        """Append a line, which includes its newline."""
        if self._descriptor is None:
            return
        data = line.encode("ascii", "replace")
        if len(data) > self._left:
            self._give_up("it has reached its size limit")
            return
        self._left -= len(data)
        try:
            if os.write(self._descriptor, data) != len(data):
                self._give_up("its last line is cut off: no space left")
        except BlockingIOError:
            self._give_up("its reader is too slow")
        except OSError as error:
            self._give_up(error.strerror or str(error))

    def _give_up(self, reason: str) -> None:
        _LOG.warning("%s takes no more lines: %s", self._path, reason)
        self.close()

    def close(self) -> None:
        """Close the file; later lines are dropped."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
