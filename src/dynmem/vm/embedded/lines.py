"""The lines between a machine and its embedded guest: interrupts one way, doorbells the other.

A line is a pair of stream sockets, and a byte raises it. Each end is an open file of its own, so the guest
can change nothing about how the machine's end behaves; and no operation here ever waits. (An eventfd would be
one open file for both: a guest that makes it blocking and fills or empties its counter stops its machine.)
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from dynmem.vm.embedded.readiness import Readiness
from dynmem.vm.shortage import is_shortage

_AGAIN_S: Final = 0.01
_RAISED: Final = b"\1"
_BYTES_AT_ONCE: Final = 4096  # what is left of a storm is taken later: the line is still raised


class _Line:
    """Both ends; the guest gets a duplicate of `guest_end`."""

    def __init__(self) -> None:
        self.guest_end: socket.socket
        self._end, self.guest_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def close(self) -> None:
        self._end.close()
        self.guest_end.close()


class InterruptLine(_Line):
    """A line that the machine raises."""

    _again: asyncio.TimerHandle | None = None

    def interrupt(self) -> None:
        """Raise it. If it is full it is raised already, and if the guest has closed it nobody listens."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        try:
            self._end.send(_RAISED, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            pass
        except OSError as error:
            if is_shortage(error.errno or 0):  # of the host: the guest must not miss it for that
                self._again = asyncio.get_running_loop().call_later(_AGAIN_S, self.interrupt)


class Doorbell(_Line):
    """A line that the guest raises: once per `arm` it becomes `ready` and `wake` is called."""

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__()
        self._readiness = Readiness(self._end.fileno(), wake)

    @property
    def ready(self) -> bool:
        """Whether it was rung."""
        return self._readiness.ready

    def arm(self) -> None:
        """Wait until it is rung."""
        self._readiness.arm()

    def take(self) -> None:
        """Reset it and wait until it is rung again; one that the guest has shut down never is."""
        self._readiness.ready = False
        try:
            was_shut_down = not self._end.recv(_BYTES_AT_ONCE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            was_shut_down = False
        except OSError:
            was_shut_down = True
        if not was_shut_down:
            self._readiness.arm()

    def close(self) -> None:
        """Stop waiting for the guest, and close both ends."""
        self._readiness.disarm()
        super().close()
