"""Device memory against a plain model: devices come and go, and what they map with them."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from tests.space.devices import BASE, Consumer, Memory, SlottedDevice, World

from dynmem.space.dimm import PcDimm
from dynmem.space.memory_device import MemoryDevice
from dynmem.space.memslots import SlotUse
from dynmem.space.region import MemoryDeviceError
from dynmem.units import MIB

UNITS = 24  # of device memory, each of a MiB
CAPACITY = 20  # of them that may be plugged at once
SLOTS = 12  # of the consumer


@dataclass
class Model:
    """What is plugged, in units: everything is counted anew each time it is asked for."""

    begin: dict[int, int] = field(default_factory=dict)  # of each device, by its number
    size: dict[int, int] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)
    pieces: dict[int, set[int]] = field(
        default_factory=dict
    )  # that are mapped, of one unit each; {-1}: all in one

    def used(self) -> int:
        return sum(len(mapped) for mapped in self.pieces.values())

    def required(self) -> int:
        return sum(self.slots.values())

    def place(self, hint: int | None, size: int, slots: int, alignment: int) -> int | None:
        """Where a device goes, or None."""
        if SLOTS - self.used() < slots + self.required() - self.used():
            return None
        if sum(self.size.values()) + size > CAPACITY:
            return None
        held = {
            unit for number, begin in self.begin.items() for unit in range(begin, begin + self.size[number])
        }
        for unit in range(UNITS - size + 1) if hint is None else [hint]:
            fits = unit % alignment == 0 and unit + size <= UNITS
            if fits and not held.intersection(range(unit, unit + size)):
                return unit
        return None


def device_of(
    is_dimm: bool, number: int, size: int, slots: int, hint: int | None, alignment: int
) -> MemoryDevice:
    address = 0 if hint is None else BASE + hint * MIB
    if is_dimm:
        return PcDimm(f"d{number}", Memory(size * MIB), addr=address)
    return SlottedDevice(
        size * MIB, slots=slots, address=address, identity=f"d{number}", alignment=alignment * MIB
    )


STEPS = st.one_of(
    st.tuples(
        st.just("plug"),
        st.booleans(),
        st.integers(1, 9),
        st.integers(1, 5),
        st.none() | st.integers(0, UNITS),
        st.sampled_from([1, 1, 2, 4]),
    ),
    st.tuples(st.sampled_from(["unplug", "map", "map", "unmap"]), st.integers(0, 7), st.integers(0, 8)),
)


def compare(world: World, model: Model, devices: dict[int, MemoryDevice]) -> None:
    sections = [
        (BASE + (model.begin[number] + max(piece, 0)) * MIB, (model.size[number] if piece < 0 else 1) * MIB)
        for number, mapped in model.pieces.items()
        for piece in mapped
    ]
    assert [(section.address, section.size) for section in world.space.sections] == sorted(sections)
    assert world.memory.slot_use == SlotUse(model.used(), model.required())
    assert world.memory.reserved_memslots() == model.required() - model.used()
    assert world.memory.used_bytes == sum(model.size.values()) * MIB
    assert world.memory.plugged_size() == sum(size for _, size in sections)
    assert [device.identity for device in world.memory.devices] == [
        f"d{number}" for number in sorted(model.begin, key=model.begin.__getitem__)
    ]
    assert world.memslots.slots_free == SLOTS - len(sections)
    assert all(device.get_addr() == BASE + model.begin[number] * MIB for number, device in devices.items())
    assert not world.warnings


@given(st.lists(STEPS, max_size=25))
def test_whatever_comes_and_goes_the_books_are_those_of_a_plain_model(
    steps: list[tuple[object, ...]],
) -> None:
    world, model = World(UNITS * MIB, Consumer(SLOTS), capacity=CAPACITY * MIB), Model()
    devices: dict[int, MemoryDevice] = {}
    for number, step in enumerate(steps):
        before = world.state()
        match step:
            case ("plug", bool(is_dimm), int(size), int(slots), hint, int(alignment)):
                assert hint is None or isinstance(hint, int)
                slots, alignment = (1, 1) if is_dimm else (slots, alignment)
                device = device_of(is_dimm, number, size, slots, hint, alignment)
                place = model.place(hint, size, slots, alignment)
                try:
                    world.plug(device)
                except MemoryDeviceError:
                    assert place is None
                    assert device.get_addr() == (0 if hint is None else BASE + hint * MIB)
                    assert world.state() == before
                    continue
                assert place is not None
                devices[number] = device
                model.begin[number], model.size[number], model.slots[number] = place, size, slots
                model.pieces[number] = {-1} if is_dimm else set()
            case (str(what), int(index), int(piece)) if devices:
                chosen = list(devices)[index % len(devices)]
                change(what, devices, chosen, piece, model, world)
        compare(world, model, devices)


def change(
    what: str, devices: dict[int, MemoryDevice], number: int, piece: int, model: Model, world: World
) -> None:
    """Unplug a device, or map or unmap one piece of it, in the world and in the model."""
    device = devices[number]
    if what == "unplug":
        world.memory.unplug(devices.pop(number))
        for table in (model.begin, model.size, model.slots, model.pieces):
            del table[number]
        return
    if not isinstance(device, SlottedDevice):
        return
    mapped = model.pieces[number]
    is_fine = (
        piece in mapped
        if what == "unmap"
        else piece < model.size[number] and piece not in mapped and len(mapped) < model.slots[number]
    )
    try:
        if what == "unmap":
            device.container.unmap(piece * MIB)
        else:
            device.map_piece(piece, MIB)
    except MemoryDeviceError:
        assert not is_fine
    else:
        assert is_fine
        mapped.symmetric_difference_update({piece})
