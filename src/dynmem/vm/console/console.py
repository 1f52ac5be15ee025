"""What a serial port is connected to."""

from collections.abc import Callable
from typing import Protocol


class Console(Protocol):
    """The far end of a serial line, for one guest after another."""

    def connect(self, arrived: Callable[[], None]) -> None:
        """Begin to take input; `arrived` is called on a thread of the console when there is some to `read`.

        Raises ShortageError.
        """

    def write(self, data: bytes) -> None:
        """Accept output of the guest, on any thread and at once; what is not taken in time is dropped."""

    def read(self, limit: int) -> bytes:
        """Return up to `limit` bytes of input, on any thread, without waiting; what is left stays there."""

    def close(self) -> None:
        """Write what is left of the output unless that takes more than a second, and release everything.

        The guest has ended, and nothing is called after this.
        """


class NoConsole:
    """Nothing at the far end."""

    def connect(self, arrived: Callable[[], None]) -> None:
        pass

    def write(self, data: bytes) -> None:
        pass

    def read(self, limit: int) -> bytes:
        return b""

    def close(self) -> None:
        pass
