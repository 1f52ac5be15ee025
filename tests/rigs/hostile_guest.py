"""A guest that attacks its host: one attack for each run, over the real hardware socket.

It prints a JSON line when it has done what it can, and then goes on living: a machine that is still there
afterwards has survived. The attack is what --workload names.
"""

import argparse
import json
import random
import socket
import struct
import sys
import time
from collections.abc import Callable

from dynmem import vmbus
from dynmem.guest.hardware import Hardware, HostGoneError
from dynmem.guest.synic import Synic
from dynmem.vmbus.memory import FlatMemory, GuestMemory
from dynmem.wire import dm, synic
from dynmem.wire import hardware as wire
from dynmem.wire.synic import HvStatus

PAGES_FROM = 16  # pages of the guest's own that the attacks use begin here
RING_PAGES = 10
DOWNSTREAM = 5
CONTACT = struct.pack("<IIIIQQQ", 14, 0, 0x40000, 0, 0, 0, 0)  # INITIATE_CONTACT for 4.0


class Board(Hardware):
    """The hardware of a guest that may keep to itself which slots it has mapped."""

    says_mapped = True

    def _send(self, message: wire.Message) -> None:
        if self.says_mapped or not isinstance(message, wire.SlotMapped):
            super()._send(message)


class TwoPieces:
    """Memory of which the second piece begins at a page."""

    def __init__(self, low: GuestMemory, high: GuestMemory, page: int) -> None:
        self._low, self._high, self._border = low, high, page << 12

    def _at(self, gpa: int) -> GuestMemory:
        return self._high if gpa >= self._border else self._low

    def read(self, gpa: int, length: int) -> bytes:
        return self._at(gpa).read(gpa, length)

    def write(self, gpa: int, data: bytes) -> None:
        self._at(gpa).write(gpa, data)

    def load32(self, gpa: int) -> int:
        return self._at(gpa).load32(gpa)

    def store32(self, gpa: int, value: int) -> None:
        self._at(gpa).store32(gpa, value)

    def fence(self) -> None:
        self._low.fence()


class Guest:
    """Just enough of a kernel to reach the balloon's channel."""

    board: type[Board] = Board

    def __init__(self, channel: socket.socket, seed: int) -> None:
        self.socket = channel
        self.random = random.Random(seed)
        self.hardware = self.board(channel)
        self.hardware.wait_for_start()
        self.memory: GuestMemory = FlatMemory(self.hardware.ram.view(0))
        self.input = PAGES_FROM + 2 << 12
        self.rings_from = PAGES_FROM + 4

    def power_on(self) -> None:
        self.synic = Synic(
            self.hardware,
            self.memory,
            message_page=PAGES_FROM,
            event_page=PAGES_FROM + 1,
            input_page=PAGES_FROM + 2,
        )
        self.client = vmbus.Client(self.memory)

    def pump(self, seconds: float, done: Callable[[], object]) -> bool:
        """Bring messages and events to and fro until `done`."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                return False
            for payload in self.synic.take_messages():
                self.client.receive_message(payload)
            for post in self.client.take_posts():
                self.synic.post(post.connection_id, post.payload)
            for connection_id in self.client.take_doorbells():
                self.hardware.signal(connection_id)
            self.events += self.client.take_events()
            self.hardware.wait(5_000_000)
        return True

    def open_channel(self) -> vmbus.GuestChannel:
        """Contact, offer, GPADL, open."""
        self.power_on()
        self.events: list[vmbus.ClientEvent] = []
        self.client.connect()
        assert self.pump(5, self.offers)
        (channel,) = self.offers()
        self.reopen(channel)
        return channel

    def offers(self) -> list[vmbus.GuestChannel]:
        """Every channel that it has been offered, also those that it has released."""
        return [event.channel for event in self.events if isinstance(event, vmbus.Offered)]

    def reopen(self, channel: vmbus.GuestChannel) -> None:
        opened = len([event for event in self.events if isinstance(event, vmbus.Opened)])
        channel.open(range(self.rings_from, self.rings_from + RING_PAGES), DOWNSTREAM)
        assert self.pump(
            5, lambda: len([event for event in self.events if isinstance(event, vmbus.Opened)]) > opened
        )

    def ask_to_grow(self, channel: vmbus.GuestChannel) -> None:
        """Negotiate as a guest that can take hot-added memory."""
        channel.send(dm.encode(dm.VersionRequest(1, dm.VERSION_WIN10, is_last_attempt=False)))
        self.pump(0.1, lambda: channel.receive() is not None)
        caps = dm.CapabilitiesReport(2, dm.CAP_BALLOON | dm.CAP_HOT_ADD, 0, (1 << 40) - 1)
        channel.send(dm.encode(caps))
        self.pump(0.1, lambda: channel.receive() is not None)

    def ask_to_balloon(self, channel: vmbus.GuestChannel) -> None:
        """Negotiate as a good guest does, and wait for a balloon request."""
        channel.send(dm.encode(dm.VersionRequest(1, dm.VERSION_WIN10, is_last_attempt=False)))
        self.pump(0.1, lambda: channel.receive() is not None)
        caps = dm.CapabilitiesReport(2, dm.CAP_BALLOON, 0, (1 << 40) - 1)
        channel.send(dm.encode(caps))
        self.pump(0.1, lambda: channel.receive() is not None)
        while (packet := channel.receive()) is None or not isinstance(
            dm.decode(packet.data), dm.BalloonRequest
        ):
            self.pump(0.05, lambda: False)


def hardware_garbage(guest: Guest) -> object:
    """Datagrams that are no messages, and messages that only a host sends."""
    for size in (1, 3, 4, 5, 16, 28, 29, 1000, 60_000):
        for _ in range(20):
            guest.socket.send(guest.random.randbytes(size))
    for number in range(16):
        guest.socket.send(struct.pack("<I", number))
    return guest.hardware.write_msr(synic.MSR_SCONTROL, 1).name


def hypercalls(guest: Guest) -> object:
    """Calls with every kind of wrong input; the statuses are printed."""
    call = guest.hardware.hypercall
    post, signal, fast = synic.HYPERCALL_POST_MESSAGE, synic.HYPERCALL_SIGNAL_EVENT, synic.HYPERCALL_FAST
    head = struct.pack("<IIII", 1, 0, 1, 241)
    guest.memory.write(guest.input, head)
    statuses = {
        "unknown code": call(0x1234, 0),
        "fast post": call(post | fast, guest.input),
        "unaligned post": call(post, guest.input + 4),
        "post from outside": call(post, 1 << 60),
        "post across the end": call(post, (64 << 20) - 128),
        "post of 241 bytes": call(post, guest.input),
        "unaligned signal": call(signal, guest.input + 4),
        "signal from outside": call(signal, 1 << 63),
        "signal of no channel": call(signal | fast, 999),
        "signal of a flag": call(signal | fast, 17 | 1 << 32),
        "unknown msr": guest.hardware.write_msr(0x1, 2),
    }
    return {name: status.name for name, status in statuses.items()}


def posts(guest: Guest) -> object:
    """Thousands of posts of noise, with true message types in front of most."""
    guest.power_on()
    taken = 0
    for _ in range(3000):
        payload = bytearray(guest.random.randbytes(guest.random.randrange(241)))
        if len(payload) >= 4 and guest.random.random() < 0.8:
            payload[:4] = struct.pack("<I", guest.random.randrange(32))
        taken += guest.synic.post(guest.random.choice((1, 4)), bytes(payload)) is HvStatus.SUCCESS
        guest.synic.take_messages()
    return taken > 0


def pages_outside(guest: Guest) -> object:
    """SynIC pages that are no memory, and a contact that has to be answered over them."""
    guest.power_on()
    for msr in (synic.MSR_SIMP, synic.MSR_SIEFP):
        guest.hardware.write_msr(msr, 1 << 50 | 1)
    for _ in range(100):
        guest.synic.post(1, CONTACT)
    return True


def ring_index(guest: Guest) -> object:
    """A write index far outside the ring; what is offered again afterwards is opened and used."""
    guest.open_channel()
    ring = PAGES_FROM + 4 << 12
    guest.memory.store32(ring, 0xFFFF_FFF0)
    guest.hardware.signal(17)
    assert guest.pump(5, lambda: len(guest.offers()) == 2)
    guest.reopen(guest.offers()[1])
    return guest.offers()[1].relid


def ring_garbage(guest: Guest) -> object:
    """A ring full of noise, said to be packets."""
    guest.open_channel()
    ring = PAGES_FROM + 4 << 12
    guest.memory.write(ring + 4096, guest.random.randbytes(4 * 4096))
    guest.memory.store32(ring, 8192)
    guest.hardware.signal(17)
    return True


def short_message(guest: Guest) -> object:
    """A message that is cut in its middle."""
    channel = guest.open_channel()
    channel.send(dm.encode(dm.VersionRequest(1, dm.VERSION_WIN10, is_last_attempt=False))[:8])
    guest.pump(0.1, lambda: False)
    return True


def hosts_message(guest: Guest) -> object:
    """A message that only a host may send."""
    channel = guest.open_channel()
    channel.send(dm.encode(dm.BalloonRequest(1, 1000)))
    guest.pump(0.1, lambda: False)
    return True


def bogus_ranges(guest: Guest) -> object:
    """Asked for its memory, it gives 510 ranges of 16 million pages that it does not have."""
    channel = guest.open_channel()
    guest.ask_to_balloon(channel)
    words = [(1 << 40) - 1 - (index << 24) & (1 << 40) - 1 | ((1 << 24) - 1) << 40 for index in range(510)]
    response = dm.BalloonResponse(9, more_pages=False, ranges=struct.pack("<510Q", *words))
    channel.send(dm.encode(response))
    guest.pump(0.2, lambda: False)
    return True


def message_noise(guest: Guest) -> object:
    """Messages of every type with bodies of noise, over a channel that is opened again and again."""
    channel = guest.open_channel()
    for life in range(40):
        if life % 2:
            channel.send(dm.encode(dm.VersionRequest(1, dm.VERSION_WIN10, is_last_attempt=False)))
            channel.send(dm.encode(dm.CapabilitiesReport(2, 3, 0, (1 << 40) - 1)))
        for _ in range(5):
            body = guest.random.randbytes(8 * guest.random.randrange(40))
            size = guest.random.choice((8 + len(body), guest.random.randrange(1 << 16)))
            head = struct.pack("<HHI", guest.random.randrange(16), size, guest.random.getrandbits(32))
            channel.send(head + body)
        guest.pump(0.01, lambda: False)
        channel.close()
        assert guest.pump(5, lambda: channel.state is vmbus.GuestChannelState.CLOSED)
        guest.reopen(channel)
    return True


def reboot(guest: Guest) -> object:
    """It gives some pages, and then a new kernel, which knows of none of that, makes contact.

    What else it is asked for it does not have. Asked once more, for another target, it starts again.
    """
    channel = guest.open_channel()
    guest.ask_to_balloon(channel)
    ranges = struct.pack("<Q", 1000 | 500 << 40)
    channel.send(dm.encode(dm.BalloonResponse(9, more_pages=False, ranges=ranges)))
    asked = 0

    def is_told() -> bool:
        nonlocal asked
        packet = channel.receive()
        if packet is not None and isinstance(dm.decode(packet.data), dm.BalloonRequest):
            asked += 1
            channel.send(dm.encode(dm.BalloonResponse(9 + asked, more_pages=False, ranges=b"")))
        return asked == 2

    assert guest.pump(100, is_told)
    guest.open_channel()
    return True


def no_acknowledgement(guest: Guest) -> object:
    """Its memory is to grow, and it never says that it has mapped the slots; what it heard is printed."""
    channel = guest.open_channel()
    guest.hardware.says_mapped = False
    guest.ask_to_grow(channel)
    requests = []
    deadline = time.monotonic() + 0.7
    while time.monotonic() < deadline:
        guest.pump(0.05, lambda: False)
        while (packet := channel.receive()) is not None:
            requests.append(type(dm.decode(packet.data)).__name__)
    return requests


def false_acknowledgements(guest: Guest) -> object:
    """Answers for slots that it has not, and for those that nobody asked about, thousands of them."""
    channel = guest.open_channel()
    guest.ask_to_grow(channel)
    for _ in range(3000):
        slot = guest.random.randrange(1 << guest.random.randrange(1, 33))
        message = guest.random.choice(
            (wire.SlotMapped(slot), wire.SlotUnmapped(slot), wire.UnplugAnswered(slot, is_done=True))
        )
        guest.socket.send(wire.encode(message))
    return guest.hardware.write_msr(synic.MSR_EOM, 0).name


def rings_in_a_dimm(guest: Guest) -> object:
    """Its rings lie in a DIMM, which it gives back, rings and all; then it rings the channel's doorbell."""
    ram = guest.hardware.ram
    guest.rings_from = ram.pages(1).start
    guest.memory = TwoPieces(guest.memory, FlatMemory(ram.view(1), guest.rings_from << 12), guest.rings_from)
    channel = guest.open_channel()
    channel.send(dm.encode(dm.VersionRequest(1, dm.VERSION_WIN10, is_last_attempt=False)))
    guest.pump(100, lambda: channel.receive() is not None)
    print(json.dumps({"t": "open"}), flush=True)
    while not guest.hardware.requests:
        guest.hardware.wait(100_000_000)
    guest.hardware.answer_unplug(guest.hardware.requests.popleft().slot, is_done=True)
    while not guest.hardware.requests:
        guest.hardware.wait(100_000_000)
    guest.hardware.signal(17)
    return type(guest.hardware.requests.popleft()).__name__


def deaf(guest: Guest) -> object:
    """Calls without end, and no reply is ever read."""
    guest.socket.setblocking(False)
    sent = 0
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        try:
            guest.socket.send(struct.pack("<IIQQQ", 7, sent & 0xFFFF_FFFF, 0x5C, 0, 0))
            sent += 1
        except BlockingIOError:
            time.sleep(0.01)
    return sent


def hang_up(guest: Guest) -> object:
    """Close the hardware and live on."""
    guest.socket.close()
    return True


ATTACKS = {
    attack.__name__: attack
    for attack in (
        hardware_garbage,
        hypercalls,
        posts,
        pages_outside,
        ring_index,
        ring_garbage,
        short_message,
        hosts_message,
        bogus_ranges,
        message_noise,
        reboot,
        no_acknowledgement,
        false_acknowledgements,
        rings_in_a_dimm,
        deaf,
        hang_up,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hardware-fd", type=int, required=True)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    guest = Guest(socket.socket(fileno=arguments.hardware_fd), arguments.seed)
    found = ATTACKS[arguments.workload](guest)
    print(json.dumps({"t": "done", "found": found}), flush=True)
    try:
        while True:
            if guest.socket.fileno() >= 0 and arguments.workload != "deaf":
                guest.hardware.wait(None)
            else:
                time.sleep(60)
    except HostGoneError:
        sys.exit(0)


if __name__ == "__main__":
    main()
