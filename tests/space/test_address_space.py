"""The address space: what listeners hear of the RAM that the guest sees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.space.devices import Log, Memory

from dynmem.errors import LocalProtocolError
from dynmem.memory.backend import MemfdBackend
from dynmem.space.address_space import AddressSpace, Section
from dynmem.space.region import Container, MemoryDeviceError, RamRegion
from dynmem.units import GIB, MIB, PAGE_SIZE


def ram(name: str, pages: int = 1, readonly: bool = False) -> RamRegion:
    return RamRegion(name, Memory(pages * PAGE_SIZE), 0, pages * PAGE_SIZE, readonly)


def heard(space: AddressSpace) -> Log:
    log = Log()
    space.listen(log)
    return log


def test_a_listener_hears_of_real_memory_as_it_comes_and_goes() -> None:
    space = AddressSpace()
    log = heard(space)
    with MemfdBackend(4 * MIB) as backend:
        region = RamRegion("ram", backend, MIB, 2 * MIB, readonly=True)
        space.map(region, GIB)
        section = Section(GIB, 2 * MIB, backend, MIB, True, "ram")
        assert space.sections == (section,)
        space.unmap(region)
        assert log.heard == [("+", section), ("-", section)]
        assert not space.sections


def test_pieces_of_a_container_are_seen_where_the_container_is() -> None:
    space, box = AddressSpace(), Container("box", GIB, PAGE_SIZE)
    log = heard(space)
    box.map(MIB, ram("before"))
    space.map(box, 4 * GIB)
    box.map(2 * MIB, ram("later"))
    assert [(section.name, section.address) for section in space.sections] == [
        ("before", 4 * GIB + MIB),
        ("later", 4 * GIB + 2 * MIB),
    ]
    box.unmap(MIB)
    space.unmap(box)
    assert log.names() == ["+before", "+later", "-before", "-later"]
    box.map(0, ram("unseen"))
    assert space.sections == ()
    assert len(log.heard) == 4


def test_sections_that_touch_stay_sections_of_their_own() -> None:
    space = AddressSpace()
    backend = Memory(2 * PAGE_SIZE)
    space.map(RamRegion("low", backend, 0, PAGE_SIZE), GIB)
    space.map(RamRegion("high", backend, PAGE_SIZE, PAGE_SIZE), GIB + PAGE_SIZE)
    assert [section.name for section in space.sections] == ["low", "high"]


def test_a_transaction_is_told_as_one_what_went_first() -> None:
    space = AddressSpace()
    low, high, new = ram("low"), ram("high"), ram("new", 2)
    space.map(low, PAGE_SIZE)
    space.map(high, 4 * PAGE_SIZE)
    log = heard(space)
    with space.transaction():
        space.map(new, 8 * PAGE_SIZE)
        with space.transaction():
            space.unmap(low)
            space.unmap(high)
        space.map(low, 16 * PAGE_SIZE)
        assert log.names() == ["+low", "+high"]
    assert log.names()[2:] == ["-high", "-low", "+new", "+low"]
    assert [section.name for section in space.sections] == ["new", "low"]


def test_what_comes_and_goes_within_a_transaction_is_not_told() -> None:
    space, region = AddressSpace(), ram("ram")
    space.map(region, GIB)
    log = heard(space)
    with space.transaction():
        space.unmap(region)
        space.map(region, GIB)
        other = ram("other")
        space.map(other, 0)
        space.unmap(other)
    assert log.names() == ["+ram"]


def test_a_transaction_that_fails_leaves_everything_as_it_was() -> None:
    space, box = AddressSpace(), Container("box", GIB, PAGE_SIZE)
    inside, outside, new = ram("inside"), ram("outside"), ram("new")
    box.map(0, inside)
    space.map(box, GIB)
    space.map(outside, 0)
    log = heard(space)
    before = space.sections
    new_box = Container("new", MIB, PAGE_SIZE)

    def change_and_fail() -> None:
        with space.transaction():
            space.unmap(outside)
            box.unmap(0)
            box.map(MIB, new)
            space.unmap(box)
            space.map(new_box, 0)
            space.map(ram("too much"), PAGE_SIZE)

    with pytest.raises(MemoryDeviceError, match="would overlap"):
        change_and_fail()
    assert space.sections == before
    assert log.names() == ["+outside", "+inside"]
    assert box.subregions == ((0, inside),)
    assert inside.is_mapped
    assert not new.is_mapped
    assert not new_box.is_mapped
    box.map(MIB, new)  # the container is seen again, and its changes with it
    assert log.names()[-1] == "+new"


def test_a_new_listener_hears_what_there_is_and_one_that_leaves_that_it_goes() -> None:
    space = AddressSpace()
    space.map(ram("low"), 0)
    space.map(ram("high"), GIB)
    log = heard(space)
    space.forget(log)
    space.map(ram("later"), MIB)
    assert log.names() == ["+low", "+high", "-high", "-low"]


@pytest.mark.parametrize("address", [-PAGE_SIZE, 1, (1 << 64) - PAGE_SIZE, GIB + PAGE_SIZE, GIB - PAGE_SIZE])
def test_a_region_is_refused_where_it_cannot_be(address: int) -> None:
    space, region = AddressSpace(), ram("ram", 2)
    space.map(ram("there", 2), GIB)
    before = space.sections
    with pytest.raises(MemoryDeviceError, match="region 'ram'"):
        space.map(region, address)
    assert space.sections == before
    assert not region.is_mapped


def test_only_ram_and_containers_can_be_mapped() -> None:
    with pytest.raises(
        MemoryDeviceError, match="only RAM or a container of RAM can be mapped, not bytearray"
    ):
        AddressSpace().map(bytearray(PAGE_SIZE), 0)  # type: ignore[arg-type]


def test_a_region_is_mapped_once_and_unmapped_where_it_is() -> None:
    space, box, region = AddressSpace(), Container("box", GIB, PAGE_SIZE), ram("ram")
    box.map(0, region)
    space.map(box, 0)
    with pytest.raises(MemoryDeviceError, match="is mapped already"):
        space.map(region, GIB)
    with pytest.raises(MemoryDeviceError, match="is mapped already"):
        AddressSpace().map(box, GIB)
    with pytest.raises(MemoryDeviceError, match="is not mapped here"):
        space.unmap(region)


def test_a_listener_may_not_change_what_it_is_told_of() -> None:
    space = AddressSpace()

    class Meddler(Log):
        def section_added(self, section: Section) -> None:
            space.map(ram("more"), section.address + GIB)

    space.listen(Meddler())
    with pytest.raises(LocalProtocolError, match="a listener may not change the address space"):
        space.map(ram("ram"), 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["map", "unmap", "box"]), st.integers(0, 15), st.integers(1, 4), st.booleans()
        ),
        max_size=30,
    )
)
def test_listeners_always_know_exactly_what_a_plain_model_says(
    steps: list[tuple[str, int, int, bool]],
) -> None:
    space, box = AddressSpace(), Container("box", 16 * PAGE_SIZE, PAGE_SIZE)
    space.map(box, GIB)
    known: set[Section] = set()

    class Follower(Log):
        def section_added(self, section: Section) -> None:
            assert not any(
                section.address < other.address + other.size
                and other.address < section.address + section.size
                for other in known
            )
            known.add(section)

        def section_removed(self, section: Section) -> None:
            known.remove(section)

    space.listen(Follower())
    model: dict[int, RamRegion] = {}  # by address
    for what, page, pages, fails in steps:
        region, base = ram("ram", pages), 0 if what == "map" else GIB
        before, changed = space.sections, dict(model)
        try:
            with space.transaction():
                if what == "map":
                    space.map(region, page * PAGE_SIZE)
                    changed[page * PAGE_SIZE] = region
                elif what == "box":
                    box.map(page * PAGE_SIZE, region)
                    changed[base + page * PAGE_SIZE] = region
                elif (there := changed.pop(page * PAGE_SIZE, None)) is not None:
                    space.unmap(there)
                elif changed.pop(base + page * PAGE_SIZE, None) is not None:
                    box.unmap(page * PAGE_SIZE)
                if fails:
                    space.unmap(region if region.is_mapped else box)
                    box.unmap(-1)  # which cannot be
        except MemoryDeviceError:
            assert space.sections == before
        else:
            model = changed
        assert {(section.address, section.size) for section in space.sections} == {
            (address, region.size) for address, region in model.items()
        }
        assert known == set(space.sections)
