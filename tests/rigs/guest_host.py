"""A small virtual machine around a guest: sealed memory, SynIC, VMBus, a balloon device that discards."""

import uuid
from collections.abc import Callable

import numpy as np
from tests.rigs.memory import memory_of
from tests.rigs.stores import PlainSource

from dynmem.dm import DynamicMemoryHost, GivenUp, HostOptions
from dynmem.dm.events import HostEvent
from dynmem.memory.discard import Discarder
from dynmem.pages import ranges as page_ranges
from dynmem.pages.page_set import PageSet
from dynmem.units import GIB, PAGE_SIZE
from dynmem.vmbus import Bus, ChannelClosed, ChannelOpened, GuestUnloaded, Offer
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire import synic as wire
from dynmem.wire.dm import BALLOON_DEVICE_TYPE
from dynmem.wire.synic import HvStatus

RELID = 1
ADDED_AT = 32 * GIB // PAGE_SIZE
DOORBELL = wire.CHANNEL_CONNECTION_ID_BASE + RELID


class GuestHost:
    """The host's side of one guest. `interrupt` is called for SINT 2; `now` is set by whoever drives it.

    `added_size` bytes of memory can be hot-added, from page `ADDED_AT` on; whoever drives it maps them.
    `busy_posts`: so many posts are answered as a host does that has no buffers left.
    """

    def __init__(self, size: int, interrupt: Callable[[], None], added_size: int = 0) -> None:
        self.backend = memory_of(self, size, "test-guest")
        self.memory = FlatMemory(self.backend.view)
        self.pages = size // PAGE_SIZE
        self.bus = Bus(self.memory, [Offer(BALLOON_DEVICE_TYPE, uuid.uuid4(), "hv-balloon")])
        self.channel = self.bus.channels[RELID]
        self.discarder = Discarder(self.backend)
        self.added = memory_of(self, added_size, "test-added") if added_size else None
        self.source = PlainSource(ADDED_AT, added_size // PAGE_SIZE)
        self.given_up = PageSet(ADDED_AT + added_size // PAGE_SIZE)
        self.device = DynamicMemoryHost(
            store=self,
            boot_pages=self.pages,
            hot_add=self.source if added_size else None,
            options=HostOptions(
                status_report=True, post_init_wait_ns=0, max_page_count=self.pages + added_size // PAGE_SIZE
            ),
        )
        self.device.reset(0)
        self.now = 0
        self.busy_posts = 0
        self.msrs: dict[int, int] = {}
        self.ends_of_message = 0
        self.events: list[HostEvent] = []
        self.responses: list[bytes] = []  # ranges of each message of pages
        self._interrupt = interrupt

    @property
    def actual_pages(self) -> int:
        return self.device.actual_pages

    # the device's page store

    @property
    def removed_pages(self) -> int:
        return len(self.given_up)

    def add_given(self, ranges: bytes) -> GivenUp:
        self.responses.append(ranges)
        added = self.given_up.add(ranges)
        starts, counts = page_ranges.unpack(added.coalesced)
        low = starts < ADDED_AT
        self.discarder.discard(page_ranges.pack(starts[low], counts[low]))
        if self.added is not None:
            above = page_ranges.pack(starts[~low] - np.uint64(ADDED_AT), counts[~low])
            Discarder(self.added).discard(above)
        return GivenUp(added.new, added.duplicates, added.rejected)

    def remove_for_guest(self, max_pages: int, max_ranges: int) -> bytes:
        return self.given_up.take(max_pages, max_ranges)

    def undo(self, ranges: bytes) -> None:
        self.given_up.add(ranges)

    # what the guest asks of its hypervisor

    def hypercall(self, control: int, input_gpa: int) -> HvStatus:
        status = self._hypercall(control, input_gpa)
        self.work()
        return status

    def _hypercall(self, control: int, input_gpa: int) -> HvStatus:
        if control == wire.HYPERCALL_POST_MESSAGE and self.busy_posts:
            self.busy_posts -= 1
            return HvStatus.INSUFFICIENT_BUFFERS
        if control == wire.HYPERCALL_POST_MESSAGE:
            post = wire.decode_post(self.memory.read(input_gpa, wire.MESSAGE_SLOT_BYTES))
            return self.bus.post_message(post.connection_id, post.message_type, post.payload)
        if control == wire.HYPERCALL_SIGNAL_EVENT | wire.HYPERCALL_FAST:
            signal = wire.decode_signal(input_gpa.to_bytes(8, "little"))
            return self.bus.signal_event(signal.connection_id, signal.flag)
        return HvStatus.INVALID_HYPERCALL_CODE

    def write_msr(self, msr: int, value: int) -> HvStatus:
        self.ends_of_message += msr == wire.MSR_EOM
        self.msrs[msr] = value
        self.work()
        return HvStatus.SUCCESS

    def signal(self, connection_id: int) -> None:
        assert connection_id == DOORBELL
        self.work()

    def unplug(self) -> None:
        self.bus.rescind(self.channel)
        self.work()

    # the host's own work

    def work(self) -> None:
        """Take what the guest has written, answer it, raise the interrupt."""
        for event in self.bus.take_events():
            if isinstance(event, ChannelOpened):
                self.device.channel_opened(self.now)
            elif isinstance(event, ChannelClosed):
                self.device.channel_closed(self.now)
            elif isinstance(event, GuestUnloaded):
                self.given_up.clear()
        self.device.tick(self.now)
        self._send()
        while (packet := self.channel.receive()) is not None:
            self.device.receive(packet.data, self.now)
            self._send()
        self.events.extend(self.device.take_events())
        self._deliver()

    def _send(self) -> None:
        while (message := self.device.next_message()) is not None:
            if not self.channel.send(message):
                return
            self.device.message_sent(self.now)

    def _deliver(self) -> None:
        message_page, event_page = self.msrs.get(wire.MSR_SIMP, 0), self.msrs.get(wire.MSR_SIEFP, 0)
        interrupted = False
        if message_page & 1 and (message := self.bus.next_message()) is not None:
            interrupted = self._fill_slot((message_page & ~0xFFF) + message.sint * 256, message.payload)
        if event_page & 1:
            for signal in self.bus.take_signals():
                word = (event_page & ~0xFFF) + signal.sint * 256 + signal.flag // 32 * 4
                self.memory.store32(word, self.memory.load32(word) | 1 << signal.flag % 32)
                interrupted = True
        if interrupted:
            self._interrupt()

    def _fill_slot(self, slot: int, payload: bytes) -> bool:
        if self.memory.load32(slot):
            flags = self.memory.load32(slot + 4) | wire.SLOT_FLAG_PENDING << 8
            self.memory.store32(slot + 4, flags)
            self.memory.fence()
            if self.memory.load32(slot):
                return False
        data = wire.encode_slot(wire.MessageSlot(wire.VMBUS_MESSAGE_TYPE, payload))
        self.memory.write(slot + 4, data[4:])
        self.memory.fence()
        self.memory.store32(slot, wire.VMBUS_MESSAGE_TYPE)
        self.bus.message_delivered()
        return True

    def close(self) -> None:
        self.backend.close()
        if self.added is not None:
            self.added.close()
