"""What becomes of each exit of a virtual processor, with a page of a test's own in place of the kernel's."""

import os
import struct
from collections.abc import Iterator

import pytest
from tests.rigs.partition import PartitionRig

from dynmem.vm.hyperv.page import CALL_OFFSET, CALL_PORT, SIGNAL_OFFSET, SIGNAL_PORT
from dynmem.vm.kvm import api, run_page
from dynmem.vm.kvm.board.ports import Ports
from dynmem.vm.kvm.exits import Exits
from dynmem.vm.kvm.run_page import RunPage
from dynmem.wire.hyperv import MSR_GUEST_OS_ID, MSR_HYPERCALL
from dynmem.wire.synic import HvStatus, HypercallInput

DATA = 0x1000  # where the bytes of an access are
PAGE_AT = 0x5000
SIZE = 0x2000


class Recorded:
    """Takes calls, and has the same result for each."""

    def __init__(self) -> None:
        self.made: list[HypercallInput] = []
        self.retries = 0

    def make(self, made: HypercallInput) -> int:
        self.made.append(made)
        return 0x0000_0003_0000_0005

    def retry_messages(self) -> None:
        self.retries += 1


class Device:
    """Keeps what is written, and reads as what it was made with."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.written: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        return self.value & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, size, value))


class Scene:
    """A processor that has left the guest."""

    def __init__(self, *, is_long_mode: bool = True) -> None:
        self.fd = os.memfd_create("run")
        os.truncate(self.fd, SIZE)
        self.page = RunPage(self.fd, SIZE)
        self.calls = Recorded()
        self.device = Device(0x1234_5678)
        self.happened: list[str] = []
        ports = Ports()
        ports.add(0x3F8, 8, self.device)
        self.partition = PartitionRig().partition
        self.serve = Exits(
            ports,
            self.partition,
            self.calls,
            is_long_mode=lambda _vp: is_long_mode,
            triple_fault=lambda: self.happened.append("triple fault"),
            failed=self.happened.append,
        )
        self.write_msr(MSR_GUEST_OS_ID, 1)

    def field(self, offset: int, layout: str, *values: int | bytes) -> None:
        os.pwrite(self.fd, struct.pack(layout, *values), offset)

    def exit(self, reason: int) -> None:
        self.field(8, "<I", reason)
        self.serve(0, self.page)

    def io(self, port: int, data: bytes, size: int, *, is_out: bool) -> bytes:
        os.pwrite(self.fd, data, DATA)
        self.field(32, "<BBHIQ", is_out, size, port, len(data) // size, DATA)
        self.exit(api.EXIT_IO)
        return os.pread(self.fd, len(data), DATA)

    def write_msr(self, msr: int, value: int) -> bool:
        """Write an MSR; whether that is a #GP."""
        self.field(32, "<B7xIIQ", 0, 4, msr, value)
        self.exit(api.EXIT_X86_WRMSR)
        return bool(os.pread(self.fd, 1, 32)[0])

    def close(self) -> None:
        self.page.close()
        os.close(self.fd)


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


def test_an_access_goes_to_the_device_behind_its_port(scene: Scene) -> None:
    assert scene.io(0x3F9, bytes(2), 2, is_out=False) == b"\x78\x56"
    scene.io(0x3F8, b"A", 1, is_out=True)
    scene.io(0x3F8, b"\x01\x02\x03\x04", 4, is_out=True)
    assert scene.device.written == [(0, 1, ord("A")), (0, 4, 0x0403_0201)]


def test_a_string_of_accesses_is_one_exit(scene: Scene) -> None:
    scene.io(0x3F8, b"abc", 1, is_out=True)
    assert [chr(value) for _, _, value in scene.device.written] == ["a", "b", "c"]
    assert scene.io(0x3F8, bytes(4), 2, is_out=False) == b"\x78\x56\x78\x56"


def test_where_there_is_nothing_the_guest_reads_ones(scene: Scene) -> None:
    assert scene.io(0x1234, bytes(4), 4, is_out=False) == b"\xff" * 4
    scene.field(32, "<Q8sIB", 0xD000_0000, bytes(8), 4, 0)
    scene.exit(api.EXIT_MMIO)
    assert os.pread(scene.fd, 4, 40) == b"\xff" * 4


@pytest.mark.parametrize("passed", [0, 2])
def test_a_hypercall_is_made_by_the_page_and_by_no_other_code(scene: Scene, passed: int) -> None:
    """KVM says where the instruction is, or what follows it when it had to emulate it."""
    registers = (run_page.RCX, 0x5C), (run_page.RDX, 0x1000), (run_page.R8, 0x2000), (run_page.RAX, 77)
    for number, value in registers:
        scene.page.set_register(number, value)
    scene.page.set_register(run_page.RIP, 0xFFFF_C000 + CALL_OFFSET + passed)
    scene.io(CALL_PORT, b"\x00", 1, is_out=True)
    assert not scene.calls.made  # there is no page yet
    assert not scene.write_msr(MSR_HYPERCALL, PAGE_AT | 1)
    scene.page.set_register(run_page.RIP, 0xFFFF_C000 + CALL_OFFSET + passed + 1)
    scene.io(CALL_PORT, b"\x00", 1, is_out=True)
    assert (scene.calls.made, scene.page.register(run_page.RAX)) == ([], 77)
    scene.page.set_register(run_page.RIP, 0xFFFF_C000 + CALL_OFFSET + passed)
    scene.io(CALL_PORT, b"\x00", 1, is_out=True)
    assert scene.calls.made == [HypercallInput(0x5C, 0x1000, 0x2000)]
    assert scene.page.register(run_page.RAX) == 0x0000_0003_0000_0005


def test_outside_long_mode_parameters_and_result_are_in_pairs_of_registers() -> None:
    scene = Scene(is_long_mode=False)
    assert not scene.write_msr(MSR_HYPERCALL, PAGE_AT | 1)
    values = {"RDX": 1, "RAX": 2, "RBX": 3, "RCX": 4, "RDI": 5, "RSI": 6, "RIP": CALL_OFFSET}
    for name, value in values.items():
        scene.page.set_register(getattr(run_page, name), value)
    scene.io(CALL_PORT, b"\x00", 1, is_out=True)
    assert scene.calls.made == [HypercallInput(1 << 32 | 2, 3 << 32 | 4, 5 << 32 | 6)]
    assert (scene.page.register(run_page.RDX), scene.page.register(run_page.RAX)) == (3, 5)
    scene.close()


def test_a_signal_that_leaves_the_guest_is_to_a_connection_that_nobody_has(scene: Scene) -> None:
    assert not scene.write_msr(MSR_HYPERCALL, PAGE_AT | 1)
    scene.page.set_register(run_page.RIP, SIGNAL_OFFSET)
    scene.io(SIGNAL_PORT, (99).to_bytes(4, "little"), 4, is_out=True)
    assert scene.page.register(run_page.R9) == HvStatus.INVALID_CONNECTION_ID


def test_an_msr_that_is_not_there_is_a_protection_fault(scene: Scene) -> None:
    assert scene.write_msr(0x4000_00FF, 1)
    scene.field(32, "<B7xIIQ", 0, 4, 0x4000_00FF, 0)
    scene.exit(api.EXIT_X86_RDMSR)
    assert os.pread(scene.fd, 1, 32) == b"\x01"


def test_only_a_write_that_may_make_room_has_messages_tried_again(scene: Scene) -> None:
    scene.calls.retries = 0
    assert not scene.write_msr(MSR_HYPERCALL, PAGE_AT | 1)
    assert scene.calls.retries == 0
    assert not scene.write_msr(0x4000_0084, 0)  # EOM
    assert scene.calls.retries == 1


def test_a_triple_fault_is_reported_and_an_exit_that_is_unknown_is_the_end(scene: Scene) -> None:
    scene.exit(api.EXIT_SHUTDOWN)
    assert scene.happened == ["triple fault"]
    scene.exit(api.EXIT_INTR)
    scene.exit(api.EXIT_INTERNAL_ERROR)
    assert len(scene.happened) == 2
    assert "exit 17 on vCPU 0" in scene.happened[1]
