"""A wish in a file: how much a workload wants, for whoever drives it by hand or from a test.

The file holds a size (``40M``) or a share of the memory that the guest has (``80%``), and is looked at on
every tick. One that is not there or says neither leaves the last wish as it was: nothing, at the beginning.
"""

import logging
import os
from pathlib import Path
from typing import Final

from dynmem.guest.curve import Amount, parse_amount

_BYTES_MAX: Final = 64

_log: Final = logging.getLogger(__name__)


class Told:
    """The wish that stands in the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text = b""
        self._problem = ""
        self._amount = Amount()

    def amount(self) -> Amount:
        """What is wanted now."""
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
        """Say what is wrong, once."""
        if problem and problem != self._problem:
            self._problem = problem
            _log.warning("the wish in %s: %s", self._path, problem)

    def _read(self) -> bytes:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return os.read(descriptor, _BYTES_MAX)
        finally:
            os.close(descriptor)
