"""The adapter of this project's own guest: `dynmem.vmbus.guest` under `dynmem.dm.guest`, and free pages."""

from collections import deque
from typing import Final

import numpy as np

from dynmem import vmbus
from dynmem.conformance import adapter
from dynmem.conformance.adapter import Hypercalls
from dynmem.dm.blocks import Added
from dynmem.dm.guest import DynamicMemoryGuest
from dynmem.dm.options import GuestOptions
from dynmem.errors import RemoteProtocolError
from dynmem.limits import DM_HOT_REMOVE_RANGES, DM_RANGES_PER_MESSAGE
from dynmem.pages import ranges as page_ranges
from dynmem.pages.page_set import PageSet
from dynmem.units import GIB, MIB, NS_PER_MS, PAGE_SIZE
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire.dm import BALLOON_DEVICE_TYPE
from dynmem.wire.packet import PacketType
from dynmem.wire.synic import VMBUS_MESSAGE_TYPE, HvStatus

_BACKED_BYTES: Final = 4 * MIB
_TOTAL_PAGES: Final = 512 * MIB // PAGE_SIZE
_FIRST_FREE: Final = 0x1000
_PAGE_LIMIT: Final = 64 * GIB // PAGE_SIZE  # all memory that can be added lies below
_BLOCK_PAGES: Final = 128 * MIB // PAGE_SIZE
_RUN, _GAP = 5, 3  # free memory is fragmented: five pages free, three in use
_RETRY_NS: Final = NS_PER_MS
_FOR_NOW: Final = frozenset({HvStatus.INSUFFICIENT_BUFFERS, HvStatus.INSUFFICIENT_MEMORY})


class OurFreePages:
    """The guest's free memory, in small pieces."""

    def __init__(self) -> None:
        self.free: PageSet = PageSet(_PAGE_LIMIT)
        step = _RUN + _GAP
        starts = range(_FIRST_FREE, _TOTAL_PAGES - step, step)
        self.free.add(b"".join((start | _RUN << 40).to_bytes(8, "little") for start in starts))

    @property
    def available_pages(self) -> int:
        return len(self.free)

    @property
    def committed_pages(self) -> int:
        return _FIRST_FREE

    def allocate_for_balloon(self, pages: int) -> bytes:
        return self.free.take(pages, DM_RANGES_PER_MESSAGE)

    def free_from_balloon(self, ranges: bytes) -> None:
        self.free.add(ranges)


class OurBlocks:
    """The guest's kernel, which accepts every block of memory that it is offered."""

    alignment_pages = _BLOCK_PAGES

    def __init__(self, free: PageSet) -> None:
        self._free = free

    def hot_add(self, start: int, pages: int) -> Added:
        self._free.add(page_ranges.pack(*(np.array([n], np.uint64) for n in (start, pages))))
        return Added(pages)

    def hot_remove(self, pages: int, virtual_node: int, qos_flags: int) -> bytes:
        return self._free.take(pages, DM_HOT_REMOVE_RANGES)

    def put_back(self, ranges: bytes) -> None:
        self._free.add(ranges)


class OurGuest:
    """A guest of ours, of 512 MiB."""

    def __init__(self) -> None:
        self.groups: frozenset[str] = frozenset(adapter.GROUPS)
        self.memory: FlatMemory = FlatMemory(memoryview(bytearray(_BACKED_BYTES)))
        self.total_pages = _TOTAL_PAGES
        self.now: int = 0
        self.pages: OurFreePages = OurFreePages()
        self.client: vmbus.Client = vmbus.Client(self.memory)
        self.dm: DynamicMemoryGuest = self.make_machine()
        self.channel: vmbus.GuestChannel | None = None
        self.hypercalls: Hypercalls | None = None
        self.posts: deque[vmbus.Post] = deque()
        self.post_at: int = 0

    def make_machine(self) -> DynamicMemoryGuest:
        """Return the protocol machine."""
        return DynamicMemoryGuest(
            pages=self.pages,
            total_pages=_TOTAL_PAGES,
            blocks=OurBlocks(self.pages.free),
            options=GuestOptions(page_limit=_PAGE_LIMIT),
        )

    def start(self, hypercalls: Hypercalls) -> None:
        self.hypercalls = hypercalls
        self.client.connect()
        self._turn()

    def deliver_message(self, payload: bytes) -> None:
        try:
            self.client.receive_message(payload)
        except RemoteProtocolError:
            return  # a driver logs it
        self._turn()

    def deliver_event(self, flag: int) -> None:
        # The rings are read in every turn.
        self._turn()

    def advance(self, ns: int) -> None:
        self.now += ns
        self.dm.tick(self.now)
        self._turn()

    def ballooned_pages(self) -> int | None:
        return self.dm.ballooned_pages

    def receive(self, data: bytes) -> None:
        """Pass a message to the machine."""
        self.dm.receive(data, self.now)

    def sending(self, data: bytes) -> bytes:
        """Return the message as the machine sends it. A planted mistake may change it."""
        return data

    def _turn(self) -> None:
        """Do what a driver does when it is woken."""
        self._events()
        self._exchange()
        self._post()
        self.dm.take_events()

    def _events(self) -> None:
        for event in self.client.take_events():
            if isinstance(event, vmbus.Offered):
                if event.channel.offer.interface == BALLOON_DEVICE_TYPE and self.channel is None:
                    self.channel = event.channel
                    event.channel.open(range(16, 26), 5)
            elif isinstance(event, vmbus.Opened):
                self.dm.channel_opened(self.now)
            elif isinstance(event, vmbus.Closed | vmbus.Failed) and event.channel is self.channel:
                self.channel = None
                if isinstance(event, vmbus.Closed):
                    self.dm.channel_closed(self.now)

    def _exchange(self) -> None:
        channel = self.channel
        if channel is None or channel.state is not vmbus.GuestChannelState.OPEN:
            return
        try:
            self._send(channel)
            while (packet := channel.receive()) is not None:
                if packet.type == PacketType.INBAND:
                    self._take(packet.data)
                self._send(channel)
        except RemoteProtocolError:  # the ring itself is damaged
            channel.close()
        self._signal()

    def _take(self, data: bytes) -> None:
        try:
            self.receive(data)
        except RemoteProtocolError:
            return  # a driver logs it and continues

    def _send(self, channel: vmbus.GuestChannel) -> None:
        while (message := self.dm.next_message()) is not None:
            if not channel.send(self.sending(message)):
                break
            self.dm.message_sent(self.now)
        self._signal()

    def _signal(self) -> None:
        assert self.hypercalls is not None
        for connection_id in self.client.take_doorbells():
            self.hypercalls.signal_event(connection_id, 0)

    def _post(self) -> None:
        """Post in order; repeat a little later if the host has no buffers."""
        assert self.hypercalls is not None
        self.posts.extend(self.client.take_posts())
        while self.posts and self.now >= self.post_at:
            post = self.posts[0]
            status = self.hypercalls.post_message(post.connection_id, VMBUS_MESSAGE_TYPE, post.payload)
            if status in _FOR_NOW:
                self.post_at = self.now + _RETRY_NS
                return
            self.posts.popleft()
            if status:
                self.client.post_refused(HvStatus(status))
                self._events()
                self.posts.extend(self.client.take_posts())
