"""Put a host of your own under the conformance suite.

`MyHost` stands for your VMM. It is an adapter: it moves bytes between the suite, which plays the guest, and
the implementation, which here is the library's own (yours may be another process). The command takes the same
class: python -m dynmem.conformance --host my_host_under_test:MyHost
"""

import sys
import uuid

from dynmem.conformance import HOST_CASES, SESSION, conforms, run, table
from dynmem.dm import DynamicMemoryHost, GivenUp, HostOptions
from dynmem.pages import PageSet
from dynmem.units import MIB, NS_PER_S, PAGE_SIZE
from dynmem.vmbus import Bus, Channel, ChannelOpened, FlatMemory, Offer
from dynmem.wire.dm import BALLOON_DEVICE_TYPE


class Balloon(PageSet):
    """The pages that the guest has given up."""

    @property
    def removed_pages(self) -> int:
        return len(self)

    def add_given(self, ranges: bytes) -> GivenUp:
        added = self.add(ranges)
        return GivenUp(added.new, added.duplicates, added.rejected)

    def remove_for_guest(self, max_pages: int, max_ranges: int) -> bytes:
        return self.take(max_pages, max_ranges)

    def undo(self, ranges: bytes) -> None:
        self.add(ranges)


class MyHost:
    """A machine of 256 MiB after a reset; the suite makes a new one for every case."""

    groups = frozenset({SESSION})  # what it claims to pass; add the others one by one
    boot_pages = 256 * MIB // PAGE_SIZE
    scratch = range(16, 1024)  # only these pages need to be memory: rings lie there
    hot_add_pages = 0
    post_init_wait_ns = 50 * NS_PER_S

    def __init__(self) -> None:
        self.memory = FlatMemory(memoryview(bytearray(4 * MIB)))
        self.now = 0
        self.bus = Bus(self.memory, [Offer(BALLOON_DEVICE_TYPE, uuid.uuid4(), "balloon")])
        self.channel: Channel | None = None
        options = HostOptions(status_report=True, post_init_wait_ns=self.post_init_wait_ns)
        self.dm = DynamicMemoryHost(
            store=Balloon(self.boot_pages), boot_pages=self.boot_pages, options=options
        )
        self.dm.reset(self.now)

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> int:
        status = self.bus.post_message(connection_id, message_type, payload)
        self.serve()
        return int(status)

    def signal_event(self, connection_id: int, flag: int) -> int:
        status = self.bus.signal_event(connection_id, flag)
        self.serve()
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
        self.serve()

    def set_target(self, pages: int) -> None:
        self.dm.set_target(pages, self.now)
        self.serve()

    def reset(self) -> None:
        raise NotImplementedError  # no case of the session group needs it

    def unplug(self) -> bool:
        return False  # this host cannot

    def actual_pages(self) -> int:
        return self.dm.actual_pages

    def serve(self) -> None:
        """Do what is due, as a VMM does after each exit of its guest."""
        for event in self.bus.take_events():
            self.channel = event.channel if isinstance(event, ChannelOpened) else None
            if self.channel is not None:
                self.dm.channel_opened(self.now)
            else:
                self.dm.channel_closed(self.now)
        while self.channel is not None and (packet := self.channel.receive()) is not None:
            self.dm.receive(packet.data, self.now)
        while self.channel is not None and (message := self.dm.next_message()) is not None:
            if not self.channel.send(message):
                break
            self.dm.message_sent(self.now)


if __name__ == "__main__":
    results = run((case for case in HOST_CASES if case.group in MyHost.groups), MyHost)
    print(table("my host", results))
    sys.exit(0 if conforms(results) else 1)
