"""Guest memory that is made of several pieces, which come and go."""

import contextlib
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.rigs.memory import memory_of

from dynmem.memory.backend import MemfdBackend
from dynmem.space.address_space import Section
from dynmem.vm.guest_memory import MappedMemory
from dynmem.vmbus.memory import BadAddressError

PAGE = 4096


def mapped(*spans: tuple[int, int]) -> tuple[MappedMemory, list[Section]]:
    """Memory at these (first page, pages), each of a backend of its own."""
    memory = MappedMemory()
    sections = [
        Section(page * PAGE, pages * PAGE, memory_of(memory, pages * PAGE), 0, False, "m")
        for page, pages in spans
    ]
    for section in sections:
        memory.section_added(section)
    return memory, sections


@given(st.integers(0, 8 * PAGE), st.binary(max_size=3 * PAGE))
def test_what_lies_across_pieces_is_one_stretch_of_bytes(address: int, data: bytes) -> None:
    memory, _ = mapped((0, 2), (2, 3), (5, 3))
    if address + len(data) <= 8 * PAGE and address < 8 * PAGE:
        memory.write(address, data)
        assert memory.read(address, len(data)) == data
    else:
        with pytest.raises(BadAddressError):
            memory.write(address, data)
        with pytest.raises(BadAddressError):
            memory.read(address, len(data))
        assert memory.read(0, 8 * PAGE) == bytes(8 * PAGE)  # nothing of it was written


def test_between_pieces_there_is_nothing() -> None:
    memory, _ = mapped((1, 1), (3, 1))
    for address in (0, 2 * PAGE, 4 * PAGE, 1 << 60):
        with pytest.raises(BadAddressError):
            memory.load32(address)
        with pytest.raises(BadAddressError):
            memory.read(address, 1)
    with pytest.raises(BadAddressError):
        memory.read(2 * PAGE - 1, 2)
    memory.store32(2 * PAGE - 4, 7)
    assert memory.load32(2 * PAGE - 4) == 7


def test_a_piece_that_is_gone_is_no_memory_and_can_be_closed() -> None:
    memory, sections = mapped((0, 1), (1, 1))
    memory.store32(PAGE, 1)
    memory.section_removed(sections[1])
    backend = sections[1].backend
    assert isinstance(backend, MemfdBackend)
    backend.close()
    assert backend.is_closed
    with pytest.raises(BadAddressError):
        memory.load32(PAGE)
    assert memory.load32(0) == 0


def test_another_thread_finds_memory_or_a_wrong_address_while_it_comes_and_goes() -> None:
    memory, sections = mapped((0, 1), (2, 1), (4, 1))
    surprises: list[BaseException] = []
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            try:
                assert memory.shared.read(4 * PAGE, 8) == bytes(8)  # it stays
                with contextlib.suppress(BadAddressError):
                    memory.shared.read(2 * PAGE, PAGE)
            except BaseException as error:
                surprises.append(error)
                return

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(10_000):
            memory.section_removed(sections[1])
            memory.section_added(sections[1])
    finally:
        sys.setswitchinterval(before)
        is_over.set()
        thread.join()
    assert surprises == []
