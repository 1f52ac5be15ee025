"""The guest's side of the hardware socket, with a host that sends what it likes."""

import os
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from tests.rigs import own_process
from tests.rigs.machine_wide import reserved

from dynmem.errors import RemoteProtocolError
from dynmem.guest.hardware import Hardware, HostGoneError
from dynmem.limits import HARDWARE_REQUESTS_MAX
from dynmem.memory.backend import MemfdBackend
from dynmem.units import MIB, PAGE_SIZE
from dynmem.wire import hardware as wire
from dynmem.wire.synic import HYPERCALL_FAST, HYPERCALL_SIGNAL_EVENT, HvStatus


class Host:
    """The other end of the socket; everything is sent before the guest looks."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.backend = MemfdBackend(4 * MIB, "slot")
        self.hardware = Hardware(theirs)
        self.theirs = theirs

    def send(self, message: wire.Message, *descriptors: int) -> None:
        socket.send_fds(self.socket, [wire.encode(message)], list(descriptors))

    def start(self, *slots: wire.MapSlot) -> None:
        for slot in slots:
            self.send(slot, self.backend.fd)
        self.send(wire.Start())
        self.hardware.wait_for_start()

    def received(self) -> wire.Message:
        self.socket.setblocking(False)
        return wire.decode(self.socket.recv(4096))


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.socket.close()
    host.theirs.close()
    host.backend.close()
    host.hardware.ram.close()
    for line in (*host.hardware._lines, *host.hardware._doorbells.values()):
        os.close(line)


def open_descriptors(host: Host) -> int:
    """Descriptors of the host's memory that are open in this process."""
    inode = os.fstat(host.backend.fd).st_ino
    return sum(os.fstat(number).st_ino == inode for number in own_process.open_descriptors())


def test_slots_lie_at_their_addresses_and_share_the_hosts_bytes(host: Host) -> None:
    descriptors = open_descriptors(host)
    low, high = wire.MapSlot(0, 0, MIB, 0), wire.MapSlot(1, 32 << 30, MIB, 2 * MIB)
    host.start(low, high)
    assert open_descriptors(host) == descriptors  # a mapping needs no descriptor
    ram = host.hardware.ram
    assert (ram.pages(0), ram.pages(1)) == (range(256), range(8 << 20, (8 << 20) + 256))
    ram.memory[(8 << 20) + 3, 5] = 0x1234
    word = 2 * MIB + 3 * PAGE_SIZE + 40
    assert host.backend.view[word : word + 2].tobytes() == b"\x34\x12"
    host.backend.view[7] = 99
    assert ram.view(0)[7] == 99
    assert len(ram.view(0)) == MIB


@pytest.mark.parametrize(
    ("slots", "sentence"),
    [
        ([wire.MapSlot(0, 0, MIB, 0), wire.MapSlot(0, MIB, MIB, 0)], "slot 0 is mapped already"),
        ([wire.MapSlot(0, 0, MIB, 0), wire.MapSlot(1, MIB - PAGE_SIZE, MIB, 0)], "slot 1 overlaps"),
        ([wire.MapSlot(0, 0, 0, 0)], "slot 0 is empty or not a number of whole pages"),
        ([wire.MapSlot(0, 512, MIB, 0)], "slot 0 is empty or not a number of whole pages"),
        ([wire.MapSlot(0, 1 << 40, MIB, 0)], "slot 0 ends above"),
    ],
)
def test_a_slot_that_cannot_be_is_refused_and_its_descriptor_closed(
    host: Host, slots: list[wire.MapSlot], sentence: str
) -> None:
    descriptors = open_descriptors(host)
    with pytest.raises(RemoteProtocolError, match=sentence):
        host.start(*slots)
    assert open_descriptors(host) == descriptors


@pytest.mark.parametrize(
    ("message", "descriptors"),
    [(wire.MapSlot(0, 0, MIB, 0), 0), (wire.BindSint(2), 2), (wire.Start(), 1)],
)
def test_a_message_with_the_wrong_number_of_descriptors_is_refused(
    host: Host, message: wire.Message, descriptors: int
) -> None:
    before = open_descriptors(host)
    host.send(message, *[host.backend.fd] * descriptors)
    with pytest.raises(RemoteProtocolError, match=f"{descriptors} descriptors with"):
        host.hardware.wait_for_start()
    assert open_descriptors(host) == before


def test_a_line_that_is_bound_twice_is_refused(host: Host) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        host.send(wire.BindSint(2), theirs.fileno())
        host.send(wire.BindSint(2), theirs.fileno())
        with pytest.raises(RemoteProtocolError, match="the host may not send"):
            host.hardware.wait_for_start()


def test_an_interrupt_wakes_the_guest_once(host: Host) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        host.send(wire.BindSint(2), theirs.fileno())
        host.start()
        for _ in range(3):
            ours.send(b"\1")
        assert host.hardware.wait(10**9) == {2}
        assert host.hardware.wait(0) == set()


def test_a_doorbell_is_rung_without_a_hypercall(host: Host) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        host.send(wire.BindDoorbell(17), theirs.fileno())
        host.start()
        host.hardware.signal(17)
        assert ours.recv(100) == b"\1"


def test_a_doorbell_that_the_host_does_not_look_at_holds_no_guest(host: Host) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        host.send(wire.BindDoorbell(17), theirs.fileno())
        host.start()
        for _ in range(10_000):  # more than the socket holds
            host.hardware.signal(17)
        ours.close()
        host.hardware.signal(17)


def test_a_connection_without_a_doorbell_is_signalled_by_a_fast_hypercall(host: Host) -> None:
    host.start()
    host.send(wire.Reply(1, HvStatus.SUCCESS))
    host.hardware.signal(18)
    assert host.received() == wire.Hypercall(1, HYPERCALL_SIGNAL_EVENT | HYPERCALL_FAST, 18, 0)


def test_a_slot_that_is_unmapped_is_memory_no_longer_and_its_place_is_free(host: Host) -> None:
    host.start(wire.MapSlot(0, 0, MIB, 0), wire.MapSlot(3, MIB, MIB, MIB))
    ram = host.hardware.ram
    assert (ram.is_mapped(0, 512), ram.is_mapped(255, 513), ram.mapped_pages) == (True, False, 512)
    ram.unmap_slot(3)
    assert (ram.is_mapped(0, 256), ram.is_mapped(0, 257), ram.slots) == (True, False, (0,))
    place = f"{ram.memory.ctypes.data + MIB:x}-"
    assert not any(line.startswith(place) and "rw" in line for line in own_process.mappings())
    ram.map_slot(3, MIB, 2 * MIB, host.backend.fd, 2 * MIB)
    host.backend.view[3 * MIB] = 7
    assert ram.view(3)[MIB] == 7
    for use in (ram.unmap_slot, ram.pages):
        with pytest.raises(RemoteProtocolError, match="slot 9 is not mapped"):
            use(9)


def test_address_zero_lies_where_huge_pages_can_be_mapped(host: Host) -> None:
    host.start(wire.MapSlot(0, 0, MIB, 0))
    assert host.hardware.ram.memory.ctypes.data % (1 << 30) == 0


def test_a_host_that_asks_and_asks_is_cut_off(host: Host) -> None:
    host.start(wire.MapSlot(0, 0, MIB, 0))
    for _ in range(HARDWARE_REQUESTS_MAX):
        host.send(wire.PlugMemory(1))
        host.hardware.wait(0)
    host.send(wire.PlugMemory(1))
    with pytest.raises(RemoteProtocolError, match="without waiting for replies"):
        host.hardware.wait(0)


def test_memory_cannot_be_plugged_before_the_hardware_is_complete(host: Host) -> None:
    host.send(wire.PlugMemory(0))
    with pytest.raises(RemoteProtocolError, match="the host may not send"):
        host.hardware.wait_for_start()


def test_what_arrives_during_a_call_is_not_lost(host: Host) -> None:
    host.start(wire.MapSlot(0, 0, MIB, 0))
    host.send(wire.MapSlot(1, MIB, MIB, MIB), host.backend.fd)
    host.send(wire.UnmapSlot(1))
    host.send(wire.Reply(1, HvStatus.INSUFFICIENT_BUFFERS))
    assert host.hardware.write_msr(0x40000080, 1) is HvStatus.INSUFFICIENT_BUFFERS
    assert host.received() == wire.WriteMsr(1, 0x40000080, 1)
    assert host.received() == wire.SlotMapped(1)
    assert host.hardware.requests.popleft() == wire.UnmapSlot(1)
    assert np.all(host.hardware.ram.memory[256:512] == 0)
    host.hardware.unmap_slot(1)
    assert host.received() == wire.SlotUnmapped(1)


@pytest.mark.parametrize("reply", [wire.Reply(2, 0), wire.Reply(1, 4711)])
def test_a_reply_that_fits_no_call_or_means_nothing_is_refused(host: Host, reply: wire.Reply) -> None:
    host.start()
    host.send(reply)
    with pytest.raises(RemoteProtocolError, match="the host replied"):
        host.hardware.hypercall(0x5C, 0)


def test_a_host_that_went_away_is_noticed_while_waiting_and_while_calling(host: Host) -> None:
    host.start()
    host.socket.close()
    with pytest.raises(HostGoneError):
        host.hardware.wait(10**9)
    with pytest.raises(HostGoneError):
        host.hardware.write_msr(0x40000080, 1)


def test_a_slot_of_huge_pages_is_mapped_and_unmapped(host: Host) -> None:
    with reserved(2), MemfdBackend(4 * MIB, "huge", hugetlb=True, hugetlb_size=2 * MIB) as huge:
        huge.view[2 * MIB] = 5
        host.start(wire.MapSlot(0, 0, MIB, 0))
        ram = host.hardware.ram
        ram.map_slot(1, 32 << 30, 4 * MIB, huge.fd, 0)
        assert ram.view(1)[2 * MIB] == 5
        ram.unmap_slot(1)
        assert not ram.is_mapped(8 << 20, (8 << 20) + 1)
