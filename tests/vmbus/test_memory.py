"""Guest memory by address and GPADL memory by offset."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynmem.units import PAGE_SIZE
from dynmem.vmbus.memory import BadAddressError, FlatMemory, GpadlMemory

BASE = 0x10000


class CountingMemory(FlatMemory):
    """Flat memory that counts its slices."""

    slices = 0

    def read(self, gpa: int, length: int) -> bytes:
        self.slices += 1
        return super().read(gpa, length)

    def write(self, gpa: int, data: bytes) -> None:
        self.slices += 1
        super().write(gpa, data)


def counting(pages: int) -> CountingMemory:
    return CountingMemory(memoryview(bytearray(pages * PAGE_SIZE)))


@pytest.mark.parametrize(
    ("gpa", "length"),
    [(BASE - 1, 1), (BASE + PAGE_SIZE, 1), (BASE, PAGE_SIZE + 1), (0, 4), (1 << 70, 8), (BASE, -1), (-8, 8)],
)
def test_addresses_outside_are_refused(gpa: int, length: int) -> None:
    memory = FlatMemory(memoryview(bytearray(PAGE_SIZE)), base=BASE)
    with pytest.raises(BadAddressError):
        memory.read(gpa, length)
    if length > 0:
        with pytest.raises(BadAddressError):
            memory.write(gpa, bytes(length))


@pytest.mark.parametrize("gpa", [BASE + 1, BASE + 2, BASE - 4, BASE + PAGE_SIZE, 1 << 70])
def test_words_are_aligned_and_inside(gpa: int) -> None:
    memory = FlatMemory(memoryview(bytearray(PAGE_SIZE)), base=BASE)
    with pytest.raises(BadAddressError):
        memory.load32(gpa)
    with pytest.raises(BadAddressError):
        memory.store32(gpa, 1)


def test_words_and_bytes_are_the_same_memory_in_little_endian() -> None:
    memory = FlatMemory(memoryview(bytearray(PAGE_SIZE)), base=BASE)
    memory.store32(BASE + 8, 0x11223344)
    memory.fence()
    assert memory.read(BASE + 8, 4).hex() == "44332211"
    memory.write(BASE + PAGE_SIZE - 4, b"\x01\x00\x00\x80")
    assert memory.load32(BASE + PAGE_SIZE - 4) == 0x80000001


def test_what_was_read_does_not_change_with_the_memory() -> None:
    memory = FlatMemory(memoryview(bytearray(PAGE_SIZE)))
    copy = memory.read(0, 8)
    memory.write(0, b"\xff" * 8)
    assert copy == bytes(8)


@given(st.permutations(range(12)), st.data())
@settings(max_examples=100, deadline=None)
def test_scattered_pages_behave_as_one_stretch(pfns: list[int], data: st.DataObject) -> None:
    pfns = pfns[:8]
    memory = FlatMemory(memoryview(bytearray(12 * PAGE_SIZE)))
    gpadl = GpadlMemory(memory, pfns)
    model = bytearray(gpadl.size)
    for _ in range(6):
        offset = data.draw(st.integers(0, gpadl.size))
        octets = data.draw(st.binary(max_size=64)) * data.draw(st.sampled_from([1, 1, 200]))
        octets = octets[: gpadl.size - offset]
        gpadl.write(offset, octets)
        model[offset : offset + len(octets)] = octets
        start = data.draw(st.integers(0, gpadl.size))
        length = data.draw(st.integers(0, gpadl.size - start))
        assert gpadl.read(start, length) == model[start : start + length]
    word = data.draw(st.integers(0, gpadl.size // 4 - 1)) * 4
    assert gpadl.load32(word) == int.from_bytes(model[word : word + 4], "little")
    gpadl.store32(word, 0xA5A5A5A5)
    assert gpadl.read(word, 4) == b"\xa5" * 4


def test_neighbouring_pages_are_one_slice() -> None:
    memory = counting(16)
    gpadl = GpadlMemory(memory, [4, 5, 6, 7, 9, 10, 2])
    gpadl.write(0, bytes(gpadl.size))
    assert memory.slices == 3
    gpadl.read(100, 3 * PAGE_SIZE)
    assert memory.slices == 4
    gpadl.read(4 * PAGE_SIZE - 8, 16)
    assert memory.slices == 6


def test_offsets_outside_the_pages_are_refused() -> None:
    gpadl = GpadlMemory(counting(4), [1, 2])
    for offset, length in ((-1, 1), (0, 2 * PAGE_SIZE + 1), (2 * PAGE_SIZE, 1), (0, -1)):
        with pytest.raises(BadAddressError):
            gpadl.read(offset, length)
    for offset in (-4, 2, 2 * PAGE_SIZE):
        with pytest.raises(BadAddressError):
            gpadl.load32(offset)


def test_a_page_outside_guest_memory_is_noticed_when_it_is_touched() -> None:
    gpadl = GpadlMemory(counting(4), [1, 1 << 52, 2])
    assert gpadl.read(0, PAGE_SIZE) == bytes(PAGE_SIZE)
    with pytest.raises(BadAddressError):
        gpadl.read(PAGE_SIZE - 8, 16)
    with pytest.raises(BadAddressError):
        gpadl.store32(PAGE_SIZE, 1)
