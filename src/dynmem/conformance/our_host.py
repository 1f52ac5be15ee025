"""The adapter of this project's own host: `dynmem.vmbus.host`, `dynmem.dm.host` and a set of pages."""

from dynmem.conformance import adapter
from dynmem.dm.host import POST_INIT_WAIT_NS, DynamicMemoryHost, GivenUp
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.pages.page_set import PageSet
from dynmem.units import GIB, MIB, PAGE_SIZE
from dynmem.vmbus.host import Bus, Channel, ChannelClosed, ChannelFaulted, ChannelOpened, Offer
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire.dm import BALLOON_DEVICE_TYPE
from dynmem.wire.packet import PacketType

_BACKED_BYTES = 4 * MIB  # the suite's rings lie here; the rest of the guest is only counted
_BOOT_PAGES = 4 * GIB // PAGE_SIZE


class OurPages:
    """The pages that the guest has given up, as the hv-balloon device keeps them."""

    def __init__(self, total_pages: int) -> None:
        self.pages = PageSet(total_pages)

    @property
    def removed_pages(self) -> int:
        """How many there are."""
        return len(self.pages)

    def give_up(self, ranges: bytes) -> GivenUp:
        """Enter what the guest gave up."""
        added = self.pages.add(ranges)
        return GivenUp(added.new, added.duplicates, added.rejected)

    def take_back(self, max_pages: int, max_ranges: int) -> bytes:
        """Take pages out for the guest."""
        return self.pages.take(max_pages, max_ranges)


class OurHost:
    """A host of ours, with a guest of 4 GiB."""

    def __init__(self) -> None:
        self.groups = frozenset(adapter.GROUPS)
        self.memory = FlatMemory(memoryview(bytearray(_BACKED_BYTES)))
        self.scratch = range(16, _BACKED_BYTES // PAGE_SIZE)
        self.boot_pages = _BOOT_PAGES
        self.post_init_wait_ns = POST_INIT_WAIT_NS
        self.hot_add_pages = 0
        self.now = 0
        self.channel: Channel | None = None
        self.store = OurPages(_BOOT_PAGES)
        self.bus = Bus(self.memory, [Offer(BALLOON_DEVICE_TYPE, BALLOON_DEVICE_TYPE, "hv-balloon")])
        self.dm = self.make_machine()
        self.dm.reset(self.now)

    def make_machine(self) -> DynamicMemoryHost:
        """The protocol machine."""
        return DynamicMemoryHost(store=self.store, boot_pages=_BOOT_PAGES, status_report=True)

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        """HvPostMessage by the guest."""
        status = self.bus.post_message(connection_id, message_type, payload)
        self._turn()
        return int(status)

    def signal_event(self, connection_id: int, flag: int) -> int:
        """HvSignalEvent by the guest."""
        status = self.bus.signal_event(connection_id, flag)
        self._turn()
        return int(status)

    def take_message(self) -> bytes | None:
        """The message for the slot."""
        message = self.bus.next_message()
        if message is None:
            return None
        self.bus.message_delivered()
        return message.payload

    def take_event_flags(self) -> list[int]:
        """The flags to set."""
        return [signal.flag for signal in self.bus.take_signals()]

    def advance(self, ns: int) -> None:
        """Let time pass."""
        self.now += ns
        self.dm.tick(self.now)
        self._turn()

    def set_target(self, pages: int) -> None:
        """Ask for a size."""
        self.dm.set_target(pages, self.now)
        self._turn()

    def reset(self) -> None:
        """Reset the machine."""
        self.channel = None
        self.bus.reset()
        self.bus.take_events()
        self.store.pages.clear()
        self.dm.reset(self.now)

    def actual_pages(self) -> int | None:
        """The guest's size."""
        return self.dm.actual_pages

    def _turn(self) -> None:
        """What a VMM does after each exit: events first, then packets in, then messages out."""
        for event in self.bus.take_events():
            if isinstance(event, ChannelOpened):
                self.channel = event.channel
                self.dm.channel_opened(self.now)
            elif isinstance(event, ChannelClosed | ChannelFaulted) and self.channel is not None:
                self.channel = None
                self.dm.channel_closed(self.now)
        while self._receive():
            pass
        self._send()
        self.dm.take_events()
        if self.channel is not None and not self.channel.is_open:
            self._turn()  # broken off just now

    def _receive(self) -> bool:
        """Take one packet and answer it, so that answers are not piled up."""
        channel = self.channel
        packet = channel.receive() if channel is not None else None
        if channel is None or packet is None:
            return False
        if packet.type == PacketType.INBAND:
            try:
                self.receive(packet.data)
            except RemoteProtocolError as error:
                channel.break_off(str(error))
                return False
        self._send()
        return True

    def receive(self, data: bytes) -> None:
        """A message for the machine."""
        self.dm.receive(data, self.now)

    def sending(self, data: bytes) -> bytes:
        """A message of the machine, on its way into the ring."""
        return data

    def _send(self) -> None:
        """Send as far as there is room."""
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
