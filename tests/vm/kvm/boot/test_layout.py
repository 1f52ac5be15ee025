"""The memory map, and the room for an initrd: what holds for any RAM."""

from hypothesis import given
from hypothesis import strategies as st

from dynmem.units import GIB, KIB, MIB, PAGE_SIZE
from dynmem.vm.kvm.boot.layout import MapEntry, MemoryType, has_ram, highest_room, memory_map

RAM, RESERVED = MemoryType.RAM, MemoryType.RESERVED
HOLE = 3584 * MIB

pages = st.integers(0, 1 << 20).map(lambda count: count * PAGE_SIZE)


@st.composite
def rams(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    """RAM in one piece to four, the first from 0 on."""
    pieces, at = [], 0
    for _ in range(draw(st.integers(1, 4))):
        size = 2 * MIB + draw(pages)
        pieces.append((at, size))
        at += size + draw(pages)
    return tuple(pieces)


def test_the_map_of_a_small_machine_is_that_of_a_pc() -> None:
    assert memory_map([(0, 64 * MIB)]) == [
        MapEntry(0, 639 * KIB, RAM),
        MapEntry(639 * KIB, 385 * KIB, RESERVED),
        MapEntry(MIB, 63 * MIB, RAM),
    ]


def test_memory_above_the_hole_is_a_piece_of_its_own() -> None:
    assert memory_map([(0, HOLE), (4 * GIB, 1536 * MIB)])[2:] == [
        MapEntry(MIB, HOLE - MIB, RAM),
        MapEntry(4 * GIB, 1536 * MIB, RAM),
    ]


@given(ram=rams())
def test_a_map_says_of_every_byte_once_what_it_is(ram: tuple[tuple[int, int], ...]) -> None:
    entries = memory_map(ram)
    assert all(entry.size > 0 for entry in entries)
    ends = [entry.address + entry.size for entry in entries]
    assert all(end <= entry.address for end, entry in zip(ends, entries[1:], strict=False))
    assert sum(entry.size for entry in entries) == sum(size for _, size in ram)


@given(ram=rams(), size=st.integers(1, 2 * GIB), end=st.integers(1, 1 << 33), start=pages, length=pages)
def test_room_for_an_initrd_is_free_ram_and_none_is_higher(
    ram: tuple[tuple[int, int], ...], size: int, end: int, start: int, length: int
) -> None:
    taken = (start, start + length)
    room = highest_room(ram, size, end=end, taken=taken)

    def is_free(address: int) -> bool:
        stop = address + size
        return (
            stop <= min(end, 4 * GIB)
            and has_ram(ram, address, stop)
            and (stop <= taken[0] or address >= taken[1])
        )

    # the highest of a part of RAM is the last page that fits below one of these
    stops = [min(stop, end, 4 * GIB) for stop in (taken[0], *(at + count for at, count in ram))]
    candidates = [(stop - size) // PAGE_SIZE * PAGE_SIZE for stop in stops]
    assert room == max(filter(is_free, candidates), default=None)


def test_an_initrd_lies_at_the_end_of_ram_or_of_what_the_kernel_can_address() -> None:
    ram = [(0, HOLE), (4 * GIB, GIB)]
    kernel = (16 * MIB, 68 * MIB)
    assert highest_room(ram, 10 * MIB, end=4 * GIB, taken=kernel) == HOLE - 10 * MIB
    assert highest_room(ram, 10 * MIB, end=8 * GIB, taken=kernel) == HOLE - 10 * MIB
    assert highest_room(ram, 10 * MIB, end=2 * GIB, taken=kernel) == 2 * GIB - 10 * MIB
    assert highest_room(ram, 10 * MIB - 1, end=2 * GIB, taken=kernel) == 2 * GIB - 10 * MIB
    assert highest_room(ram, 10 * MIB, end=70 * MIB, taken=kernel) == 6 * MIB
    assert highest_room(ram, 16 * MIB, end=70 * MIB, taken=kernel) is None
