"""The virtual machine's clock: nanoseconds that stand still while the machine is stopped."""

import time
from collections.abc import Callable


class VirtualClock:
    """Counts from 0, running at first. `source` returns nanoseconds that never fall."""

    def __init__(self, source: Callable[[], int] = time.monotonic_ns) -> None:
        self._source = source
        self._origin = source()
        self._stopped_at: int | None = None

    @property
    def running(self) -> bool:
        """Whether time passes."""
        return self._stopped_at is None

    def now_ns(self) -> int:
        """Return the virtual time."""
        if self._stopped_at is not None:
            return self._stopped_at
        return self._source() - self._origin

    def stop(self) -> None:
        """Stop; does nothing if it is stopped."""
        if self._stopped_at is None:
            self._stopped_at = self.now_ns()

    def start(self) -> None:
        """Continue from where it stopped."""
        if self._stopped_at is not None:
            self._origin = self._source() - self._stopped_at
            self._stopped_at = None
