"""What an author writes to have a host or a guest tested: one small class.

The suite plays the other end, byte for byte, over guest memory that both can reach. An adapter moves messages
and signals and lets time pass; it judges nothing. Each case gets a fresh implementation from a factory, so
that nothing has to be undone. Everything that a call causes has happened when it returns; an implementation
that works in its own time is given that time in `advance`, and may also settle in any other call.

All sizes are pages of 4 KiB, all times nanoseconds.
"""

from collections.abc import Callable
from typing import Final, Protocol

from dynmem.vmbus.memory import GuestMemory

SESSION: Final = "session"  # what every sound pair of ends does, from contact to hot add
VMBUS: Final = "vmbus"
VMBUS_FAULTS: Final = "vmbus faults"
DM: Final = "dm"
DM_FAULTS: Final = "dm faults"
HOT_ADD: Final = "hot add"
GROUPS: Final = (SESSION, VMBUS, VMBUS_FAULTS, DM, DM_FAULTS, HOT_ADD)


class HostUnderTest(Protocol):
    """A host: its VMBus with one Dynamic Memory device, after a reset, with no guest yet.

    Attributes:
        groups: Which groups of cases it claims to pass; the others are reported as skipped.
        scratch: Guest page numbers of at least 512 pages that the suite may use for rings.
        boot_pages: The size of the guest; 256 MiB at least, page numbers 0 to ``boot_pages`` - 1 (holes of
            the platform left out of account).
        post_init_wait_ns: How long after the handshake the host promises not to ask the guest for anything.
        hot_add_pages: How much can be hot-added on top of ``boot_pages``; 0 for none.

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
        """HvPostMessage by the guest; the hypercall's status."""

    def signal_event(self, connection_id: int, flag: int) -> int:
        """HvSignalEvent by the guest; the hypercall's status. The host looks at its rings."""

    def take_message(self) -> bytes | None:
        """The payload in the guest's slot of SINT 2, which is emptied and its EOM written; None if empty."""

    def take_event_flags(self) -> list[int]:
        """The event flags of SINT 2 that were set since the last call."""

    def advance(self, ns: int) -> None:
        """Let so much time pass on the host's clock, and let it do what is due."""

    def set_target(self, pages: int) -> None:
        """Ask for a size of the guest, as the operator would (QMP ``balloon``)."""

    def reset(self) -> None:
        """Reset the machine: the guest begins anew and owns all of its memory."""

    def unplug(self) -> bool:
        """Take the device's offer back; False, and nothing done, if the host cannot."""

    def actual_pages(self) -> int | None:
        """The guest's size as the host tells it (QMP ``query-balloon``); None if it cannot be asked."""


class Hypercalls(Protocol):
    """What the suite offers to a guest under test: the two hypercalls that VMBus needs."""

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        """HvPostMessage; the status: 0, or 18 and 19 as the case may want it."""

    def signal_event(self, connection_id: int, flag: int) -> int:
        """HvSignalEvent; the status."""


class GuestUnderTest(Protocol):
    """A guest: its VMBus driver and its Dynamic Memory driver, not started yet.

    Attributes:
        groups: Which groups of cases it claims to pass; the others are reported as skipped.
        total_pages: The guest's size; 512 MiB at least, most of it free.

    """

    groups: frozenset[str]
    total_pages: int

    @property
    def memory(self) -> GuestMemory:
        """The guest's memory, as the host sees it."""

    def start(self, hypercalls: Hypercalls) -> None:
        """Load the drivers: they contact the host by `hypercalls`, from here on and in every other call."""

    def deliver_message(self, payload: bytes) -> None:
        """A message for SINT 2; the slot is empty."""

    def deliver_event(self, flag: int) -> None:
        """An event flag of SINT 2 is set, and the interrupt raised."""

    def advance(self, ns: int) -> None:
        """Let so much time pass on the guest's clock, and let it do what is due."""

    def ballooned_pages(self) -> int | None:
        """How many pages the guest holds to be the host's; None if it cannot be asked."""


HostFactory = Callable[[], HostUnderTest]
GuestFactory = Callable[[], GuestUnderTest]
