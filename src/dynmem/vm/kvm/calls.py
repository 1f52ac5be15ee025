"""Hypercalls on their way from the processors' threads to the machine's task, and back.

The machine's task owns the state of the protocols, so a processor that makes a hypercall waits for it. There
are never more calls than processors.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from dynmem.vm.platform import GuestCalls
from dynmem.wire.synic import HvStatus, HypercallInput


class _Call:
    """A hypercall, and its result when `done` is set."""

    def __init__(self, made: HypercallInput) -> None:
        self.made: Final = made
        self.result: int = HvStatus.SUCCESS
        self.done: Final = threading.Event()


class Calls:
    """The hypercalls of one guest's life.

    Args:
        notify: Called on a processor's thread when the machine's task should `serve`.

    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._waiting: deque[_Call] = deque()
        self._messages_fit = False
        self._is_over = False

    def make(self, made: HypercallInput) -> int:
        """Return the result of a hypercall, when the machine has carried it out. On a processor's thread."""
        call = _Call(made)
        self._waiting.append(call)
        if self._is_over:
            return call.result
        self._notify()
        call.done.wait()
        return call.result

    def retry_messages(self) -> None:
        """Have the machine try again to deliver messages. On a processor's thread.

        A guest may ask for it all the time, and each notification takes memory until the machine has seen it:
        there is one at a time.
        """
        if not self._messages_fit:
            self._messages_fit = True
            self._notify()

    async def serve(self, machine: GuestCalls) -> None:
        """Carry out what waits. In the machine's task."""
        if self._messages_fit:
            self._messages_fit = False
            machine.retry_messages()
        while self._waiting:
            if machine.is_over:
                self._notify()
                return
            call = self._waiting.popleft()
            try:
                call.result = await machine.hypercall(call.made)
            finally:
                call.done.set()

    def end(self) -> None:
        """Let the processors that wait go on: their guest is over."""
        self._is_over = True
        while self._waiting:
            self._waiting.popleft().done.set()
