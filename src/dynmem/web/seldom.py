"""Lines of a log that clients can cause: so many a minute, and then how many were left out."""

import logging
import time
from collections.abc import Callable
from typing import Final

A_MINUTE: Final = 10
_MINUTE_S: Final = 60.0


class Seldom(logging.Filter):
    """Lets so many lines a minute through."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._begin_s = clock()
        self._lines = 0

    def filter(self, record: logging.LogRecord) -> bool:
        now_s, left_out = self._clock(), max(0, self._lines - A_MINUTE)
        if now_s - self._begin_s >= _MINUTE_S:
            self._begin_s, self._lines = now_s, 0
            if left_out:
                record.msg, record.args = f"{record.getMessage()} ({left_out} lines before it left out)", ()
        self._lines += 1
        return self._lines <= A_MINUTE
