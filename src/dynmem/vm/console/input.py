"""Input for a guest that it has not read yet: bounded."""

import threading
from collections.abc import Callable
from typing import Final

from dynmem.limits import CONSOLE_UNREAD_BYTES_MAX


class Input:
    """Bytes in order, between a thread of the console that puts and vCPU threads that take."""

    def __init__(self, has_room: Callable[[], None] = lambda: None) -> None:
        """Make an empty one; `has_room` is called by `take` when it was full."""
        self._has_room: Final = has_room
        self._lock: Final = threading.Lock()
        self._bytes = bytearray()

    @property
    def room(self) -> int:
        """How many bytes `put` has room for, at least."""
        return CONSOLE_UNREAD_BYTES_MAX - len(self._bytes)

    def put(self, data: bytes) -> None:
        """Add bytes at the end; those that there is no room for are dropped."""
        with self._lock:
            self._bytes += data[: self.room]

    def take(self, limit: int) -> bytes:
        """Remove and return up to `limit` bytes."""
        if not self._bytes:
            return b""
        with self._lock:
            was_full = self.room == 0
            taken = bytes(self._bytes[:limit])
            del self._bytes[:limit]
        if was_full:
            self._has_room()
        return taken
