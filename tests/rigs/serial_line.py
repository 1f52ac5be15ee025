"""A console of a test's own: what the guest wrote, and what is typed for it."""

from collections.abc import Callable


class Line:
    """A `Console` in the test's own thread."""

    def __init__(self) -> None:
        self.shown = b""
        self.typed = b""
        self._arrived: Callable[[], None] = lambda: None

    def type(self, data: bytes) -> None:
        self.typed += data
        self._arrived()

    def connect(self, arrived: Callable[[], None]) -> None:
        self._arrived = arrived

    def write(self, data: bytes) -> None:
        self.shown += data

    def read(self, limit: int) -> bytes:
        taken, self.typed = self.typed[:limit], self.typed[limit:]
        return taken

    def close(self) -> None:
        pass
