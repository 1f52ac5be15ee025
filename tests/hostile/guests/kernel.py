"""What every hostile guest has: hardware, memory, and just enough of a kernel to reach the balloon."""

import os
import socket
import struct
import time
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

from tests.rigs.hostile_guest import CONTACT, PAGES_FROM, Board, Guest

from dynmem import vmbus
from dynmem.units import PAGE_SIZE
from dynmem.vmbus.ring import RingWriter
from dynmem.wire import dm, synic
from dynmem.wire import hardware as wire
from dynmem.wire import vmbus as bus
from dynmem.wire.packet import Packet, PacketType

INPUTS_FROM: Final = 512
RINGS_FROM: Final = 1024  # a page, with room for the largest rings behind it
RING_PAGES: Final = 160  # to the host: more than the longest packet has
GPADL: Final = 0xE1E10
PAGES_MAX: Final = 8190  # as many as the header of a GPADL can say
DOORBELL: Final = 17
RELIDS: Final = (1, 2, 3)  # of the balloon, first and after it was offered again
_CALL: Final = struct.Struct("<IIQQQ")
_REPLY: Final = 6
_UNDER_WAY_MAX: Final = 64  # calls, each with an input of its own
_EMPTIED_EVERY: Final = 8  # posts, so that the host has room for its replies


class KeepingBoard(Board):
    """Hardware whose guest keeps the descriptors of its memory."""

    def __init__(self, channel: socket.socket) -> None:
        self.files: list[int] = []
        super().__init__(channel)

    def _take(self, message: wire.Message, descriptor: int) -> bool:
        if isinstance(message, wire.MapSlot):
            self.files.append(os.dup(descriptor))
        return super()._take(message, descriptor)


class Kernel(Guest):
    """A guest that does what a member of the cast says."""

    board = KeepingBoard

    def __init__(self, channel: socket.socket, seed: int) -> None:
        super().__init__(channel, seed)
        self.rings_from = RINGS_FROM
        self._calls = self._under_way = 0

    # its hardware

    def call(self, control: int, parameter: int) -> None:
        """Make a hypercall; a few may be under way at once."""
        while self._under_way >= _UNDER_WAY_MAX:
            self._heard(self.socket.recv(4096))
        self._calls += 1
        self._under_way += 1
        self.socket.send(_CALL.pack(7, self._calls & 0xFFFF_FFFF, control, parameter, 0))

    def drain(self) -> None:
        """Read what is there."""
        try:
            for _ in range(_UNDER_WAY_MAX):
                self._heard(self.socket.recv(4096, socket.MSG_DONTWAIT))  # descriptors that come are closed
        except BlockingIOError:
            pass

    def _heard(self, data: bytes) -> None:
        if not data:
            raise ConnectionResetError
        if data[0] == _REPLY:
            self._under_way = max(0, self._under_way - 1)

    def post(self, payload: bytes) -> None:
        """Post a message."""
        message = synic.PostMessageInput(4, synic.VMBUS_MESSAGE_TYPE, payload)
        place = INPUTS_FROM + self._calls % (2 * _UNDER_WAY_MAX) << 12
        self.memory.write(place, synic.encode_post(message))
        self.call(synic.HYPERCALL_POST_MESSAGE, place)
        if self._calls % _EMPTIED_EVERY == 0:
            self.empty_slot()

    def say(self, message: bus.Message) -> None:
        """Post a message of the bus."""
        self.post(bus.encode(message))

    def empty_slot(self) -> None:
        """Take the message that is in the slot, if there is one, and ask for the next."""
        slot = (PAGES_FROM << 12) + synic.VMBUS_SINT * synic.MESSAGE_SLOT_BYTES
        self.memory.store32(slot, 0)
        self._under_way += 1
        self.socket.send(wire.encode(wire.WriteMsr(0, synic.MSR_EOM, 0)))
        self.drain()

    def settle(self) -> None:
        """Wait until everything is served, and take all messages."""
        for _ in range(8):
            self.empty_slot()
            while self._under_way:
                self._heard(self.socket.recv(4096))

    def offered(self) -> None:
        """Come as far as the offers, without a look at them."""
        self.power_on()
        self.socket.setblocking(True)
        self.connect()

    def connect(self) -> None:
        """Make contact, or make it again: then channels that were broken are offered anew."""
        self.post(CONTACT)
        self.settle()
        self.say(bus.RequestOffers())
        self.settle()

    def lines(self) -> list[int]:
        """Return the descriptors of its interrupt line and its doorbell."""
        return [*self.hardware._lines, *self.hardware._doorbells.values()]

    def files(self) -> list[int]:
        """Return descriptors of the files that its memory lies in."""
        assert isinstance(self.hardware, KeepingBoard)
        return self.hardware.files

    # its rings

    def make_gpadl(self, gpadl: int, pfns: Iterable[int], relid: int = 1) -> None:
        """Make a GPADL of these pages."""
        pages = list(pfns)
        words = struct.pack(f"<{len(pages)}Q", *pages)
        head, rest = words[: 26 * 8], words[26 * 8 :]
        ranges = struct.pack("<II", len(pages) * PAGE_SIZE, 0) + head
        self.say(bus.GpadlHeader(relid, gpadl, 8 + len(words), 1, ranges))
        for number, start in enumerate(range(0, len(rest), 28 * 8)):
            self.say(bus.GpadlBody(number, gpadl, rest[start : start + 28 * 8]))

    def writer(self) -> RingWriter:
        """Open a channel over a ring that holds the longest packet; return what writes into it."""
        self.offered()
        return self.open()

    def open_again(self) -> RingWriter:
        """Open the channel after it was broken: a new contact, new rings."""
        self.connect()
        return self.open()

    def open(self) -> RingWriter:
        """Open the channel that is offered, whatever its number is."""
        pfns = range(RINGS_FROM, RINGS_FROM + RING_PAGES + 4)
        pages = vmbus.GpadlMemory(self.memory, pfns)
        for first in (0, RING_PAGES):
            vmbus.ring.initialize(pages, first)
        for relid in RELIDS:
            self.make_gpadl(GPADL + relid, pfns, relid)
            self.settle()
            self.say(bus.OpenChannel(relid, 1, GPADL + relid, 0, RING_PAGES))
            self.settle()
        return RingWriter(pages, 0, RING_PAGES)

    def ring_out(self, make: Callable[[], Packet]) -> NoReturn:
        """Write packets for ever, and ring the doorbell."""
        writer = self.writer()
        while True:
            packet = make()
            while not writer.write(packet):
                self.hardware.signal(DOORBELL)
                self.drain()
            self.hardware.signal(DOORBELL)

    def chatter(self, make: Callable[[], bytes]) -> NoReturn:
        """Negotiate, and then send messages of the Dynamic Memory Protocol for ever."""
        writer = self.writer()
        first = [
            dm.encode(dm.VersionRequest(1, dm.VERSION_WIN10, is_last_attempt=False)),
            dm.encode(dm.CapabilitiesReport(2, dm.CAP_BALLOON | dm.CAP_HOT_ADD, 0, (1 << 40) - 1)),
        ]
        while True:
            packet = Packet(PacketType.INBAND, 0, 0, first.pop(0) if first else make())
            while not writer.write(packet):
                self.hardware.signal(DOORBELL)
                self.drain()
            self.hardware.signal(DOORBELL)
            self.take_everything()

    def take_everything(self) -> None:
        """Read all that the host has sent, without a look at it: move the read index to the write index."""
        control = RINGS_FROM + RING_PAGES << 12
        self.memory.store32(control + 4, self.memory.load32(control))
        self.drain()

    # its processes

    def fork(self, live: Callable[[], object]) -> None:
        """Start another process, which does this and then sleeps."""
        if not os.fork():
            live()
            rest()


def rest() -> NoReturn:
    """Do nothing any more, and stay."""
    while True:
        time.sleep(60)
