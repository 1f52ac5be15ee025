"""The adapter: one small class that an author writes to have a host or a guest tested.

The suite plays the other end, byte for byte, over guest memory that both can reach. An adapter moves messages
and signals and lets time pass; it judges nothing. Each case gets a new implementation from a factory, so
nothing has to be undone. Everything that a call causes has happened when it returns; an implementation that
works in its own time can wait in `advance`, or in any other call, until it is idle.

All sizes are pages of 4 KiB, all times nanoseconds.
"""

from collections.abc import Callable
from typing import Final, Protocol

from dynmem.vmbus.memory import GuestMemory

#: The group of what every sound pair of ends does, from contact to hot add.
SESSION: Final = "session"
#: The group of contact, offers, GPADLs, opening and rings.
VMBUS: Final = "vmbus"
#: The group of broken and hostile peers on VMBus.
VMBUS_FAULTS: Final = "vmbus faults"
#: The group of the Dynamic Memory Protocol, without hot add.
DM: Final = "dm"
#: The group of broken and hostile peers in that protocol.
DM_FAULTS: Final = "dm faults"
#: The group of hot add.
HOT_ADD: Final = "hot add"
#: All groups of cases.
GROUPS: Final = (SESSION, VMBUS, VMBUS_FAULTS, DM, DM_FAULTS, HOT_ADD)


class HostUnderTest(Protocol):
    """A host: its VMBus with one Dynamic Memory device, after a reset, with no guest yet.

    Attributes:
        groups: The groups of cases that it claims to pass; the others are reported as skipped.
        scratch: Guest page numbers of at least 512 pages that the suite may use for rings.
        boot_pages: The size of the guest, at least 256 MiB, with page numbers 0 to ``boot_pages`` - 1 (holes
            of the platform are ignored).
        post_init_wait_ns: How long after the handshake the host promises to request nothing.
        hot_add_pages: How much can be hot-added beyond ``boot_pages``; 0 for nothing.

    """

    groups: frozenset[str]
    scratch: range
    boot_pages: int
    post_init_wait_ns: int
    hot_add_pages: int

    @property
    def memory(self) -> GuestMemory:
        """The guest's memory, at least the pages of ``scratch``."""

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        """Carry out HvPostMessage by the guest. Returns the hypercall's status."""

    def signal_event(self, connection_id: int, flag: int) -> int:
        """Carry out HvSignalEvent by the guest; the host reads its rings. Returns the hypercall's status."""

    def take_message(self) -> bytes | None:
        """Return the payload in the guest's slot of SINT 2 and empty it, with EOM; None if it is empty."""

    def take_event_flags(self) -> list[int]:
        """Return the event flags of SINT 2 that were set since the last call."""

    def advance(self, ns: int) -> None:
        """Let this much time pass on the host's clock, and let the host do what is due."""

    def set_target(self, pages: int) -> None:
        """Set the guest's target size, as an operator would (QMP ``balloon``)."""

    def reset(self) -> None:
        """Reset the machine: the guest boots again and owns all of its memory."""

    def unplug(self) -> bool:
        """Rescind the device's offer. Returns False, without doing anything, if the host cannot."""

    def actual_pages(self) -> int | None:
        """Return the guest's size as the host reports it (QMP ``query-balloon``); None if it does not."""


class Hypercalls(Protocol):
    """What the suite provides to a guest under test: the two hypercalls that VMBus needs."""

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        """Accept HvPostMessage. Returns the status: 0, or 18 or 19 if the case needs that."""

    def signal_event(self, connection_id: int, flag: int) -> int:
        """Accept HvSignalEvent. Returns the status."""


class GuestUnderTest(Protocol):
    """A guest: its VMBus driver and its Dynamic Memory driver, not started yet.

    Attributes:
        groups: The groups of cases that it claims to pass; the others are reported as skipped.
        total_pages: The guest's size, at least 512 MiB, most of it free.

    """

    groups: frozenset[str]
    total_pages: int

    @property
    def memory(self) -> GuestMemory:
        """The guest's memory, as the host sees it."""

    def start(self, hypercalls: Hypercalls) -> None:
        """Load the drivers. They use `hypercalls` to contact the host, in this and in every later call."""

    def deliver_message(self, payload: bytes) -> None:
        """Deliver a message for SINT 2, whose slot is empty."""

    def deliver_event(self, flag: int) -> None:
        """Set an event flag of SINT 2 and raise the interrupt."""

    def advance(self, ns: int) -> None:
        """Let this much time pass on the guest's clock, and let the guest do what is due."""

    def ballooned_pages(self) -> int | None:
        """Return how many pages the guest believes to be in the balloon; None if it does not report that."""


#: Makes a host under test, a new one for every case.
HostFactory = Callable[[], HostUnderTest]
#: Makes a guest under test, a new one for every case.
GuestFactory = Callable[[], GuestUnderTest]
