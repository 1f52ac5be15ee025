"""The adapter of this project's own host: `dynmem.vmbus.host`, `dynmem.dm.host` and a set of pages."""

import contextlib

from dynmem.conformance import adapter
from dynmem.dm.host import DynamicMemoryHost
from dynmem.dm.options import POST_INIT_WAIT_NS, HostOptions
from dynmem.dm.stores import GivenUp, Reservation
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.pages import ranges as page_ranges
from dynmem.pages.page_set import PageSet
from dynmem.units import GIB, MIB, PAGE_SIZE
from dynmem.vmbus import Bus, BusState, Channel, ChannelClosed, ChannelFaulted, ChannelOpened, Offer
from dynmem.vmbus.memory import FlatMemory
from dynmem.vmbus.reoffers import Reoffers
from dynmem.wire.dm import BALLOON_DEVICE_TYPE
from dynmem.wire.packet import PacketType

_BACKED_BYTES = 4 * MIB  # the suite's rings lie here; the rest of the guest is only counted
_BOOT_PAGES = 4 * GIB // PAGE_SIZE
FIRST_ADDED_PAGE = 32 * GIB // PAGE_SIZE  # where device memory begins: at the largest alignment of any guest
HOT_ADD_PAGES = 8 * GIB // PAGE_SIZE


class OurHotAdd:
    """Memory beyond the boot size, available at once."""

    most_pages = HOT_ADD_PAGES

    def __init__(self) -> None:
        self.added_pages: int = 0
        self._reserved = 0

    def reserve(self, pages: int, alignment: int, end: int) -> Reservation | None:
        start = FIRST_ADDED_PAGE + self.added_pages
        start += -start % alignment
        room = min(FIRST_ADDED_PAGE + HOT_ADD_PAGES, end) - start
        self._reserved = min(pages, room - room % alignment) if room > 0 else 0
        return Reservation(start, self._reserved) if self._reserved else None

    def is_mapped(self) -> bool:
        return True

    def backed(self, reserved: Reservation) -> Reservation | None:
        return reserved

    def confirm(self, pages: int) -> None:
        self._reserved -= pages
        self.added_pages += pages

    def cancel(self) -> None:
        self._reserved = 0

    def remove(self, ranges: bytes) -> GivenUp:
        return GivenUp(0, 0, page_ranges.page_count(ranges))


class OurPages:
    """The pages that the guest has given up, as the hv-balloon device keeps them."""

    def __init__(self, boot_pages: int, hot_add: OurHotAdd) -> None:
        self.pages: PageSet = PageSet(FIRST_ADDED_PAGE + HOT_ADD_PAGES)
        self._boot_pages = boot_pages
        self._hot_add = hot_add

    @property
    def removed_pages(self) -> int:
        return len(self.pages)

    def add_given(self, ranges: bytes) -> GivenUp:
        starts, counts = page_ranges.unpack(ranges)
        ends = starts + counts
        end = FIRST_ADDED_PAGE + self._hot_add.added_pages
        inside = (ends <= self._boot_pages) | ((starts >= FIRST_ADDED_PAGE) & (ends <= end))
        added = self.pages.add(page_ranges.pack(starts[inside], counts[inside]))
        return GivenUp(added.new, added.duplicates, added.rejected + int(counts[~inside].sum()))

    def remove_for_guest(self, max_pages: int, max_ranges: int) -> bytes:
        return self.pages.take(max_pages, max_ranges)

    def undo(self, ranges: bytes) -> None:
        self.pages.add(ranges)


class OurHost:
    """A host of ours, with a guest of 4 GiB that can grow to 12."""

    def __init__(self) -> None:
        self.groups: frozenset[str] = frozenset(adapter.GROUPS)
        self.memory: FlatMemory = FlatMemory(memoryview(bytearray(_BACKED_BYTES)))
        self.scratch: range = range(16, _BACKED_BYTES // PAGE_SIZE)
        self.boot_pages = _BOOT_PAGES
        self.post_init_wait_ns = POST_INIT_WAIT_NS
        self.hot_add_pages = HOT_ADD_PAGES
        self.now: int = 0
        self.channel: Channel | None = None
        self.hot_add: OurHotAdd = OurHotAdd()
        self.store: OurPages = OurPages(_BOOT_PAGES, self.hot_add)
        self.bus: Bus = Bus(self.memory, [Offer(BALLOON_DEVICE_TYPE, BALLOON_DEVICE_TYPE, "hv-balloon")])
        self.reoffers: Reoffers = Reoffers(self.bus)
        self.dm: DynamicMemoryHost = self.make_machine()
        self.dm.reset(self.now)

    def make_machine(self) -> DynamicMemoryHost:
        """Return the protocol machine."""
        return DynamicMemoryHost(
            store=self.store,
            boot_pages=_BOOT_PAGES,
            hot_add=self.hot_add,
            options=HostOptions(status_report=True, max_page_count=_BOOT_PAGES + HOT_ADD_PAGES),
        )

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        was_offered = self.bus.state is BusState.OFFERED
        status = self.bus.post_message(connection_id, message_type, payload)
        self._turn()
        if was_offered and self.bus.state is not BusState.OFFERED:
            self._begin_again()  # another guest, for all that a host can see
        return int(status)

    def signal_event(self, connection_id: int, flag: int) -> int:
        status = self.bus.signal_event(connection_id, flag)
        self._turn()
        return int(status)

    def take_message(self) -> bytes | None:
        message = self.bus.next_message()
        if message is None:
            return None
        self.bus.message_delivered()
        return message.payload

    def take_event_flags(self) -> list[int]:
        return [signal.flag for signal in self.bus.take_signals()]

    def advance(self, ns: int) -> None:
        self.now += ns
        self.dm.tick(self.now)
        self._turn()

    def set_target(self, pages: int) -> None:
        self.dm.set_target(pages, self.now)
        self._turn()

    def reset(self) -> None:
        self.channel = None
        self.bus.reset()
        self.bus.take_events()
        self.hot_add.added_pages = 0
        self._begin_again()

    def _begin_again(self) -> None:
        self.store.pages.clear()
        self.dm.reset(self.now)

    def unplug(self) -> bool:
        self.bus.rescind(next(iter(self.bus.channels.values())))
        self._turn()
        return True

    def actual_pages(self) -> int | None:
        return self.dm.actual_pages

    def _turn(self) -> None:
        """Do what a VMM does after each exit: first events, then packets in, then messages out."""
        for event in self.bus.take_events():
            if isinstance(event, ChannelFaulted):
                self.reoffers.faulted(event.channel, self.now)
            if isinstance(event, ChannelOpened):
                self.channel = event.channel
                self.dm.channel_opened(self.now)
            elif isinstance(event, ChannelClosed | ChannelFaulted) and self.channel is not None:
                self.channel = None
                self.dm.channel_closed(self.now)
        self.reoffers.tick(self.now)
        while self._receive():
            pass
        self._send()
        self.dm.take_events()
        if self.channel is not None and not self.channel.is_open:
            self._turn()  # closed by a fault just now

    def _receive(self) -> bool:
        """Receive one packet and send the reply, so that replies do not pile up."""
        channel = self.channel
        packet = channel.receive() if channel is not None else None
        if channel is None or packet is None:
            return False
        if packet.type == PacketType.INBAND:
            with contextlib.suppress(RemoteProtocolError):  # which a VMM counts
                self.receive(packet.data)
        self._send()
        return True

    def receive(self, data: bytes) -> None:
        """Pass a message to the machine."""
        self.dm.receive(data, self.now)

    def sending(self, data: bytes) -> bytes:
        """Return the message as the machine sends it. A planted mistake may change it."""
        return data

    def _send(self) -> None:
        """Send as long as there is room."""
        channel = self.channel
        while channel is not None and channel.is_open and (message := self.dm.next_message()) is not None:
            try:
                sent = channel.send(self.sending(message))
            except LocalProtocolError as error:
                channel.break_off(f"the guest's ring is too small: {error}")
                return
            if not sent:
                return
            self.dm.message_sent(self.now)
