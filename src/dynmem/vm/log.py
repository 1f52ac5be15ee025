"""The log of a VM's process, on standard error: a line that would have to wait for its reader is dropped.

Whoever reads it may have stopped, and no line is worth a machine that stands still. (A guest can cause lines,
so it could fill a pipe that nobody empties.)
"""

import logging
import os
import select
from typing import Final

_PIECE_BYTES: Final = 4096  # PIPE_BUF: a pipe that is ready has room for so much


class HastyStream:
    """Writes lines to a descriptor without ever waiting, and says later how many it dropped."""

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._dropped_lines = 0

    def write(self, line: str) -> None:
        """Write a line, or drop it."""
        if self._dropped_lines and self._is_ready:
            dropped, self._dropped_lines = self._dropped_lines, 0
            self._write(f"dynmem: {dropped} lines were dropped here: nobody read them in time\n")
        self._write(line)

    def _write(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace")
        for start in range(0, len(data), _PIECE_BYTES):
            try:
                if not self._is_ready:
                    raise BlockingIOError
                os.write(self._descriptor, data[start : start + _PIECE_BYTES])
            except OSError:  # it would wait, or there is no space, or nobody reads
                self._dropped_lines += 1
                return

    @property
    def _is_ready(self) -> bool:
        ready = self._poll.poll(0)
        return bool(ready and ready[0][1] & select.POLLOUT)


class LogHandler(logging.Handler):
    """Writes records to such a stream."""

    def __init__(self, stream: HastyStream) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        self._stream.write(f"{self.format(record)}\n")
