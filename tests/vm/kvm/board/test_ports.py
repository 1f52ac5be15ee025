"""Port I/O: which device an access reaches, and in what pieces."""

import pytest

from dynmem.vm.kvm.board.ports import ByteDevice, Ports


class Recorder(ByteDevice):
    """Remembers what is written, and reads as its offset."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.written: list[tuple[int, int]] = []

    def read_byte(self, offset: int) -> int:
        return 0x10 + offset

    def write_byte(self, offset: int, value: int) -> None:
        self.written.append((offset, value))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_where_there_is_no_device_all_ones_are_read_and_a_write_is_lost(size: int) -> None:
    ports = Ports()
    assert ports.read(0x1234, size) == (1 << 8 * size) - 1
    assert ports.read_string(0x1234, size, 3) == b"\xff" * size * 3
    ports.write(0x1234, size, 0)
    ports.write_string(0x1234, size, bytes(size))


def test_a_wide_access_is_one_to_each_port_of_the_device_that_it_covers() -> None:
    ports, device = Ports(), Recorder(3)
    ports.add(0x100, 3, device)
    ports.write(0x100, 2, 0xBBAA)
    ports.write(0x101, 4, 0x44332211)
    assert device.written == [(0, 0xAA), (1, 0xBB), (1, 0x11), (2, 0x22)]
    assert ports.read(0x100, 2) == 0x1110
    assert ports.read(0x101, 4) == 0xFFFF_1211


def test_an_access_belongs_to_the_device_of_its_first_port() -> None:
    ports, device = Ports(), Recorder(1)
    ports.add(0xCF9, 1, device)
    ports.write(0xCF8, 4, 0x0000_0600)  # an address in PCI configuration space
    assert device.written == []
    assert ports.read(0xCF8, 4) == 0xFFFF_FFFF


def test_a_string_is_so_many_accesses_to_one_port() -> None:
    ports, device = Ports(), Recorder(2)
    ports.add(0x100, 2, device)
    ports.write_string(0x100, 1, b"abc")
    ports.write_string(0x100, 2, b"defg")
    assert device.written == [(0, 97), (0, 98), (0, 99), (0, 100), (1, 101), (0, 102), (1, 103)]
    assert ports.read_string(0x100, 2, 2) == b"\x10\x11\x10\x11"
