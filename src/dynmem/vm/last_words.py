"""Last words of a machine that touched guest memory which the host does not have: SIGBUS.

A handler in Python would never run: it waits for the end of an instruction that cannot end. So the C library
calls this one, on the thread that touched the memory; it writes the words, and the previous handler runs
when the instruction faults again.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from typing import Final

_HANDLER: Final = ctypes.CFUNCTYPE(None, ctypes.c_int)
_LIBC: Final = ctypes.CDLL(None)
_signal: Final = _LIBC.signal
_signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
_signal.restype = ctypes.c_void_p
_STDERR: Final = 2


class LastWords:
    """A context in which a SIGBUS writes what `words` returns to standard error."""

    def __init__(self, words: Callable[[], str]) -> None:
        self._words = words
        self._handler = _HANDLER(self._speak)
        self._before: int | None = None

    def __enter__(self) -> None:
        self._before = _signal(signal.SIGBUS, ctypes.cast(self._handler, ctypes.c_void_p))

    def __exit__(self, *_: object) -> None:
        _signal(signal.SIGBUS, self._before)

    def _speak(self, _: int) -> None:
        _signal(signal.SIGBUS, self._before)
        with contextlib.suppress(Exception):
            os.write(_STDERR, f"{self._words()}\n".encode())
