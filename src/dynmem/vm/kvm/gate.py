"""Where virtual processors wait while their machine stands still, and how they are fetched from the guest.

A processor passes the gate before each run of the guest. To close it, every processor that is inside is
kicked: its run ends, and it waits outside. The kick is two things: a flag that the kernel reads before it
enters the guest, and a signal for one that is in it. The flag alone would be seen late, the signal alone
would be lost between the gate and the guest.
"""

import signal
import threading
from types import FrameType
from typing import Final

from dynmem.vm.kvm.run_page import RunPage

KICK: Final = signal.SIGRTMIN  # its handler does nothing: that it comes is enough


def accept_kicks() -> None:
    """Let kicks interrupt this process's processors and nothing else. From the main thread."""
    signal.signal(KICK, _kicked)


def _kicked(number: int, frame: FrameType | None) -> None:
    """Do nothing: the system call that it interrupted has ended."""


class Gate:
    """The gate of one guest's life. Any thread may call anything.

    A processor passes it many thousand times a second, so it takes no lock while the gate is open: if eight
    of them did, the thread that wants to close it would hardly get that lock. Instead each side writes first
    and reads then: a processor that is inside, and whether the gate is closed (the interpreter lets each step
    be seen before the next).
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_closed = True  # also when it is over
        self._is_over = False
        self._inside: dict[int, RunPage] = {}  # by thread

    def enter(self, page: RunPage) -> bool:
        """Wait until the gate is open; False when there will be no more runs. `leave` must follow a True.

        After a False the thread may end: nobody kicks it any more.
        """
        thread = threading.get_ident()
        while True:
            page.stay()
            self._inside[thread] = page
            if not self._is_closed:
                return True
            self.leave()
            with self._changed:  # whoever kicks has it, too
                while self._is_closed and not self._is_over:
                    self._changed.wait()
                if self._is_over:
                    return False

    def leave(self) -> None:
        """Record that this thread's run has ended."""
        del self._inside[threading.get_ident()]
        if self._is_closed:
            with self._changed:
                self._changed.notify_all()

    def open(self) -> None:
        """Let the processors run."""
        with self._changed:
            self._is_closed = self._is_over
            self._changed.notify_all()

    def shut(self) -> None:
        """Close the gate, without waiting for the processors inside: they are on their way out."""
        with self._changed:
            self._is_closed = True
            self._kick()

    def end(self) -> None:
        """Have every processor end its thread, without waiting for it."""
        with self._changed:
            self._is_closed = self._is_over = True
            self._kick()
            self._changed.notify_all()

    def wait_until_empty(self) -> None:
        """Wait until no processor is in the guest; after `shut` or `end`."""
        with self._changed:
            while self._inside:
                self._changed.wait()

    def is_over_within(self, seconds: float) -> bool:
        """Wait up to this long for the gate's end; return whether it has come."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_over, seconds)

    def _kick(self) -> None:
        for thread, page in list(self._inside.items()):
            page.ask_to_leave()
            signal.pthread_kill(thread, KICK)
