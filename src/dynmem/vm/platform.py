"""The seam below a machine: what it asks of whatever runs its guest, and what that asks of the machine.

A platform runs one guest after another: the embedded guest's process (`embedded`) is one, and vCPU threads on
a hypervisor are another. The machine knows its platform by these protocols only; `machine` alone chooses one.

    machine --> Platform     power, freezing, DIMMs, messages and signals for the guest
    machine --> MemorySlots  the guest's address space, section by section, and what the guest acknowledged
    platform --> Owner       there is work, the guest has ended, wants a reset, has crashed
    platform --> GuestCalls  hypercalls, room for messages, what the guest does to its DIMMs

Everything here is called on the machine's event loop. A platform with threads of its own queues what they
meet, bounded, and serves it when the machine next calls `serve`.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from dynmem.errors import DynmemError
from dynmem.space.address_space import Listener
from dynmem.space.dimm import PcDimm
from dynmem.space.memslots import SlotConsumer
from dynmem.vm.faults import Faults
from dynmem.vm.guest_crash import GuestCrash
from dynmem.vm.guest_memory import MappedMemory
from dynmem.vm.options.machine import VmOptions
from dynmem.vmbus import OutgoingMessage, Signal
from dynmem.wire.synic import HypercallInput


class ShortageError(DynmemError):
    """The host has no descriptors, processes or memory of the kernel to spare just now: try again later."""


def round_hole(size: int, hole: range) -> tuple[tuple[int, int], ...]:
    """Return where boot memory of `size` bytes lies, from address 0 on: address and size of each piece.

    5 GiB, a hole from 3.5 to 4 GiB  ->  3.5 GiB at 0, 1.5 GiB at 4 GiB
    """
    below = min(size, hole.start) if hole else size
    pieces = ((0, below), (hole.stop, size - below))
    return tuple((address, length) for address, length in pieces if length)


class GuestEnding(NamedTuple):
    """How a guest ended that did not power itself off.

    Attributes:
        how: A phrase for the log, such as "killed by SIGBUS".
        lacks_memory: Whether it has touched memory that the host could not give it.

    """

    how: str
    lacks_memory: bool = False


class Owner(Protocol):
    """The machine, as its platform calls it when something happens by itself."""

    def wake(self) -> None:
        """Take a turn soon: `serve` has something to hand up."""

    def exited(self) -> None:
        """End the machine: the guest's life is over without `power_off`; `ending` says how."""

    def wants_reset(self) -> None:
        """Reset the machine, as the guest asks in one of its ways; it does not run any more."""

    def asked_to_end(self) -> None:
        """End the machine: whoever sits at its console asks for it."""

    def crashed(self, crash: GuestCrash) -> None:
        """Report a guest's crash, and pause or end the machine if its options say so.

        A platform passes on a bounded number of them for each guest.
        """


class GuestCalls(Protocol):
    """What a platform hands up from its guest, while the machine has it `serve`."""

    @property
    def is_over(self) -> bool:
        """Whether the turn should end: what the guest has sent besides is for the next one."""

    async def hypercall(self, call: HypercallInput) -> int:
        """Carry out a hypercall and return its result; what follows from it is done when this returns."""

    def retry_messages(self) -> None:
        """Deliver what waits for a message slot: the guest has written an MSR of its SynIC, perhaps EOM."""

    async def unplug_answered(self, address: int, *, is_done: bool) -> None:
        """Unplug the DIMM at `address` if the guest released it, or report that it did not."""

    async def dimm_ejected(self, slot: int) -> None:
        """Unplug the DIMM in a slot, which the guest has ejected, whether it was asked to or not."""

    def dimm_reported(self, slot: int, source: int, status: int) -> None:
        """Pass on what the guest reports of a slot by ACPI's _OST."""


class MemorySlots(Listener, SlotConsumer, Protocol):
    """The guest's memory slots: one for each section of the address space that they listen to."""

    def is_mapped(self, address: int, size: int) -> bool:
        """Return whether the guest has acknowledged all memory of `size` bytes from `address` on."""


class Platform(Protocol):
    """Runs the guest of one machine, one life after another: `power_on`, later `power_off`, and again."""

    @property
    def vp_count(self) -> int:
        """How many virtual processors the guest has: messages and signals name one of them."""

    @property
    def ram_hole(self) -> range:
        """The addresses, in bytes, that boot memory goes round: other things are there. Empty if none are."""

    @property
    def addresses(self) -> int:
        """How many bytes of addresses its memory can have."""

    @property
    def thread_ids(self) -> Sequence[int]:
        """The host's thread that runs each virtual processor; empty while no guest runs."""

    @property
    def slots(self) -> MemorySlots:
        """The guest's memory slots. They outlive a guest: the next one starts with what is mapped then."""

    async def power_on(self, doorbells: Iterable[int]) -> None:
        """Start a guest with the memory that is mapped, and a doorbell for each connection id.

        Raises ConfigError, or ShortageError if it may be tried again; then there is no guest.
        """

    async def power_off(self) -> None:
        """End the guest, if there is one, and release its hardware; the owner is not called.

        When this returns nothing of the guest can touch memory any more.
        """

    def kill(self) -> None:
        """End the guest's work at once, without waiting: no call of it that the kernel carries out goes on.

        `power_off` follows, and `exited` may be called before.
        """

    def close(self) -> None:
        """Release what outlives a guest, after the last `power_off`."""

    async def freeze(self) -> None:
        """Stop the guest where it is."""

    def thaw(self) -> None:
        """Let a frozen guest run again."""

    @property
    def ending(self) -> GuestEnding | None:
        """How the guest ended; None while it runs, and when it powered itself off."""

    async def serve(self, calls: GuestCalls) -> None:
        """Hand up what the guest has done, a bounded number of calls and none after `calls.is_over`.

        Calls `wake` if there may be more.
        """

    def deliver(self, message: OutgoingMessage) -> bool:
        """Put a message into the guest's message slot and interrupt the guest; False while it is full."""

    def signal(self, signal: Signal) -> None:
        """Set an event flag and interrupt the guest."""

    def plug(self, dimm: PcDimm) -> None:
        """Announce a DIMM, whose memory is mapped, to the guest, if one runs, and to those that follow."""

    def unplug(self, dimm: PcDimm) -> bool:
        """Ask the guest to release a DIMM; False when no guest knows of it."""


class MakePlatform(Protocol):
    """Makes the platform of a machine."""

    def __call__(self, options: VmOptions, memory: MappedMemory, owner: Owner, faults: Faults) -> Platform:
        """Make it, with no guest yet.

        Args:
            options: Those of the machine.
            memory: Guest memory, for message and event pages.
            owner: The machine.
            faults: Where wrong behaviour of the guest is counted.

        """
