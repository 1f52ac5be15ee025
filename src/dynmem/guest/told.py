"""A workload's demand, read from a file that a person or a test writes.

The file holds a size (``40M``) or a share of the guest's memory (``80%``) and is read at every tick. While it
is missing or holds neither, the last demand stays: at first, nothing.
"""

import logging
import os
from pathlib import Path
from typing import Final

from dynmem.guest.curve import Amount, parse_amount

_BYTES_MAX: Final = 64

_log: Final = logging.getLogger(__name__)


class Told:
    """The demand in the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text = b""
        self._problem = ""
        self._amount = Amount()

    def amount(self) -> Amount:
        """Return the present demand."""
        try:
            text = self._read()
            if text != self._text:
                self._text = text
                self._amount = parse_amount(text.decode("ascii").strip())
                self._problem = ""
        except (OSError, ValueError) as error:
            self._warn(error.strerror if isinstance(error, OSError) else str(error))
        return self._amount

    def _warn(self, problem: str | None) -> None:
        """Log a problem, once."""
        if problem and problem != self._problem:
            self._problem = problem
            _log.warning("the demand in %s: %s", self._path, problem)

    def _read(self) -> bytes:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return os.read(descriptor, _BYTES_MAX)
        finally:
            os.close(descriptor)
