"""Memory devices: every callback of the interface, every check of a plug, and what plugging changes."""

import re

import pytest
from tests.space.devices import BASE, Consumer, EmptyDevice, Memory, SlottedDevice, World

from dynmem.errors import LocalProtocolError
from dynmem.space.dimm import PcDimm
from dynmem.space.memory_device import DeviceInfo, MemoryDevice
from dynmem.space.memslots import SlotUse
from dynmem.space.region import MemoryDeviceError, RamRegion
from dynmem.units import GIB, MIB, PAGE_SIZE

UNPREPARED = (
    "the configuration is not prepared for memory devices (e.g., for memory hotplug),"
    " consider specifying the maxmem option"
)
NO_SPACE = "not enough space, currently 0x40000000 in use of total space for memory devices 0x80000000"
OUT_OF_RANGE = (
    "can't add memory device [0x1000:0x40000000], usable range for memory devices [0x800000000:0x100000000]"
)
FRAGMENTED = (
    "could not find position in guest address space for memory device - memory fragmented due to alignments"
)
TOO_ALIGNED = (
    "the alignment (0x100000000) exceeds the expected maximum alignment, memory will get fragmented"
    " and not all 'maxmem' might be usable for memory devices."
)

TOO_MANY = "Memory devices use more memory slots than indicated as required."


def exactly(text: str) -> str:
    return f"^{re.escape(text)}$"


def dimm(name: str | None = "dimm", size: int = GIB, address: int = 0) -> PcDimm:
    return PcDimm(name, Memory(size), addr=address, memdev="m")


def test_a_device_has_address_0_until_it_is_given_one() -> None:
    world, device = World(4 * GIB), SlottedDevice(GIB)
    assert device.get_addr() == 0
    world.memory.pre_plug(device)
    assert device.get_addr() == BASE
    assert not world.memory.devices  # which it is after plug, not before


def test_a_device_keeps_the_address_that_the_user_gave() -> None:
    world, device = World(4 * GIB), SlottedDevice(GIB, address=BASE + 2 * GIB)
    world.plug(device)
    assert device.get_addr() == BASE + 2 * GIB
    world.plug(other := SlottedDevice(3 * GIB - GIB))
    assert other.get_addr() == BASE
    for address in (
        BASE + GIB,
        BASE + 2 * GIB,
        BASE + 3 * GIB - PAGE_SIZE,
        BASE + 4 * GIB,
        PAGE_SIZE,
        BASE + 1,
    ):
        with pytest.raises(MemoryDeviceError):
            world.plug(dimm(address=address))


def test_the_devices_are_listed_by_address() -> None:
    world = World(8 * GIB)
    for name, address in (("b", BASE + 4 * GIB), ("c", BASE + 6 * GIB), ("a", 0)):
        world.plug(dimm(name, address=address))
    world.plug(EmptyDevice())
    assert [device.identity for device in world.memory.devices] == [None, "a", "b", "c"]
    assert [(info.identity, info.address) for info in world.memory.infos()[1:]] == [
        ("a", BASE),
        ("b", BASE + 4 * GIB),
        ("c", BASE + 6 * GIB),
    ]


def test_the_plugged_size_is_what_the_guest_can_use_now() -> None:
    world, device = World(4 * GIB), SlottedDevice(2 * GIB)
    world.plug(device)
    world.plug(dimm(size=GIB))
    world.plug(EmptyDevice())
    assert device.get_plugged_size() == 0
    assert world.memory.plugged_size() == GIB
    device.map_piece(1, 128 * MIB)
    assert world.memory.plugged_size() == GIB + 128 * MIB
    device.container.unmap(128 * MIB)
    assert world.memory.plugged_size() == GIB


def test_the_region_size_is_known_or_refused_with_the_devices_own_error() -> None:
    memory = World(4 * GIB).memory
    assert memory.region_size(SlottedDevice(2 * GIB)) == 2 * GIB
    assert memory.region_size(dimm(size=GIB)) == GIB
    assert memory.region_size(EmptyDevice()) == 0
    with pytest.raises(MemoryDeviceError, match=r"^'memdev' property must be set$"):
        memory.region_size(PcDimm("d0", None))


def test_optional_callbacks_have_the_defaults_of_the_interface() -> None:
    device: MemoryDevice = dimm(size=GIB)
    assert device.get_memslots() == 1
    assert device.get_min_alignment() == 1
    assert device.get_plugged_size() == GIB
    assert not device.decides_memslots
    assert EmptyDevice().get_plugged_size() == 0
    with pytest.raises(LocalProtocolError, match="cannot use 5"):
        device.decide_memslots(5)


def test_a_device_never_uses_more_slots_than_it_said() -> None:
    world, device = World(4 * GIB), SlottedDevice(GIB, slots=2)
    world.plug(device)
    device.map_piece(0, 128 * MIB)
    device.map_piece(3, 128 * MIB)
    before = world.state()
    with pytest.raises(MemoryDeviceError, match="'slotted' may use no more than 2 memory slots"):
        device.map_piece(5, 128 * MIB)
    assert world.state() == before
    device.container.unmap(0)
    device.map_piece(5, 128 * MIB)
    assert world.memory.slot_use == SlotUse(2, 2)
    assert not world.warnings


def test_slots_are_reserved_from_plug_to_unplug_and_used_while_they_are_mapped() -> None:
    consumer = Consumer(100)
    world, device = World(4 * GIB, consumer), SlottedDevice(GIB, slots=10)
    world.plug(device)
    assert (world.memory.slot_use, world.memory.reserved_memslots()) == (SlotUse(0, 10), 10)
    device.map_piece(0, 128 * MIB)
    device.map_piece(1, 128 * MIB)
    world.plug(dimm())
    assert (world.memory.slot_use, world.memory.reserved_memslots()) == (SlotUse(3, 11), 8)
    assert consumer.slots_free == 97
    world.memory.unplug(device)
    assert (world.memory.slot_use, world.memory.reserved_memslots()) == (SlotUse(1, 1), 0)
    assert consumer.slots_free == 99


def test_reserved_slots_are_left_to_the_device_that_asked_for_them() -> None:
    world, device = World(4 * GIB, Consumer(12)), SlottedDevice(GIB, slots=10)
    world.plug(device)
    world.plug(dimm("one", MIB))
    world.plug(dimm("two", MIB))
    with pytest.raises(MemoryDeviceError, match=r"^hypervisor has not enough free memory slots left$"):
        world.plug(dimm("three", MIB))
    for number in range(8):
        device.map_piece(number, 128 * MIB)
    with pytest.raises(MemoryDeviceError, match=r"^hypervisor has not enough free memory slots left$"):
        world.plug(dimm("three", MIB))


def test_a_plug_is_refused_when_any_consumer_has_too_few_slots() -> None:
    world = World(4 * GIB, Consumer(509))
    poor = Consumer(5, taken=2)
    world.memslots.add(poor, is_vhost=True)
    with pytest.raises(
        MemoryDeviceError, match=r"^a used vhost backend has not enough free memory slots left$"
    ):
        world.plug(SlottedDevice(GIB, slots=4))
    world.plug(SlottedDevice(GIB, slots=3))


def test_a_consumer_that_comes_too_late_for_what_is_plugged_is_refused() -> None:
    world = World(4 * GIB, Consumer(1000))
    world.memory.check_consumer(Consumer(0))
    fixed = SlottedDevice(GIB, slots=10)
    world.plug(fixed)
    world.plug(dimm())
    text = "vhost backend memory slots limit (10) is less than current number of used (1) and reserved (10)"
    with pytest.raises(MemoryDeviceError, match=exactly(f"{text} memory slots for memory devices.")):
        world.memory.check_consumer(Consumer(10))
    world.memory.check_consumer(Consumer(11))
    world.plug(device := SlottedDevice(GIB, is_automatic=True))
    with pytest.raises(MemoryDeviceError, match=r"^some memory device .like virtio-mem. decided how many"):
        world.memory.check_consumer(Consumer(508))
    world.memory.check_consumer(Consumer(509))
    world.memory.unplug(device)
    world.memory.check_consumer(Consumer(11))


def test_a_device_decides_on_its_slots_within_a_limit_before_it_is_asked_for_them() -> None:
    world = World(4 * GIB, Consumer(509))
    quarter, rest = SlottedDevice(GIB, is_automatic=True), SlottedDevice(3 * GIB, is_automatic=True)
    world.plug(quarter)
    assert quarter.limits == [64]
    assert world.memory.has_decided_memslots
    world.plug(rest)
    assert rest.limits == [192]
    assert world.memory.slot_use == SlotUse(0, 256)
    world.memory.unplug(quarter)
    world.memory.unplug(rest)
    assert not world.memory.has_decided_memslots
    world.plug(everything := SlottedDevice(4 * GIB, is_automatic=True))
    assert everything.limits == [256]


def test_a_decision_for_one_slot_is_no_decision_that_binds_others() -> None:
    world = World(4 * GIB, Consumer(508))
    device = SlottedDevice(GIB, is_automatic=True)
    world.plug(device)
    assert device.limits == [1]
    assert not world.memory.has_decided_memslots
    world.memory.unplug(device)
    assert world.memory.slot_use == SlotUse(0, 0)


@pytest.mark.parametrize(
    ("alignment", "address"), [(1, BASE + 2 * MIB), (GIB, BASE + GIB), (MIB, BASE + 2 * MIB)]
)
def test_the_larger_alignment_of_device_and_region_counts(alignment: int, address: int) -> None:
    world = World(4 * GIB)
    world.plug(dimm(size=PAGE_SIZE))
    device = SlottedDevice(GIB, alignment=alignment)
    device.container = type(device.container)("aligned", GIB, 2 * MIB)
    world.plug(device)
    assert device.get_addr() == address


def test_legacy_alignment_stands_in_for_all_other() -> None:
    world = World(4 * GIB)
    world.plug(dimm(size=PAGE_SIZE))
    device = SlottedDevice(GIB, alignment=GIB)
    world.memory.pre_plug(device, legacy_align=MIB)
    assert device.get_addr() == BASE + MIB
    asked = SlottedDevice(GIB, alignment=GIB, address=BASE + PAGE_SIZE)
    with pytest.raises(MemoryDeviceError, match=r"^address must be aligned to 0x100000 bytes$"):
        world.memory.pre_plug(asked, legacy_align=MIB)


def test_an_alignment_beyond_that_of_device_memory_is_warned_of() -> None:
    world = World(8 * GIB, base=BASE + GIB)
    device = SlottedDevice(GIB, alignment=4 * GIB)
    world.plug(device)
    assert device.get_addr() == BASE + 4 * GIB
    assert world.warnings == [TOO_ALIGNED]


@pytest.mark.parametrize(
    ("device", "text"),
    [
        (EmptyDevice("not yet"), "not yet"),
        (PcDimm("d", None), "'memdev' property must be set"),
        (dimm(size=4 * GIB), NO_SPACE),
        (PcDimm("d", Memory(3 * MIB, page_size=2 * MIB)), "backend memory size must be multiple of 0x200000"),
        (dimm(address=BASE + 1), "address must be aligned to 0x1000 bytes"),
        (dimm(address=BASE), "address range conflicts with memory device id='there'"),
        (dimm(address=PAGE_SIZE), OUT_OF_RANGE),
        (SlottedDevice(GIB, alignment=8 * GIB), FRAGMENTED),
        (SlottedDevice(GIB, alignment=1 << 64), "can't add memory device, device too big"),
        (SlottedDevice(GIB, slots=7), "hypervisor has not enough free memory slots left"),
    ],
)  # fmt: skip
def test_a_device_that_is_refused_changes_nothing(device: MemoryDevice, text: str) -> None:
    world = World(4 * GIB, Consumer(8), capacity=2 * GIB)
    there = SlottedDevice(GIB, identity="there", slots=4)
    world.plug(there)
    there.map_piece(0, 128 * MIB)
    before = (world.state(), device.get_addr())
    with pytest.raises(MemoryDeviceError, match=exactly(text)):
        world.memory.pre_plug(device)
    kept = [warning for warning in world.warnings if "exceeds the expected maximum" not in warning]
    world.warnings[:] = kept
    assert (world.state(), device.get_addr()) == before


def test_without_device_memory_only_devices_without_memory_can_be_plugged() -> None:
    world, empty = World(0), EmptyDevice()
    with pytest.raises(MemoryDeviceError, match=exactly(UNPREPARED)):
        world.memory.pre_plug(dimm())
    world.plug(empty)
    assert world.memory.devices == (empty,)
    assert (world.memory.plugged_size(), world.memory.slot_use) == (0, SlotUse(0, 0))
    world.memory.unplug(empty)
    assert not world.memory.devices


def test_a_device_without_memory_is_in_nobodys_way() -> None:
    world = World(GIB)
    world.plug(EmptyDevice())
    world.plug(device := dimm())
    assert device.get_addr() == BASE


def test_plug_maps_the_region_and_unplug_gives_everything_back() -> None:
    world, device = World(4 * GIB, Consumer(100)), SlottedDevice(GIB, identity="d")
    device.map_piece(0, 128 * MIB)
    before = world.state()
    world.plug(device)
    device.map_piece(2, 128 * MIB)
    assert world.log.names() == ["+piece 0", "+piece 2"]
    assert [section.address for section in world.space.sections] == [BASE, BASE + 256 * MIB]
    assert world.memory.used_bytes == GIB
    world.memory.unplug(device)
    assert world.log.names()[2:] == ["-piece 2", "-piece 0"]
    world.log.heard.clear()
    assert world.state() == before
    world.plug(other := dimm(address=BASE))
    assert other.get_addr() == BASE
    device.map_piece(7, 128 * MIB)  # nobody looks any more
    assert world.log.names() == ["+dimm"]


def test_a_device_covers_all_of_its_region_whatever_pieces_of_it_are_mapped() -> None:
    world, device = World(5 * GIB), SlottedDevice(4 * GIB, slots=4, address=BASE)
    world.plug(device)
    for number in (0, 3):
        device.map_piece(number, GIB)
    between = dimm("between", address=BASE + 2 * GIB)
    with pytest.raises(MemoryDeviceError, match="conflicts"):
        world.plug(between)
    world.plug(beside := dimm("beside"))
    assert beside.get_addr() == BASE + 4 * GIB
    assert [(section.address, section.size) for section in world.space.sections] == [
        (BASE, GIB),
        (BASE + 3 * GIB, GIB),
        (BASE + 4 * GIB, GIB),
    ]


def test_a_device_is_plugged_once_and_unplugged_once() -> None:
    world, device = World(4 * GIB), dimm()
    world.plug(device)
    with pytest.raises(LocalProtocolError, match="plugged already"):
        world.memory.plug(device)
    world.memory.unplug(device)
    with pytest.raises(LocalProtocolError, match="is not plugged"):
        world.memory.unplug(device)


def test_a_device_that_uses_more_slots_than_it_said_is_warned_of() -> None:
    world, device = World(4 * GIB), SlottedDevice(GIB, claimed=1)
    for number in range(3):
        device.map_piece(number, 128 * MIB)
    world.plug(device)
    assert world.warnings == [TOO_MANY] * 2  # the second and the third
    assert (world.memory.slot_use, world.memory.reserved_memslots()) == (SlotUse(3, 1), 0)
    device.container.unmap(2 * 128 * MIB)
    assert world.warnings == [TOO_MANY] * 3  # there are still two
    device.container.unmap(128 * MIB)
    assert world.warnings == [TOO_MANY] * 3


def test_memory_of_no_device_uses_slots_of_device_memory_that_no_device_required() -> None:
    world, device = World(4 * GIB), SlottedDevice(GIB, address=BASE)
    stray = RamRegion("stray", Memory(MIB), 0, MIB)
    world.space.map(RamRegion("boot", Memory(GIB), 0, GIB), 0)
    assert not world.warnings
    world.space.map(stray, BASE)
    assert world.warnings == [TOO_MANY]
    assert (world.memory.slot_use, world.memory.reserved_memslots()) == (SlotUse(1, 0), 0)
    world.memory.pre_plug(device)
    before = world.state()
    with pytest.raises(MemoryDeviceError, match="would overlap 'stray'"):
        world.memory.plug(device)
    assert world.state() == before
    assert device.container.slots_max is None
    world.space.unmap(stray)
    assert world.warnings == [TOO_MANY]
    assert world.memory.slot_use == SlotUse(0, 0)
    world.plug(device)


def test_hv_balloons_memory_is_listed_with_qemus_members_and_its_size_now() -> None:
    info = DeviceInfo(
        kind="hv-balloon", identity="b", address=BASE, size=0, max_size=GIB, memdev="/objects/m"
    )
    assert info.to_json() == {
        "type": "hv-balloon",
        "data": {"id": "b", "memaddr": BASE, "size": 0, "max-size": GIB, "memdev": "/objects/m"},
    }
    assert DeviceInfo(kind="hv-balloon", max_size=0).to_json() == {
        "type": "hv-balloon",
        "data": {"max-size": 0},
    }
