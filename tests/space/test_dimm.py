"""DIMMs: their slots, and the order and words in which QEMU 10 refuses them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.space.devices import BASE, Memory, World

from dynmem.memory.backend import MemfdBackend
from dynmem.space.dimm import PcDimm, assign_slot, pre_plug_dimm
from dynmem.space.region import MemoryDeviceError
from dynmem.units import GIB, MIB, PAGE_SIZE

NO_SPACE = "not enough space, currently 0x8000000 in use of total space for memory devices 0x10000000"


def exactly(text: str) -> str:
    return f"^{re.escape(text)}$"


def ram(size: int = 128 * MIB) -> Memory:
    return Memory(size, "memory-backend-ram")


def plug(world: World, dimm: PcDimm, slots: int = 4) -> None:
    pre_plug_dimm(world.memory, dimm, slots)
    world.memory.plug(dimm)


def test_a_dimm_of_real_memory_is_plugged_and_unplugged() -> None:
    world = World(GIB)
    with MemfdBackend(4 * MIB) as backend:
        dimm = PcDimm("d0", backend, memdev="m0")
        plug(world, dimm)
        assert (dimm.get_addr(), dimm.slot) == (BASE, 0)
        (section,) = world.space.sections
        assert section.backend is backend
        assert (section.address, section.size, section.offset, section.readonly) == (BASE, 4 * MIB, 0, False)
        assert world.memory.plugged_size() == dimm.get_plugged_size() == 4 * MIB
        world.memory.unplug(dimm)
        assert not world.space.sections


def test_a_dimm_is_listed_as_qemu_lists_it() -> None:
    world = World(GIB, base=4 * GIB)
    plug(world, PcDimm("5", ram(), memdev="r1"))
    plug(world, PcDimm(None, ram(), memdev="r2", slot=3, hotplugged=False))
    assert [info.to_json() for info in world.memory.infos()] == [
        {
            "type": "dimm",
            "data": {
                "memdev": "/objects/r1",
                "hotplugged": True,
                "addr": 4294967296,
                "hotpluggable": True,
                "size": 134217728,
                "slot": 0,
                "node": 0,
                "id": "5",
            },
        },
        {
            "type": "dimm",
            "data": {
                "memdev": "/objects/r2",
                "hotplugged": False,
                "addr": 4429185024,
                "hotpluggable": True,
                "size": 134217728,
                "slot": 3,
                "node": 0,
            },
        },
    ]


def test_a_dimm_that_is_not_plugged_has_no_slot_and_no_address() -> None:
    for slot in (None, -1):
        dimm = PcDimm("d0", ram(), memdev="r1", slot=slot)
        assert (dimm.get_addr(), dimm.slot) == (0, None)
        data = dimm.device_info().to_json()["data"]
        assert isinstance(data, dict)
        assert (data["addr"], data["slot"]) == (0, -1)


def test_slots_are_given_from_the_lowest_and_those_asked_for_are_kept() -> None:
    world = World(4 * GIB)
    asked, first, second = (
        PcDimm(name, ram(), slot=slot) for name, slot in (("a", 1), ("f", None), ("s", -1))
    )
    for dimm in (asked, first, second):
        plug(world, dimm)
    assert [dimm.slot for dimm in (asked, first, second)] == [1, 0, 2]
    world.memory.unplug(first)
    again = PcDimm("again", ram())
    plug(world, again)
    assert again.slot == 0


@pytest.mark.parametrize(
    ("hint", "slots", "text"),
    [
        (None, 0, "no slots where allocated, please specify the 'slots' option"),
        (0, 0, "no slots where allocated, please specify the 'slots' option"),
        (None, 2, "no free slots available"),
        (0, 2, "slot 0 is busy"),
        (2, 2, "invalid slot number 2, valid range is [0-1]"),
        (-2, 4, "invalid slot number -2, valid range is [0-3]"),
        (4, 4, "invalid slot number 4, valid range is [0-3]"),
    ],
)
def test_a_slot_that_cannot_be_had_is_refused_in_qemus_words(hint: int | None, slots: int, text: str) -> None:
    with pytest.raises(MemoryDeviceError, match=exactly(text)):
        assign_slot(hint, slots, [0, 1])


@given(st.none() | st.integers(-3, 12), st.integers(0, 10), st.sets(st.integers(0, 9)))
def test_a_slot_given_is_free_and_within_the_range(hint: int | None, slots: int, taken: set[int]) -> None:
    free = sorted(set(range(slots)) - taken)
    wanted = free[:1] if hint is None else [slot for slot in free if slot == hint]
    try:
        assert [assign_slot(hint, slots, taken)] == wanted
    except MemoryDeviceError:
        assert wanted == []


@pytest.mark.parametrize(
    ("dimm", "is_busy", "text"),
    [
        (PcDimm("d1", None), False, "'memdev' property must be set"),
        (PcDimm("d1", None, slot=9), False, "invalid slot number 9, valid range is [0-1]"),
        (PcDimm("d1", ram(), slot=0, addr=1), True, "slot 0 is busy"),
        (PcDimm("d1", ram(GIB), addr=1), True, NO_SPACE),
        (PcDimm("d1", ram(3 * MIB), addr=1), True, "backend memory size must be multiple of 0x200000"),
        (PcDimm("d1", ram(), addr=(1 << 64) - 1), True, "address must be aligned to 0x200000 bytes"),
        (PcDimm("d1", ram(), addr=0x1000), True, "address must be aligned to 0x200000 bytes"),
        (PcDimm("d1", ram(), addr=BASE, node=1), True, "address range conflicts with memory device id='d0'"),
        (PcDimm("d1", ram(), memdev="r1", node=1), True,
         "'DIMM property node has value 1' which exceeds the number of numa nodes: 1"),
        (PcDimm("d1", ram(), memdev="r1"), True, "can't use already busy memdev: r1"),
    ],
)  # fmt: skip
def test_a_dimm_is_refused_for_the_first_reason_that_qemu_finds(
    dimm: PcDimm, is_busy: bool, text: str
) -> None:
    world = World(GIB, capacity=256 * MIB)
    plug(world, PcDimm("d0", ram(), slot=0), 2)
    before = (world.state(), dimm.get_addr(), dimm.slot)
    with pytest.raises(MemoryDeviceError, match=exactly(text)):
        pre_plug_dimm(world.memory, dimm, 2, is_busy=is_busy)
    assert (world.state(), dimm.get_addr(), dimm.slot) == before


def test_a_machine_without_slots_says_so_before_it_asks_for_maxmem() -> None:
    with pytest.raises(MemoryDeviceError, match=r"^no slots where allocated"):
        pre_plug_dimm(World(0).memory, PcDimm("d0", ram()), 0)
    with pytest.raises(MemoryDeviceError, match=r"^the configuration is not prepared for memory devices"):
        pre_plug_dimm(World(0).memory, PcDimm("d0", ram()), 4)


def test_legacy_alignment_lets_dimms_lie_closer() -> None:
    world = World(GIB)
    plug(world, PcDimm("small", Memory(PAGE_SIZE)))
    dimm = PcDimm("d1", ram())
    pre_plug_dimm(world.memory, dimm, 4, legacy_align=PAGE_SIZE)
    assert dimm.get_addr() == BASE + PAGE_SIZE


def test_a_script_of_plugs_goes_as_it_went_in_qemu_10() -> None:
    # recorded from qemu-system-x86_64 10.0 -machine pc -m 256M,maxmem=2G,slots=4, which has its device memory
    # at 4 GiB: maxmem minus boot memory, and a GiB more for each slot
    base = 4 * GIB
    world = World(0x170000000, capacity=0x70000000, base=base)
    outside = "usable range for memory devices [0x100000000:0x170000000]"
    script: list[tuple[PcDimm, int | str]] = [
        (PcDimm("5", ram()), 0x100000000),
        (PcDimm("d1", ram(), addr=0x200000), f"can't add memory device [0x200000:0x8000000], {outside}"),
        (PcDimm("d1", ram(), addr=0xF8000000), f"can't add memory device [0xf8000000:0x8000000], {outside}"),
        (
            PcDimm("d1", ram(), addr=0xFFFFFFFFFFE00000),
            f"can't add memory device [0xffffffffffe00000:0x8000000], {outside}",
        ),
        (PcDimm("odd", ram(MIB)), "backend memory size must be multiple of 0x200000"),
        (PcDimm("page", ram(PAGE_SIZE)), "backend memory size must be multiple of 0x200000"),
        (
            PcDimm("big", ram(4 * GIB), addr=base),
            "not enough space, currently 0x8000000 in use of total space for memory devices 0x70000000",
        ),
        (PcDimm("d1", Memory(128 * MIB)), 4429185024),
        (
            PcDimm("d2", Memory(128 * MIB), addr=4362076160),
            "address range conflicts with memory device id='5'",
        ),
        (
            PcDimm("dm", ram(0x70000000)),
            "not enough space, currently 0x10000000 in use of total space for memory devices 0x70000000",
        ),
        (PcDimm("d3", Memory(256 * MIB)), 4563402752),
        (PcDimm("d4", Memory(128 * MIB), slot=4), "invalid slot number 4, valid range is [0-3]"),
        (PcDimm("d4", Memory(128 * MIB)), 4831838208),
        (PcDimm("d5", Memory(128 * MIB)), "no free slots available"),
    ]
    for dimm, answer in script:
        if isinstance(answer, int):
            plug(world, dimm)
            assert dimm.get_addr() == answer
        else:
            with pytest.raises(MemoryDeviceError, match=exactly(answer)):
                plug(world, dimm)
    assert [device.identity for device in world.memory.devices] == ["5", "d1", "d3", "d4"]
