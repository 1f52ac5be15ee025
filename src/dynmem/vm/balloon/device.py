"""The hv-balloon device: the Dynamic Memory Protocol's host end, on one VMBus channel, over guest memory.

What the guest gives up goes into its accounts (`accounts`) and is discarded beside the protocol (`discards`).
With a memory backend of its own (`memory_device`) the device also adds memory beyond the boot size.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Final

from dynmem.direction import Direction
from dynmem.dm import DynamicMemoryHost, GuestStatus, HostOptions
from dynmem.dm.events import Anomaly, HostEvent, HotRemoveFinished
from dynmem.dm.states import HostState
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.memory.backend import Backend
from dynmem.pages import ranges as page_ranges
from dynmem.trace.capture import Capture
from dynmem.trace_events import NO_TRACE, Trace
from dynmem.units import PAGE_SHIFT
from dynmem.vm.balloon.accounts import GuestPages, Memory
from dynmem.vm.balloon.discards import BatchesInFlight, StartDiscard
from dynmem.vm.balloon.given_trace import OurRange, TracedPages
from dynmem.vm.balloon.memory_device import HotAddedMemory
from dynmem.vm.balloon.removals import Removals
from dynmem.vm.balloon.reporting import FreePageReporting
from dynmem.vm.clock import VirtualClock
from dynmem.vm.faults import Faults
from dynmem.vm.options.machine import BalloonOptions
from dynmem.vmbus import Channel, Offer
from dynmem.wire.dm import BALLOON_DEVICE_TYPE
from dynmem.wire.packet import DESCRIPTOR_BYTES, FOOTER_BYTES, Packet, PacketType

# The same at every start: it is one device.
INSTANCE: Final = uuid.UUID("f2a7a1c5-92f1-4a3c-8a3e-0d8b6b8a1f5d")
_BALLOONING: Final = frozenset(
    (HostState.BALLOON_RB_WAIT, HostState.BALLOON_POSTING, HostState.BALLOON_REPLY_WAIT)
)


class HvBalloon:
    """The device. Everything but `set_target` and `hot_remove` runs in the machine's task.

    A message that is malformed, or makes no sense, costs the guest that message. Its channel ends only with
    its ring: a ring that is broken, or too small for a message to the guest.

    In each turn the machine calls `collect_discards` and `tick`, and then, packet by packet, `receive`,
    `begin_discards` and `send`; `take_events` says what happened.

    Attributes:
        options: What it was made with.
        identity: Its id.
        offer: Its channel on the bus.
        host: The protocol machine, for its figures.
        pages: The pages that the guest has given up.
        hot_added: Memory beyond the boot size, if there is a backend for any.
        reporting: What the guest reports as free, if it may.
        resets: How often another guest has taken over.
    """

    def __init__(
        self,
        options: BalloonOptions,
        boot: Backend,
        boot_ram: Sequence[tuple[int, int]],
        *,
        starter: Callable[[Backend], StartDiscard],
        wake: Callable[[], None],
        clock: VirtualClock,
        faults: Faults,
        hot_added: HotAddedMemory | None = None,
        trace: Trace = NO_TRACE,
        capture: Capture | None = None,
    ) -> None:
        """Make it; `hot_added` has its address.

        Args:
            options: Its id, whether the guest is to report its memory, how long to wait after the handshake.
            boot: The memory that the guest boots with.
            boot_ram: Where the guest has it: address and bytes of each piece, ascending.
            starter: Returns what starts the discards of a backend.
            wake: Called when another turn is due: something is to be sent, or a discard has ended.
            clock: The virtual machine's.
            faults: Where wrong behaviour of the guest and the system's refusals go.
            hot_added: Memory beyond the boot size.
            trace: Where QEMU's trace events go.
            capture: Where packets go.
        """
        self.options: Final = options
        self.identity: Final = options.identity
        self.offer: Final = Offer(BALLOON_DEVICE_TYPE, INSTANCE, "hv-balloon")
        self.hot_added: Final = hot_added
        self.resets: int = 0
        self._wake = wake
        self._clock = clock
        self._faults = faults
        self._capture = capture
        self.pages: Final[GuestPages] = TracedPages(clock.now_ns, trace, self._our_range)
        self._in_flight = BatchesInFlight(starter, wake=wake, faults=faults)
        self.reporting: Final = (
            FreePageReporting(self.pages, self._in_flight.discard, faults)
            if options.free_page_reporting
            else None
        )
        self._channel: Channel | None = None
        self._removals = Removals()
        self._events: list[HostEvent] = []  # taken from the protocol machine already
        self._plug(Memory.of(boot_ram, boot), boot)
        most = boot.size
        if hot_added is not None:
            self._plug(hot_added.memory, hot_added.backend)
            most += hot_added.backend.size
        self.host: Final = DynamicMemoryHost(
            store=self.pages,
            boot_pages=boot.size >> PAGE_SHIFT,
            hot_add=hot_added,
            trace=trace,
            options=HostOptions(
                status_report=options.status_report,
                post_init_wait_ns=options.post_init_wait_ns,
                max_page_count=None if hot_added is None else most >> PAGE_SHIFT,
            ),
        )
        self.host.reset(clock.now_ns())

    # what the monitor asks

    @property
    def actual_bytes(self) -> int:
        """The guest's size now."""
        return self.host.actual_pages << PAGE_SHIFT

    @property
    def target_bytes(self) -> int:
        """The size last asked for."""
        return self.host.target_pages << PAGE_SHIFT

    @property
    def status(self) -> GuestStatus | None:
        """The guest's last status report."""
        return self.host.status

    def set_target(self, size: int) -> None:
        """Ask the guest for a size in bytes."""
        self.host.set_target(size >> PAGE_SHIFT, self._clock.now_ns())
        self._wake()

    def hot_remove(self, pages: int) -> bool:
        """Ask the guest to remove added pages permanently.

        Returns False if it cannot, or while another such request waits.
        """
        is_asked = self.host.hot_remove(pages, self._clock.now_ns())
        if is_asked:
            self._removals.add(pages)
        self._wake()
        return is_asked

    # the guest's memories

    def memory_plugged(self, first_page: int, backend: Backend) -> None:
        """Keep an account of a DIMM, which the guest has from this page on."""
        self._plug(Memory.of([(first_page << PAGE_SHIFT, backend.size)], backend), backend)
        self.host.boot_pages += backend.size >> PAGE_SHIFT
        self.host.tick(self._clock.now_ns())

    async def memory_unplugged(self, first_page: int) -> None:
        """Drop the account of the DIMM at this page, which the guest has released.

        When this returns nothing of it is being discarded.
        """
        await self._in_flight.settled()
        memory = self.pages.memory_at(first_page)
        self.host.withdraw_message()  # it may name pages of the DIMM
        self.pages.unplug(memory)
        self._in_flight.release(memory)
        self.host.boot_pages -= memory.pages
        self.host.tick(self._clock.now_ns())

    def _our_range(self) -> OurRange | None:
        return None if self.hot_added is None else self.hot_added.our_range

    def _plug(self, memory: Memory, backend: Backend) -> None:
        is_ours = self.hot_added is not None and memory is self.hot_added.memory
        self.pages.plug(memory, is_added=is_ours)
        self._in_flight.serve(memory, backend)
        if not is_ours:  # an earlier guest, or this one, may have given up some of it
            self._note_lacking(page_ranges.page_count(backend.reserve(page_ranges.span(0, memory.pages))))

    def _note_lacking(self, pages: int) -> None:
        """Report memory that the guest has and the host has no huge pages for."""
        if pages:
            self._faults.note(
                "huge pages missing",
                f"{pages << PAGE_SHIFT} bytes of the guest's memory were returned to the host, which has no"
                " huge pages for them now: no guest can start, and touching them is a SIGBUS",
            )

    # one guest after another

    async def reset(self) -> None:
        """Give boot memory to the next guest after a power cycle.

        Added memory goes and the target is over, or both stay (x-startup). The former guest is gone, and its
        channel closed.
        """
        keeps_size = self.options.startup_last
        wanted = self.host.actual_pages - self.host.boot_pages if keeps_size else 0
        await self._in_flight.settled()
        if self.hot_added is not None:
            memory = self.hot_added.memory
            memory.forget()
            await self._in_flight.discard(memory, self.hot_added.power_cycle(wanted))
        self._begin_again(keeps_target=keeps_size)

    async def restarted(self) -> None:
        """Give all memory, with what was added, to another guest that has come without a power cycle."""
        await self._in_flight.settled()
        self._begin_again(keeps_target=False)

    async def settled(self) -> None:
        """Wait until no discard is in flight."""
        await self._in_flight.settled()

    def _begin_again(self, *, keeps_target: bool) -> None:
        self.resets += 1
        self._note_lacking(self.pages.unreserved_pages())
        self._lose_removals()
        self.pages.clear()
        self.host.reset(self._clock.now_ns(), keeps_target=keeps_target)

    def _lose_removals(self) -> None:
        """Report how the hot removes ended that the guest will not answer any more."""
        self._take_host_events()  # some may have ended already
        self._events += self._removals.lose(self.host.journal.operations)

    # the channel

    def opened(self, channel: Channel) -> None:
        """Begin the protocol: the guest's driver has opened the channel."""
        self._channel = channel
        self.host.channel_opened(self._clock.now_ns())

    def closed(self) -> None:
        """End the protocol: the channel is closed or broken. What the guest gave up stays given up."""
        if self._channel is not None:
            self._channel = None
            self._lose_removals()
            self.host.channel_closed(self._clock.now_ns())

    def receive(self) -> int:
        """Take one packet and return how many bytes that took; 0 if there was none.

        One that is no message is counted and ignored.
        """
        channel = self._channel
        packet = channel.receive() if channel is not None else None
        if channel is None or packet is None:
            return 0
        size = DESCRIPTOR_BYTES + len(packet.descriptor) + len(packet.data) + FOOTER_BYTES
        if self._capture is not None:
            self._capture.packet(Direction.GUEST_TO_HOST, channel.relid, packet)
        if packet.type != PacketType.INBAND:
            self._faults.note("unexpected packet", f"{self.identity}: a ring packet of type {packet.type}")
            return size
        try:
            self.host.receive(packet.data, self._clock.now_ns())
        except RemoteProtocolError as error:
            self._faults.note("malformed message", f"{self.identity}: {error}")
        return size

    def send(self) -> None:
        """Send until there is nothing more to send, or no room: the guest then signals for more."""
        channel = self._channel
        while channel is not None and channel.is_open and (message := self._next_message()) is not None:
            packet = Packet(PacketType.INBAND, 0, 0, message)
            try:
                if not channel.send_packet(packet):
                    return
            except LocalProtocolError as error:  # the guest made its ring smaller than a message
                channel.break_off(f"the ring is too small: {error}")
                return
            if self._capture is not None:
                self._capture.packet(Direction.HOST_TO_GUEST, channel.relid, packet)
            self.host.message_sent(self._clock.now_ns())

    def _next_message(self) -> bytes | None:
        """Return the protocol's next message; one that returns pages waits until no discard can hit them."""
        if self.host.takes_pages_next and not self.pages.may_remove:
            return None
        return self.host.next_message()

    # discards

    def collect_discards(self) -> None:
        """Record the discards that have ended."""
        self._in_flight.collect()

    def begin_discards(self) -> None:
        """Start the discards that are due; nothing is held back once the guest has given all."""
        if self._may_discard:
            self._in_flight.begin(self.pages.due(flush=self.host.state not in _BALLOONING))

    @property
    def _may_discard(self) -> bool:
        """Whether discards may begin: what is about to go back to the guest need not be discarded before."""
        return not self.host.takes_pages_next or self.host.state is HostState.STUCK

    # time and events

    def tick(self) -> None:
        """Let time pass in the protocol. Some of its waits are for discards: collect them before."""
        self.host.tick(self._clock.now_ns())

    def deadline_ns(self) -> int | None:
        """When a turn is needed though the guest is silent."""
        held_back = self.pages.deadline_ns() if self._may_discard else None
        return min((ns for ns in (self.host.deadline_ns(), held_back) if ns is not None), default=None)

    def take_events(self) -> list[HostEvent]:
        """Return what happened since the last time, without the guest's oddities: those go to the faults."""
        self._take_host_events()
        events, self._events = self._events, []
        return events

    def _take_host_events(self) -> None:
        for event in self.host.take_events():
            if isinstance(event, HotRemoveFinished):
                self._removals.finished()
            if isinstance(event, Anomaly):
                self._faults.note("anomaly", event.text)
            else:
                self._events.append(event)
