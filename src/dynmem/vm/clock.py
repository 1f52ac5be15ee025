"""The virtual machine's clock: nanoseconds that stand still while the machine is stopped."""

import time
from collections.abc import Callable


class VirtualClock:
    """Counts from 0, running at first. `source` gives nanoseconds that only rise."""

    def __init__(self, source: Callable[[], int] = time.monotonic_ns) -> None:
        self._source = source
        self._origin = source()
        self._stopped_at: int | None = None

    @property
    def running(self) -> bool:
        """Whether time passes."""
        return self._stopped_at is None

    def now_ns(self) -> int:
        """Virtual time."""
        if self._stopped_at is not None:
            return self._stopped_at
        return self._source() - self._origin

    def stop(self) -> None:
        """Let time stand still; nothing happens when it does already."""
        if self._stopped_at is None:
            self._stopped_at = self.now_ns()

    def start(self) -> None:
        """Let time go on from where it stood."""
        if self._stopped_at is not None:
            self._origin = self._source() - self._stopped_at
            self._stopped_at = None
