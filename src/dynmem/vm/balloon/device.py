"""The hv-balloon device: the Dynamic Memory Protocol's host end, on one VMBus channel, over guest memory.

What the guest gives up goes into its accounts (`GuestPages`) and is discarded by worker threads beside the
protocol, since giving a gigabyte back to the host takes 100 ms. Only what a late discard could destroy waits
for it: pages go back to the guest, memory that it gave for good is added again, a DIMM leaves and a new guest
takes over when nothing is in flight.

With a memory backend of its own (`HotAddedMemory`) the device also adds memory beyond the boot size.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import Callable
from typing import Final

from dynmem.direction import Direction
from dynmem.dm import DynamicMemoryHost, GivenUp, GuestStatus, HostOptions
from dynmem.dm.events import Anomaly, HostEvent, HotRemoveFinished
from dynmem.dm.operations import HotRemove
from dynmem.dm.states import HostState
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.memory.backend import Backend
from dynmem.memory.discard import DiscardError
from dynmem.pages import ranges as page_ranges
from dynmem.trace.capture import Capture
from dynmem.trace_events import NO_TRACE, Trace
from dynmem.units import PAGE_SHIFT
from dynmem.vm.balloon.accounts import Discard, GuestPages, Memory
from dynmem.vm.balloon.memory_device import HotAddedMemory
from dynmem.vm.balloon.removal_trace import trace_removed
from dynmem.vm.clock import VirtualClock
from dynmem.vm.faults import Faults
from dynmem.vmbus import Channel, Offer
from dynmem.wire.dm import BALLOON_DEVICE_TYPE
from dynmem.wire.packet import Packet, PacketType

INSTANCE: Final = uuid.UUID(
    "f2a7a1c5-92f1-4a3c-8a3e-0d8b6b8a1f5d"
)  # the same at every start: it is one device
_BALLOONING: Final = frozenset(
    (HostState.BALLOON_RB_WAIT, HostState.BALLOON_POSTING, HostState.BALLOON_REPLY_WAIT)
)

Discarding = Callable[[bytes], "asyncio.Future[int]"]


class HvBalloon:
    """The device. Everything but `set_target` and `hot_remove` runs in the machine's task.

    Attributes:
        host: The protocol machine, for its figures.
        hot_added: Memory beyond the boot size, if there is a backend for any.
        resets: How often the guest began anew.

    """

    def __init__(
        self,
        *,
        identity: str,
        boot: Backend,
        discarding: Callable[[Backend], Discarding],
        wake: Callable[[], None],
        status_report: bool,
        post_init_wait_ns: int,
        clock: VirtualClock,
        faults: Faults,
        hot_added: HotAddedMemory | None = None,
        trace: Trace = NO_TRACE,
        capture: Capture | None = None,
    ) -> None:
        """Make it; `hot_added` has its address.

        Args:
            identity: its id.
            boot: the memory that the guest has from page 0 on.
            discarding: of a backend, what discards packed ranges of its pages and tells the bytes.
            wake: called when a discard is over: `tick` is due.
            status_report: whether the guest is to report its memory.
            post_init_wait_ns: from the end of the handshake to the first request.
            clock: the virtual machine's.
            faults: where wrong behaviour of the guest and the system's refusals go.
            hot_added: memory beyond the boot size.
            trace: where QEMU's trace events go.
            capture: where packets go.

        """
        self.identity: Final = identity
        self.status_report: Final = status_report
        self.offer: Final = Offer(BALLOON_DEVICE_TYPE, INSTANCE, "hv-balloon")
        self.hot_added: Final = hot_added
        self.resets: int = 0
        self._discarding = discarding
        self._wake = wake
        self._clock = clock
        self._faults = faults
        self._trace = trace
        self._capture = capture
        self._pages = GuestPages(clock.now_ns)
        self._discards: dict[Memory, Discarding] = {}
        self._running: dict[asyncio.Future[int], Discard] = {}
        self._channel: Channel | None = None
        self._removals: deque[int] = deque()  # pages of the hot removes that were asked for and are not over
        self._lost: list[HostEvent] = []  # how those ended whose guest went away
        self._plug(Memory.of(0, boot), boot)
        if hot_added is not None:
            self._plug(hot_added.memory, hot_added.backend)
        self.host: Final = DynamicMemoryHost(
            store=self,
            boot_pages=boot.size >> PAGE_SHIFT,
            hot_add=hot_added,
            trace=trace,
            options=HostOptions(
                status_report=status_report,
                post_init_wait_ns=post_init_wait_ns,
                max_page_count=None
                if hot_added is None
                else boot.size + hot_added.backend.size >> PAGE_SHIFT,
            ),
        )
        self.host.reset(clock.now_ns())

    def _plug(self, memory: Memory, backend: Backend) -> None:
        """Keep an account of one memory."""
        is_ours = self.hot_added is not None and memory is self.hot_added.memory
        self._pages.plug(memory, is_added=is_ours)
        if not is_ours:  # an earlier guest, or this one, may have given up some of it
            self._tell_unreserved(page_ranges.page_count(backend.reserve(page_ranges.span(0, memory.pages))))
        self._discards[memory] = self._discarding(backend)

    # what the protocol machine asks of its store

    @property
    def removed_pages(self) -> int:
        """Pages that the guest has given up, of both accounts."""
        return self._pages.removed_pages

    @property
    def removed_guest_pages(self) -> int:
        """Pages that the guest has given up though the host could not take their memory."""
        return self._pages.removed_guest_pages

    @property
    def removed_both_pages(self) -> int:
        """Pages that the guest has given up and the host has taken, or is about to."""
        return self._pages.removed_pages - self._pages.removed_guest_pages

    def add_given(self, ranges: bytes) -> GivenUp:
        """Add pages that came in a message, and have them discarded."""
        ours = None if self.hot_added is None else self.hot_added.our_range
        trace_removed(self._trace, ranges, self._pages, ours)
        return self._pages.add_given(ranges)

    def remove_for_guest(self, max_pages: int, max_ranges: int) -> bytes:
        """Remove pages to give back to the guest; none of them is being discarded, or will be."""
        return self._pages.remove_for_guest(max_pages, max_ranges)

    def undo(self, ranges: bytes) -> None:
        """Put back pages that were removed for the guest and never sent; they are discarded again."""
        self._pages.undo(ranges)

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

    def hot_remove(self, pages: int) -> bool:
        """Ask the guest for added pages back, for good; whether it knows how, and no other wish waits."""
        is_asked = self.host.hot_remove(pages, self._clock.now_ns())
        if is_asked:
            self._removals.append(pages)
        return is_asked

    # what the machine tells

    def memory_plugged(self, first_page: int, backend: Backend) -> None:
        """The guest has a DIMM from this page on."""
        self._plug(Memory.of(first_page, backend), backend)
        self.host.boot_pages += backend.size >> PAGE_SHIFT
        self.host.tick(self._clock.now_ns())

    async def memory_unplugged(self, first_page: int) -> None:
        """The guest has given the DIMM at this page back; from the return on nothing of it is discarded."""
        await self.settled()
        (memory,) = (memory for memory in self._discards if memory.first_page == first_page)
        self.host.withdraw_message()  # it may name pages of the DIMM
        self._pages.unplug(memory)
        del self._discards[memory]
        self.host.boot_pages -= memory.pages
        self.host.tick(self._clock.now_ns())

    async def reset(self) -> None:
        """Power cycle: boot memory is all the next guest's, and added memory goes, or stays as was asked for.

        The former guest is gone, and its channel closed.
        """
        wanted = self.host.actual_pages - self.host.boot_pages
        await self.settled()
        if self.hot_added is not None:
            self.hot_added.memory.forget()
            await self._discard_now(self.hot_added.memory, self.hot_added.power_cycle(wanted))
        self._begin_anew()

    async def _discard_now(self, memory: Memory, ranges: bytes) -> None:
        """Discard what is nobody's."""
        if not ranges:
            return
        try:
            await self._discards[memory](ranges)
        except DiscardError as error:
            self._faults.note("discard failed", str(error))

    def _tell_unreserved(self, pages: int) -> None:
        """Tell of memory that the guest has and the host has not."""
        if pages:
            self._faults.note(
                "huge pages missing",
                f"{pages << PAGE_SHIFT} bytes of the guest's memory had been given back to the host, which "
                "has no huge pages for them now: no guest can start, and a touch of them is SIGBUS",
            )

    def _begin_anew(self) -> None:
        self.resets += 1
        self._tell_unreserved(self._pages.unreserved_pages())
        self._lose_removals()
        self._pages.clear()
        self.host.reset(self._clock.now_ns())

    async def settled(self) -> None:
        """Wait until no discard is in flight."""
        self._take_results()
        while self._running:
            await asyncio.wait(self._running)
            self._take_results()

    # what the bus tells

    def opened(self, channel: Channel) -> None:
        """The guest's driver opened the channel."""
        self._channel = channel
        self.host.channel_opened(self._clock.now_ns())

    def closed(self) -> None:
        """The channel is closed or broken; what the guest has given up stays given up."""
        if self._channel is not None:
            self._channel = None
            self._lose_removals()
            self.host.channel_closed(self._clock.now_ns())

    def _lose_removals(self) -> None:
        """The guest that was asked for pages will not answer any more."""
        self._lost = self.take_events()  # of removals that are over already, too
        last = self.host.journal.operations[-1:]
        got = sum(each.answered for each in last if each.kind == HotRemove.kind and each.ended_ns is None)
        while self._removals:
            self._lost.append(HotRemoveFinished(self._removals.popleft(), got))
            got = 0  # the next one had not begun

    async def restarted(self) -> None:
        """Another guest owns all of the memory, what was added too, when this returns."""
        await self.settled()
        self._begin_anew()

    # work

    def tick(self) -> None:
        """Let time pass, and take the results of discards; `send` follows."""
        self._take_results()
        self.host.tick(self._clock.now_ns())

    def deadline_ns(self) -> int | None:
        """When `tick` is needed though the guest is silent."""
        held_back = self._pages.deadline_ns() if self._may_discard else None
        return min((ns for ns in (self.host.deadline_ns(), held_back) if ns is not None), default=None)

    def take_events(self) -> list[HostEvent]:
        """What happened; the guest's oddities have gone to the faults already."""
        events, self._lost = self._lost, []
        for event in self.host.take_events():
            if isinstance(event, HotRemoveFinished):
                self._removals.popleft()
            if isinstance(event, Anomaly):
                self._faults.note("anomaly", event.text)
            else:
                events.append(event)
        return events

    def receive(self) -> bool:
        """Take one packet; whether there was one. What is malformed breaks the channel off."""
        channel = self._channel
        packet = channel.receive() if channel is not None else None
        if channel is None or packet is None:
            return False
        if self._capture is not None:
            self._capture.packet(Direction.GUEST_TO_HOST, channel.relid, packet)
        if packet.type != PacketType.INBAND:
            self._faults.note("unexpected packet", f"{self.identity}: a ring packet of type {packet.type}")
            return True
        try:
            self.host.receive(packet.data, self._clock.now_ns())
        except RemoteProtocolError as error:
            channel.break_off(f"a malformed message: {error}")
            return False
        return True

    def send(self) -> None:
        """Begin due discards, send until there is nothing more, or no room: the guest signals for more."""
        self._take_results()
        self._begin_discards()
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
        """The protocol's next message; one that gives pages back waits until no discard can hit them."""
        if self.host.takes_pages_next and not self._pages.may_remove:
            return None
        return self.host.next_message()

    @property
    def _may_discard(self) -> bool:
        """Whether discards may begin: what is about to go back to the guest need not be discarded before."""
        return not self.host.takes_pages_next or self.host.state is HostState.STUCK

    def _begin_discards(self) -> None:
        """Let worker threads discard what is due; nothing is held back once the guest has given all."""
        if not self._may_discard:
            return
        for discard in self._pages.due(flush=self.host.state not in _BALLOONING):
            future = self._discards[discard.memory](discard.ranges)
            self._running[future] = discard
            future.add_done_callback(self._discard_over)

    def _discard_over(self, _: "asyncio.Future[int]") -> None:
        self._wake()

    def _take_results(self) -> None:
        """Enter what became of discards that are over."""
        for future in [future for future in self._running if future.done()]:
            discard = self._running.pop(future)
            error = future.exception()
            if error is not None and not isinstance(error, DiscardError):
                raise error
            if error is not None:  # the pages stay the balloon's, only the host's memory is not free
                self._faults.note("discard failed", str(error))
            discard.memory.done(discard, failed=error is not None)
