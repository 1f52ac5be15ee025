"""Output of a guest that is not written yet: bounded, and cheap to add a byte to.

A vCPU thread adds each character of a kernel's log by itself, and a thread of the console takes what has come
together. When there is too much, the oldest is dropped: of a guest that crashes, the last words count.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from dynmem.limits import CONSOLE_UNWRITTEN_BYTES_MAX

_BLOCK_BYTES: Final = 4096


class Backlog:
    """Bytes in order. `append` may be called on any thread, `take` on one.

    Attributes:
        dropped_bytes: Those that were not taken in time, in all.

    """

    def __init__(self, wake: Callable[[], None]) -> None:
        """Make an empty one; `wake` is called by `append` when `take` has last found nothing."""
        self._wake: Final = wake
        self._lock: Final = threading.Lock()
        self._blocks: Final[deque[bytearray]] = deque()
        self._bytes = 0
        self._is_awaited = False
        self._dropped_here = 0  # since the last `take`
        self.dropped_bytes: int = 0

    def append(self, data: bytes) -> None:
        """Add bytes at the end."""
        with self._lock:
            if not self._blocks or len(self._blocks[-1]) >= _BLOCK_BYTES:
                self._blocks.append(bytearray())
            self._blocks[-1] += data
            self._bytes += len(data)
            if self._bytes > CONSOLE_UNWRITTEN_BYTES_MAX:
                self._drop(len(self._blocks.popleft()))
            is_awaited, self._is_awaited = self._is_awaited, False
        if is_awaited:
            self._wake()

    def _drop(self, count: int) -> None:
        self._bytes -= count
        self._dropped_here += count
        self.dropped_bytes += count

    def take(self) -> bytes:
        """Remove and return the oldest block, empty if there is none, after a note of what was dropped."""
        with self._lock:
            if not self._blocks:
                self._is_awaited = True
                return b""
            block = bytes(self._blocks.popleft())
            self._bytes -= len(block)
            dropped, self._dropped_here = self._dropped_here, 0
        return b"\r\n[%d bytes were dropped]\r\n" % dropped + block if dropped else block
