"""Both ends of a VMBus over one piece of memory, their messages and signals passed by hand."""

import uuid
from collections.abc import Sequence

from dynmem import vmbus
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire import vmbus as wire
from dynmem.wire.dm import BALLOON_DEVICE_TYPE
from dynmem.wire.synic import VMBUS_MESSAGE_TYPE, HvStatus
from dynmem.wire.versions import VERSION_5_3

MEMORY_BYTES = 8 << 20
INSTANCE = uuid.UUID("1eccfd72-4b41-45ef-b73a-4a6e44c12924")


def carry(client: vmbus.Client, bus: vmbus.Bus) -> bool:
    """Carry what each has for the other, once in each direction; return whether there was anything."""
    moved = False
    for post in client.take_posts():
        moved = True
        status = bus.post_message(post.connection_id, VMBUS_MESSAGE_TYPE, post.payload)
        if status is not HvStatus.SUCCESS:
            client.post_refused(status)
    while (message := bus.next_message()) is not None:
        moved = True
        bus.message_delivered()
        client.receive_message(message.payload)
    return moved


class BusEnds:
    """A host's bus and a guest's client in one process."""

    def __init__(
        self,
        *,
        devices: int = 1,
        max_version: int = VERSION_5_3,
        versions: Sequence[int] = vmbus.LINUX_VERSIONS,
        vp_count: int = 1,
        interrupt_page: int = 0,
    ) -> None:
        self.raw = bytearray(MEMORY_BYTES)
        self.memory = FlatMemory(memoryview(self.raw))
        offers = [
            vmbus.Offer(BALLOON_DEVICE_TYPE, uuid.UUID(int=INSTANCE.int + number), f"dev{number}")
            for number in range(devices)
        ]
        self.bus = vmbus.Bus(self.memory, offers, max_version=max_version, vp_count=vp_count)
        self.client = vmbus.Client(self.memory, versions=versions, interrupt_page=interrupt_page)
        self.client_events: list[vmbus.ClientEvent] = []
        self.bus_events: list[vmbus.BusEvent] = []

    def pump(self) -> None:
        """Carry messages until neither end has any."""
        while carry(self.client, self.bus):
            pass
        self.bus_events += self.bus.take_events()
        self.client_events += self.client.take_events()

    def connect(self) -> None:
        self.client.connect()
        self.pump()

    def open(self, relid: int = 1, pfns: Sequence[int] = range(16, 26), downstream: int = 5) -> None:
        self.client.channels[relid].open(pfns, downstream)
        self.pump()

    def ends(self, relid: int = 1) -> tuple[vmbus.GuestChannel, vmbus.Channel]:
        return self.client.channels[relid], self.bus.channels[relid]

    def post(self, message: wire.Message | bytes, connection_id: int = 4) -> HvStatus:
        """A post that the client would never make."""
        payload = message if isinstance(message, bytes) else wire.encode(message)
        return self.bus.post_message(connection_id, VMBUS_MESSAGE_TYPE, payload)

    def answers(self) -> list[wire.Message]:
        """What the bus has to say, taken out of its queue."""
        answers = []
        while (message := self.bus.next_message()) is not None:
            answers.append(wire.decode(message.payload, self.bus.version or VERSION_5_3))
            self.bus.message_delivered()
        return answers
