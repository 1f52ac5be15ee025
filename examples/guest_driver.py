"""A guest's drivers over VMBus: find the balloon, open its channel, shake hands, answer a balloon request.

Guest memory is a buffer here, and the host is our own bus with a few messages written by hand. A real guest
makes two hypercalls and gets one interrupt; `main` does instead what they would do.
"""

import uuid
from collections import deque

from dynmem.dm import DynamicMemoryGuest
from dynmem.pages import PageSet, page_count, span
from dynmem.units import MIB, NS_PER_MS, PAGE_SIZE
from dynmem.vmbus import (
    Bus,
    Channel,
    ChannelOpened,
    Client,
    FlatMemory,
    GuestChannel,
    Offer,
    Offered,
    Opened,
    Post,
)
from dynmem.wire import dm, synic

GUEST_PAGES = 512 * MIB // PAGE_SIZE
RING_PAGES = range(16, 32)  # half of them for the ring to the host, half for the ring from it


class FreePages(PageSet):
    """The guest's `PageAllocator`: everything above the first 128 MiB is free."""

    committed_pages = 128 * MIB // PAGE_SIZE

    def __init__(self) -> None:
        super().__init__(GUEST_PAGES)
        self.add(span(self.committed_pages, GUEST_PAGES - self.committed_pages))

    @property
    def available_pages(self) -> int:
        return len(self)

    def allocate_for_balloon(self, pages: int) -> bytes:
        return self.take(pages, max_ranges=510)  # what one message holds

    def free_from_balloon(self, ranges: bytes) -> None:
        self.add(ranges)


class Drivers:
    """The guest's two drivers: VMBus, and the balloon on the channel that is offered for it."""

    def __init__(self, memory: FlatMemory) -> None:
        self.bus = Client(memory)
        self.balloon = DynamicMemoryGuest(pages=FreePages(), total_pages=GUEST_PAGES)
        self.channel: GuestChannel | None = None
        self.bus.connect()

    def run(self, now: int) -> None:
        """Do what is due: called after each interrupt, and when a deadline has come."""
        for event in self.bus.take_events():
            print(f"guest: {event}")
            if isinstance(event, Offered) and event.channel.offer.interface == dm.BALLOON_DEVICE_TYPE:
                event.channel.open(RING_PAGES, downstream_page=len(RING_PAGES) // 2)
            elif isinstance(event, Opened):
                self.channel = event.channel
                self.balloon.channel_opened(now)
        if self.channel is None:
            return
        while (packet := self.channel.receive()) is not None:
            self.balloon.receive(packet.data, now)
        self.balloon.tick(now)
        while (message := self.balloon.next_message()) is not None and self.channel.send(message):
            self.balloon.message_sent(now)
        for change in self.balloon.take_events():
            print(f"guest: {change}")


def reply_of_the_host(message: dm.Message) -> list[dm.Message]:
    """Return what the host sends when `message` has come: it shakes hands, then asks for 64 MiB."""
    if isinstance(message, dm.VersionRequest):
        return [dm.VersionResponse(message.trans_id, is_accepted=True)]
    if isinstance(message, dm.CapabilitiesReport):
        return [
            dm.CapabilitiesResponse(message.trans_id, True, hot_remove=False, suppress_pressure_reports=True),
            dm.BalloonRequest(trans_id=1, num_pages=64 * MIB // PAGE_SIZE),
        ]
    return []


def post(posts: deque[Post], drivers: Drivers, bus: Bus) -> None:
    """Post what is due, in order; what the host has no buffers for stays, to be posted again as it is."""
    posts.extend(drivers.bus.take_posts())
    while posts:
        status = bus.post_message(posts[0].connection_id, synic.VMBUS_MESSAGE_TYPE, posts[0].payload)
        if status is synic.HvStatus.INSUFFICIENT_BUFFERS:
            return
        posts.popleft()
        if status is not synic.HvStatus.SUCCESS:
            drivers.bus.post_refused(status)  # which tries an older version, if that was the reason
            posts.extend(drivers.bus.take_posts())


def main() -> None:
    """Let both ends run in turn until the guest has given its pages."""
    memory = FlatMemory(memoryview(bytearray(64 * PAGE_SIZE)))
    bus = Bus(memory, [Offer(dm.BALLOON_DEVICE_TYPE, uuid.uuid4(), "balloon")])
    drivers = Drivers(memory)
    posts: deque[Post] = deque()
    channel: Channel | None = None
    given = 0
    for turn in range(100):
        drivers.run(now=turn * NS_PER_MS)
        post(posts, drivers, bus)  # the first hypercall
        for connection_id in drivers.bus.take_doorbells():  # the second
            bus.signal_event(connection_id, 0)
        for event in bus.take_events():
            channel = event.channel if isinstance(event, ChannelOpened) else None
        while channel is not None and (packet := channel.receive()) is not None:
            message = dm.decode(packet.data)
            print(f"host: received {type(message).__name__}")
            given += page_count(message.ranges) if isinstance(message, dm.BalloonResponse) else 0
            for reply in reply_of_the_host(message):
                channel.send(dm.encode(reply))
        while (slot := bus.next_message()) is not None:  # the interrupt, and what it is about
            bus.message_delivered()
            drivers.bus.receive_message(slot.payload)
        for signal in bus.take_signals():
            drivers.bus.receive_event(signal.flag)
    print(f"the host was given {given} pages; the driver says {drivers.balloon.ballooned_pages}")


if __name__ == "__main__":
    main()
