"""What one turn of a machine may cost, however many messages its guest has sent and however long they are."""

import time
from collections.abc import Callable
from typing import Final

from dynmem.limits import VM_BYTES_PER_TURN, VM_TURN_NS


class Budget:
    """The time and the bytes of a turn. What has begun is finished, so every turn gets something done."""

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._now_ns: Final = now_ns
        self._end_ns = 0
        self._bytes = 0

    def begin(self) -> None:
        """Begin a turn."""
        self._end_ns = self._now_ns() + VM_TURN_NS
        self._bytes = VM_BYTES_PER_TURN

    def spend(self, size: int) -> None:
        """Record bytes that were read for the guest."""
        self._bytes -= size

    @property
    def is_spent(self) -> bool:
        """Whether the turn should end."""
        return self._bytes <= 0 or self._now_ns() >= self._end_ns
