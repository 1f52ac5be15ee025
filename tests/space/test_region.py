"""Memory regions, and containers of which pieces come and go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.space.devices import Memory

from dynmem.memory.backend import MemfdBackend
from dynmem.space.region import Container, MemoryDeviceError, RamRegion, backend_alignment
from dynmem.units import GIB, MIB, PAGE_SIZE


def ram(pages: int = 1, name: str = "ram", readonly: bool = False) -> RamRegion:
    return RamRegion(name, Memory(pages * PAGE_SIZE), 0, pages * PAGE_SIZE, readonly)


def test_a_region_of_real_memory_is_aligned_as_its_pages() -> None:
    with MemfdBackend(MIB) as backend:
        region = RamRegion("ram", backend, PAGE_SIZE, MIB - PAGE_SIZE)
        assert region.alignment == backend.page_size == PAGE_SIZE
        assert list(region.stretches()) == [(0, region)]


@pytest.mark.parametrize(
    ("kind", "page_size", "alignment"),
    [
        ("memory-backend-memfd", PAGE_SIZE, PAGE_SIZE),
        ("memory-backend-memfd", 2 * MIB, 2 * MIB),
        ("memory-backend-file", GIB, GIB),
        ("memory-backend-ram", PAGE_SIZE, 2 * MIB),
    ],
)
def test_each_backend_asks_for_the_alignment_that_it_has_in_qemu(
    kind: str, page_size: int, alignment: int
) -> None:
    assert backend_alignment(Memory(GIB, kind, page_size)) == alignment


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 0), (0, -PAGE_SIZE), (-PAGE_SIZE, PAGE_SIZE), (1, PAGE_SIZE), (0, PAGE_SIZE + 1), (0, 2 * MIB)],
)
def test_a_region_that_its_backend_does_not_hold_is_refused(offset: int, size: int) -> None:
    with pytest.raises(MemoryDeviceError, match="region 'ram'"):
        RamRegion("ram", Memory(MIB), offset, size)


@pytest.mark.parametrize(
    ("size", "alignment"), [(0, PAGE_SIZE), (MIB + 1, PAGE_SIZE), (MIB, 3 * PAGE_SIZE), (MIB, 1)]
)
def test_a_container_is_whole_pages_aligned_to_a_power_of_two(size: int, alignment: int) -> None:
    with pytest.raises(MemoryDeviceError, match="container 'box'"):
        Container("box", size, alignment)


def test_regions_come_into_a_container_and_go_again() -> None:
    box = Container("box", 8 * PAGE_SIZE, PAGE_SIZE)
    high, low = ram(2, "high"), ram(4, "low")
    box.map(6 * PAGE_SIZE, high)
    box.map(0, low)
    assert box.subregions == ((0, low), (6 * PAGE_SIZE, high))
    assert box.unmap(0) is low
    assert list(box.subregions) == [(6 * PAGE_SIZE, high)]
    box.map(2 * PAGE_SIZE, low)
    assert box.subregions == ((2 * PAGE_SIZE, low), (6 * PAGE_SIZE, high))


def test_a_container_holds_ram_or_rom_but_not_both_at_once() -> None:
    box = Container("box", 8 * PAGE_SIZE, PAGE_SIZE)
    box.map(0, ram())
    with pytest.raises(MemoryDeviceError, match="'box' can hold RAM or ROM, not both"):
        box.map(PAGE_SIZE, ram(readonly=True))
    box.unmap(0)
    box.map(PAGE_SIZE, ram(readonly=True))
    box.map(2 * PAGE_SIZE, ram(readonly=True))
    with pytest.raises(MemoryDeviceError, match="not both"):
        box.map(0, ram())
    assert [offset for offset, _ in box.subregions] == [PAGE_SIZE, 2 * PAGE_SIZE]


def test_only_ram_can_be_mapped_into_a_container() -> None:
    box = Container("box", 8 * PAGE_SIZE, PAGE_SIZE)
    inner = Container("inner", PAGE_SIZE, PAGE_SIZE)
    with pytest.raises(MemoryDeviceError, match="only RAM can be mapped into 'box', not Container"):
        box.map(0, inner)  # type: ignore[arg-type]
    assert box.subregions == ()
    assert not inner.is_mapped


@pytest.mark.parametrize("offset", [-PAGE_SIZE, 1, 7 * PAGE_SIZE, 8 * PAGE_SIZE, 3 * PAGE_SIZE, PAGE_SIZE])
def test_what_does_not_fit_into_a_container_changes_nothing(offset: int) -> None:
    box = Container("box", 8 * PAGE_SIZE, PAGE_SIZE)
    inside, region = ram(2, "inside"), ram(2)
    box.map(2 * PAGE_SIZE, inside)
    with pytest.raises(MemoryDeviceError):
        box.map(offset, region)
    assert box.subregions == ((2 * PAGE_SIZE, inside),)
    assert not region.is_mapped


def test_a_region_is_in_one_place_at_a_time() -> None:
    box, other = Container("box", 8 * PAGE_SIZE, PAGE_SIZE), Container("other", PAGE_SIZE, PAGE_SIZE)
    region = ram()
    box.map(0, region)
    for somewhere in (box, other):
        with pytest.raises(MemoryDeviceError, match="is mapped already"):
            somewhere.map(0, region)
    box.unmap(0)
    other.map(0, region)
    assert other.subregions == ((0, region),)


def test_what_is_not_mapped_cannot_be_unmapped() -> None:
    box = Container("box", 8 * PAGE_SIZE, PAGE_SIZE)
    box.map(0, ram(2))
    with pytest.raises(MemoryDeviceError, match="no region is mapped at 0x1000 of 'box'"):
        box.unmap(PAGE_SIZE)


@given(st.lists(st.tuples(st.booleans(), st.integers(-1, 16), st.integers(1, 5)), max_size=30))
def test_a_container_holds_what_a_plain_model_of_pages_holds(steps: list[tuple[bool, int, int]]) -> None:
    box = Container("box", 16 * PAGE_SIZE, PAGE_SIZE)
    model: dict[int, set[int]] = {}
    for is_map, page, pages in steps:
        wanted = set(range(page, page + pages))
        if is_map:
            fits = page >= 0 and page + pages <= 16 and not any(wanted & held for held in model.values())
            if fits:
                model[page] = wanted
        else:
            fits = model.pop(page, None) is not None
        try:
            if is_map:
                box.map(page * PAGE_SIZE, ram(pages))
            else:
                box.unmap(page * PAGE_SIZE)
        except MemoryDeviceError:
            assert not fits
        else:
            assert fits
        assert {offset // PAGE_SIZE: region.size // PAGE_SIZE for offset, region in box.subregions} == {
            begin: len(held) for begin, held in model.items()
        }
