"""A ring between two real processes that sleep until they are signalled: a lost signal would hang it."""

import mmap
import os
import select
import subprocess
import sys

import pytest

from dynmem.units import PAGE_SIZE
from dynmem.vmbus import ring
from dynmem.vmbus.memory import FlatMemory, GpadlMemory

PACKETS = 10_000
PAGES = 2
WRITER = """
import mmap, os, select, sys
from dynmem.vmbus import ring
from dynmem.vmbus.memory import FlatMemory, GpadlMemory
from dynmem.wire.packet import Packet
ram, bell, room, packets, pages = map(int, sys.argv[1:])
memory = FlatMemory(memoryview(mmap.mmap(ram, pages * 4096)))
writer = ring.RingWriter(GpadlMemory(memory, range(pages)), 0, pages)
for number in range(packets):
    packet = Packet(6, 0, number, number.to_bytes(8, "little") * (number % 40))
    while not writer.write(packet):
        assert select.select([room], [], [], 100)[0], f"no signal for room at packet {number}"
        os.eventfd_read(room)
    if writer.take_signal():
        os.eventfd_write(bell, 1)
"""


def test_no_packet_and_no_signal_is_lost_between_two_processes() -> None:
    ram = os.memfd_create("ring")
    os.ftruncate(ram, PAGES * PAGE_SIZE)
    bell, room = os.eventfd(0), os.eventfd(0)
    view = mmap.mmap(ram, PAGES * PAGE_SIZE)
    memory = FlatMemory(memoryview(view))
    pages = GpadlMemory(memory, range(PAGES))
    ring.initialize(pages, 0)
    reader = ring.RingReader(pages, 0, PAGES)
    arguments = [str(number) for number in (ram, bell, room, PACKETS, PAGES)]
    with subprocess.Popen([sys.executable, "-c", WRITER, *arguments], pass_fds=(ram, bell, room)) as child:
        try:
            expected = 0
            while expected < PACKETS:
                packet = reader.read()
                if reader.take_signal():
                    os.eventfd_write(room, 1)
                if packet is None:
                    if not select.select([bell], [], [], 100)[0]:
                        pytest.fail(f"no signal for packet {expected}")
                    os.eventfd_read(bell)
                    continue
                assert packet.trans_id == expected
                assert packet.data == expected.to_bytes(8, "little") * (expected % 40)
                expected += 1
            assert child.wait(100) == 0
        finally:
            child.kill()
    memory.release()
    view.close()
    for descriptor in (ram, bell, room):
        os.close(descriptor)
