"""Calls to libvirt from a loop that must not wait: each in a thread, and each with a deadline.

Libvirt serves a few calls of a client at a time (max_client_requests, 5), and one about a QEMU that hangs
ends when that QEMU goes on. So a connection with such a call is left to it: the others get a new one, and the
call closes the old one when it ends. With eight such calls, libvirt itself is taken to hang, and asked
nothing more until one of them ends.
"""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from dynmem.domains.api import Libvirt, Open, open_libvirt
from dynmem.domains.errors import LibvirtError, LibvirtLostError
from dynmem.errors import DeadlineError
from dynmem.threads import begin

T = TypeVar("T")

# A call that takes longer is left to itself.
DEADLINE_S: Final = 3.0
# Calls at a time on one connection: one less than what libvirt serves.
AT_ONCE: Final = 4
# Calls that do not end. Libvirt has 20 threads for all its clients.
LEFT_MAX: Final = 8


class _Shared:
    """A connection and the calls that use it; the last one closes it when it is not wanted any more.

    Never the loop: closing asks libvirt, and waits for the reply.
    """

    def __init__(self, opened: Callable[[], Libvirt]) -> None:
        self._opened = opened
        self._lock = threading.Lock()  # of the counts; it is never held during a call
        self._opening = threading.Lock()
        self._connection: Libvirt | None = None
        self._calls = 0
        self._is_over = False
        self.turns: Final = asyncio.Semaphore(AT_ONCE)

    def make(self, ask: Callable[[Libvirt], T]) -> T:
        """Connect if need be, and ask."""
        with self._lock:
            self._calls += 1
        try:
            with self._opening:
                if self._connection is None:
                    self._connection = self._opened()
            return ask(self._connection)
        finally:
            with self._lock:
                self._calls -= 1
            self._close_if_over()

    def end(self) -> None:
        """Have it closed when its last call has ended."""
        self._is_over = True
        _in_a_thread(self._close_if_over)

    def _close_if_over(self) -> None:
        with self._lock:
            connection = self._connection if self._is_over and not self._calls else None
            if connection is not None:
                self._connection = None
        if connection is not None:
            connection.close()


class Link:
    """The way to one libvirt. *rebooted* is called in the loop with the UUID of a domain that was reset.

    Attributes:
        uri: Which libvirt.
        generation: Rises with every connection that was lost: events were missed.
    """

    def __init__(
        self,
        uri: str,
        *,
        read_only: bool = False,
        rebooted: Callable[[str], None] = lambda _: None,
        opener: Open = open_libvirt,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.uri: Final = uri
        self.generation: int = 0
        self._read_only = read_only
        self._rebooted = rebooted
        self._opener = opener
        self._deadline_s = deadline_s
        self._shared: _Shared | None = None
        self._left = 0

    async def call(self, ask: Callable[[Libvirt], T], deadline_s: float | None = None) -> T:
        """Return what *ask* returns. LibvirtError, LibvirtMissingError, or DeadlineError while it goes on."""
        if self._left >= LEFT_MAX:
            raise LibvirtError(f"libvirt at {self.uri} does not reply to {self._left} calls: it hangs")
        limit_s = deadline_s or self._deadline_s
        while True:
            shared = self._shared or self._connect()
            async with shared.turns:
                if shared is not self._shared:
                    continue  # it was left to another call meanwhile
                call = begin(partial(shared.make, ask), _in_a_thread)
                await asyncio.wait((call,), timeout=limit_s)
                break
        if not call.done():
            self._leave(shared)
            self._left += 1
            call.add_done_callback(self._came_back)
            raise DeadlineError(f"libvirt at {self.uri} has not replied for {limit_s:g} s")
        try:
            return call.result()
        except LibvirtLostError:
            if shared is self._shared:
                self.generation += 1
            self._leave(shared)
            raise

    def close(self) -> None:
        """End the connection as soon as libvirt lets it; nobody waits for that."""
        if self._shared is not None:
            self._leave(self._shared)

    def _connect(self) -> _Shared:
        loop = asyncio.get_running_loop()

        def rebooted(uuid: str) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._rebooted, uuid)

        self._shared = _Shared(partial(self._opener, self.uri, self._read_only, rebooted))
        return self._shared

    def _leave(self, shared: _Shared) -> None:
        if shared is self._shared:
            self._shared = None
            shared.end()

    def _came_back(self, call: asyncio.Future[T]) -> None:
        self._left -= 1
        if not call.cancelled():
            call.exception()  # nobody waits for it any more


def _in_a_thread(run: Callable[[], None]) -> None:
    """Run something in a thread of its own, which does not keep the program alive."""
    threading.Thread(target=run, daemon=True, name="libvirt").start()
