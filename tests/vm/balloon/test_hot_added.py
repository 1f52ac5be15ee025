"""Memory beyond the boot size: a device whose slots come and go with what the guest has of it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.rigs.added_memory import BASE, FIRST, SIZE, UNIT, AddingRig, Discards, Plugged
from tests.rigs.balloon_device import CAPS
from tests.rigs.memory import memory_of
from tests.rigs.pages import packed
from tests.rigs.scenes import plays

from dynmem.dm.events import HotRemoveFinished
from dynmem.errors import ConfigError
from dynmem.memory.backend import Backend, MemfdBackend
from dynmem.memory.discard import Discarder
from dynmem.space.region import MemoryDeviceError
from dynmem.trace_events import NO_TRACE, Trace, matching
from dynmem.units import GIB, MIB, PAGE_SHIFT, PAGE_SIZE
from dynmem.vm.balloon.discards import StartDiscard
from dynmem.vm.balloon.memory_device import ALIGNMENT, check_address, check_memdev
from dynmem.vm.embedded.slots import SlotMap
from dynmem.vm.faults import Faults
from dynmem.vm.guest_memory import MappedMemory
from dynmem.vm.memory_map import MachineMemory
from dynmem.vm.options import machine as options
from dynmem.vm.options import memory as memory_options
from dynmem.vm.options.memory import parse_memory
from dynmem.wire import dm

SLOT = 128 * MIB
ALIGNED_TO_128_MIB = dm.CAP_BALLOON | dm.CAP_HOT_ADD | dm.CAP_HOT_REMOVE | 7 << dm.HOT_ADD_ALIGNMENT_SHIFT


def rig_of(
    size: int = 4 * SLOT, caps: int = CAPS, *, startup_last: bool = False, **options: object
) -> AddingRig:
    plugged = Plugged(size, **options)  # type: ignore[arg-type]
    return AddingRig(plugged, Discards(), caps=caps, startup_last=startup_last)


@plays
async def test_a_guest_grows_past_its_boot_size_and_sees_slots_only_where_it_has_memory() -> None:
    rig = rig_of()
    assert rig.plugged.slots == []
    assert rig.grow(SIZE + 10 * MIB) == [(0, 10 * UNIT)]
    assert rig.device.actual_bytes == SIZE + 10 * MIB
    assert rig.plugged.slots == [(0, SLOT)]
    assert rig.grow(SIZE + SLOT + MIB) == [(10 * UNIT, 119 * UNIT)]
    assert rig.plugged.slots == [(0, SLOT), (SLOT, SLOT)]
    assert rig.plugged.devices.plugged_size() == SLOT + MIB
    assert rig.plugged.memory.device_info().to_json() == {
        "type": "hv-balloon",
        "data": {"id": "b", "memaddr": BASE, "size": SLOT + MIB, "max-size": 4 * SLOT},
    }


@plays
async def test_the_balloon_is_emptied_before_memory_is_added() -> None:
    rig = rig_of()
    rig.shrink(24, (1000, 24))
    rig.discards.finish()
    heard = rig.ask(SIZE + MIB)
    assert heard == [dm.UnballoonRequest(1, more_pages=False, ranges=packed((1000, 24)))]
    rig.say(dm.UnballoonResponse(9))
    assert rig.turn() == [dm.HotAddRequest(2, FIRST | UNIT << 40, FIRST | UNIT << 40)]


@plays
async def test_a_hot_add_keeps_to_the_guests_alignment_and_to_two_gigabytes_a_message() -> None:
    rig = rig_of(8 * GIB, ALIGNED_TO_128_MIB)
    block = SLOT >> PAGE_SHIFT
    assert rig.grow(SIZE + SLOT - PAGE_SIZE) == []  # less than a block
    assert rig.grow(SIZE + SLOT + MIB) == [(0, block)]
    chunk = 2 * GIB >> PAGE_SHIFT
    added = rig.grow(SIZE + 5 * GIB)
    assert added == [(block, chunk), (block + chunk, chunk), (block + 2 * chunk, 7 * block)]
    assert all(start % block == 0 and count % block == 0 for start, count in added)


@plays
async def test_a_guest_that_wants_the_largest_alignment_gets_it() -> None:
    caps = dm.CAP_BALLOON | dm.CAP_HOT_ADD | 15 << dm.HOT_ADD_ALIGNMENT_SHIFT
    rig = rig_of(64 * GIB, caps)
    assert rig.grow(SIZE + 33 * GIB) == [(0, 32 * GIB >> PAGE_SHIFT)]
    assert rig.plugged.memory.get_addr() % ALIGNMENT == 0


@plays
async def test_nothing_is_offered_before_the_guest_has_the_slots() -> None:
    rig = rig_of()
    rig.plugged.is_ready = False
    assert rig.ask(SIZE + MIB) == []
    assert rig.turn() == []
    assert rig.plugged.slots == [(0, SLOT)]
    rig.plugged.is_ready = True
    assert len(rig.turn()) == 1
    assert set(rig.plugged.asked) == {(0, MIB)}


@plays
async def test_memory_that_was_added_is_given_up_in_single_pages_and_comes_back() -> None:
    rig = rig_of()
    rig.grow(SIZE + 2 * MIB)
    rig.shrink(3, (FIRST + 7, 1), (FIRST + 9, 1), (FIRST + 511, 1))
    assert rig.device.actual_bytes == SIZE + 2 * MIB - 3 * PAGE_SIZE
    (backend, ranges, _) = rig.discards.open[0]
    assert backend is rig.plugged.backend
    assert ranges == packed((7, 1), (9, 1), (511, 1))  # the backend's own pages
    rig.discards.finish()
    (back,) = rig.ask(SIZE + 2 * MIB)
    assert isinstance(back, dm.UnballoonRequest)
    assert back.ranges == packed((FIRST + 7, 1), (FIRST + 9, 1), (FIRST + 511, 1))
    assert rig.plugged.memory.added_bytes == 2 * MIB  # ballooned or not


@plays
async def test_boot_memory_comes_back_before_added_memory() -> None:
    rig = rig_of()
    rig.grow(SIZE + MIB)
    rig.shrink(3, (FIRST, 2), (5000, 1))
    rig.discards.finish()
    rig.discards.finish()
    (back,) = rig.ask(rig.device.actual_bytes + 2 * PAGE_SIZE)
    assert isinstance(back, dm.UnballoonRequest)
    assert back.ranges == packed((5000, 1), (FIRST, 1))


@plays
async def test_pages_where_no_memory_was_added_yet_count_for_nothing_and_confuse_nothing_later() -> None:
    rig = rig_of()
    rig.shrink(316, (FIRST, 16), (FIRST + UNIT, 300))
    assert (rig.device.pages.removed_pages, rig.discards.open) == (0, [])
    assert rig.grow(SIZE + MIB) == [(0, UNIT)]  # and the guest has all of it
    assert rig.device.actual_bytes == SIZE + MIB
    rig.shrink(300, (FIRST + UNIT - 4, 300))
    assert rig.device.pages.removed_pages == 4
    rig.device.take_events()
    assert rig.faults.counts["anomaly"] == 2


@plays
async def test_a_partial_add_is_counted_to_the_page_and_no_more_is_asked_for() -> None:
    rig = rig_of()
    rig.ask(SIZE + 4 * MIB)
    rig.say(dm.HotAddResponse(9, UNIT + 44, 1))
    assert rig.turn() == []
    assert rig.device.actual_bytes == SIZE + (UNIT + 44) * PAGE_SIZE
    assert rig.grow(SIZE + 5 * MIB) == []
    rig.shrink(9, (FIRST + UNIT + 40, 4))
    assert rig.device.pages.removed_pages == 4
    rig.shrink(9, (FIRST + UNIT + 40, 6))  # two of them the guest never took
    assert rig.device.pages.removed_pages == 4


@plays
async def test_an_add_that_fails_leaves_no_slot_behind_and_is_tried_again_when_that_may_help() -> None:
    rig = rig_of()
    rig.ask(SIZE + 4 * MIB)
    rig.say(dm.HotAddResponse(9, 0, 0))  # short of resources
    assert rig.turn() == []
    assert rig.plugged.slots == []
    assert rig.plugged.consumer.seen == [("map", 0, SLOT), ("unmap", 0, SLOT)]
    deadline = rig.device.deadline_ns()
    assert deadline is not None
    rig.now = deadline
    assert len(rig.turn()) == 1
    assert rig.plugged.slots == [(0, SLOT)]


@plays
async def test_no_more_is_added_than_there_is() -> None:
    rig = rig_of(4 * MIB)
    assert rig.grow(SIZE + 100 * MIB) == [(0, 4 * UNIT)]
    assert rig.grow(SIZE + 100 * MIB) == []
    assert rig.device.actual_bytes == SIZE + 4 * MIB


@plays
async def test_a_guest_is_told_the_most_memory_that_it_will_have_and_no_page_above_its_last_is_added() -> (
    None
):
    rig = rig_of()
    assert rig.device.host.capabilities is not None
    memory = rig.plugged.memory
    assert memory.reserve(4 * UNIT, UNIT, FIRST + 2 * UNIT) == (FIRST, 2 * UNIT)
    memory.cancel()
    assert memory.reserve(4 * UNIT, UNIT, FIRST) is None


@plays
async def test_what_a_guest_gives_back_for_good_is_discarded_and_its_slot_goes_with_the_last_of_it() -> None:
    rig = rig_of()
    rig.grow(SIZE + 2 * SLOT)
    rig.remove(SLOT >> PAGE_SHIFT, (0, UNIT + 10))
    assert rig.device.actual_bytes == SIZE + 2 * SLOT - (UNIT + 10) * PAGE_SIZE
    assert rig.plugged.slots == [(0, SLOT), (SLOT, SLOT)]
    assert rig.discards.finish() == packed((0, UNIT + 10))
    rig.turn()
    rig.remove(SLOT >> PAGE_SHIFT, (UNIT + 10, 127 * UNIT - 10))
    assert rig.plugged.slots == [(SLOT, SLOT)]
    assert rig.plugged.memory.added_bytes == SLOT


@plays
async def test_memory_that_is_free_again_is_added_again_when_it_has_been_discarded() -> None:
    rig = rig_of()
    rig.grow(SIZE + SLOT)
    rig.remove(UNIT, (3 * UNIT, UNIT))
    assert rig.ask(SIZE + SLOT) == []  # still being discarded
    rig.discards.finish()
    (offer,) = rig.turn()
    assert isinstance(offer, dm.HotAddRequest)
    assert offer.range == FIRST + 3 * UNIT | UNIT << 40


@plays
async def test_pages_in_the_balloon_or_gone_already_are_not_given_back_for_good() -> None:
    rig = rig_of()
    rig.grow(SIZE + 2 * MIB)
    rig.shrink(1, (FIRST + 7, 1))
    rig.discards.finish()
    rig.turn()
    rig.remove(8, (6, 2))
    rig.remove(8, (2 * UNIT, 1), (5000000, 3))
    assert rig.plugged.memory.added_bytes == 2 * MIB
    rig.remove(8, (8, 2))
    rig.discards.finish()
    rig.turn()
    rig.remove(8, (9, 2))  # one of them is gone
    assert rig.plugged.memory.added_bytes == 2 * MIB - 2 * PAGE_SIZE
    rig.shrink(2, (FIRST + 8, 1))  # what is gone is not given up
    assert rig.device.pages.removed_pages == 1
    rig.device.take_events()
    assert rig.faults.counts["anomaly"] == 4


def removals(rig: AddingRig) -> list[tuple[int, int]]:
    """The hot removes that are over: pages asked for, pages that came."""
    return [(e.asked, e.got) for e in rig.device.take_events() if isinstance(e, HotRemoveFinished)]


@plays
async def test_how_a_hot_remove_ended_is_told_also_when_the_guest_goes_away_in_the_midst_of_it() -> None:
    rig = rig_of()
    rig.grow(SIZE + SLOT)
    rig.remove(UNIT, (3 * UNIT, UNIT))
    rig.remove(UNIT)  # nothing
    assert removals(rig) == [(UNIT, UNIT), (UNIT, 0)]
    rig.remove(1, (5 * UNIT, 1))  # over, and not told of yet
    assert rig.device.hot_remove(8)
    assert len(rig.turn()) == 1
    words = (FIRST | 3 << 40).to_bytes(8, "little")
    rig.say(dm.HotRemoveResponse(9, 1, more_pages=True, ranges=words))
    assert rig.device.hot_remove(9)  # waits
    assert not rig.device.hot_remove(10)
    rig.disconnect()
    assert removals(rig) == [(1, 1), (8, 3), (9, 0)]
    await rig.reset()
    assert removals(rig) == []


@plays
async def test_after_a_reset_the_guest_has_its_boot_size_and_added_memory_is_free() -> None:
    rig = rig_of()
    rig.grow(SIZE + 2 * SLOT)
    rig.shrink(2, (FIRST + 7, 1), (4000, 1))
    assert await rig.reset() == []  # the target was the former guest's
    assert rig.device.pages.removed_pages == 0
    assert rig.device.actual_bytes == SIZE
    assert rig.plugged.devices.plugged_size() == 0
    (offer,) = rig.ask(SIZE + 2 * SLOT)
    assert isinstance(offer, dm.HotAddRequest)
    assert offer.range & (1 << 40) - 1 == FIRST
    assert rig.plugged.consumer.seen[2:4] == [("unmap", 0, SLOT), ("unmap", SLOT, SLOT)]


def test_slots_are_as_many_as_the_machine_has_left_and_of_steps_of_128_mib() -> None:
    assert Plugged(8 * GIB).memory.get_memslots() == 64
    assert Plugged(64 * GIB).memory.get_memslots() == 256  # of 256 MiB
    assert Plugged(8 * GIB, slots_max=100).memory.get_memslots() == 1  # too few to decide
    half = Plugged(8 * GIB, room=256 * GIB)
    assert half.memory.get_memslots() == 8  # its share of the 256
    odd = Plugged(SLOT + MIB)
    assert odd.memory.get_memslots() == 2


@plays
async def test_a_single_slot_shows_all_of_the_memory_and_the_last_of_several_what_is_left() -> None:
    rig = AddingRig(Plugged(3 * SLOT, slots_max=100), Discards())
    rig.grow(SIZE + MIB)
    assert rig.plugged.slots == [(0, 3 * SLOT)]
    rig = rig_of(SLOT + 5 * MIB)
    rig.grow(SIZE + SLOT + 5 * MIB)
    assert rig.plugged.slots == [(0, SLOT), (SLOT, 5 * MIB)]
    assert rig.plugged.warnings == []


@plays
async def test_slots_and_our_range_are_traced_as_qemu_does() -> None:
    lines: list[str] = []
    patterns = ["hv_balloon_our_range_add", "hv_balloon_map_slot", "hv_balloon_unmap_slot"]
    trace = Trace(matching(patterns), lambda name, text: lines.append(text))
    rig = rig_of(trace=trace)
    rig.grow(SIZE + SLOT + MIB)
    assert lines == [
        f"adding our range {4 * SLOT >> PAGE_SHIFT} @ 0x800000",
        "mapping memslot 0 / 4 @ 0x0",
        "mapping memslot 1 / 4 @ 0x8000000",
    ]
    lines.clear()
    rig.grow(SIZE + SLOT + 2 * MIB)
    assert lines == []
    await rig.reset()
    assert lines[:2] == ["unmapping memslot 0 / 4 @ 0x0", "unmapping memslot 1 / 4 @ 0x8000000"]


def test_a_backend_in_use_or_of_odd_size_and_an_address_without_one_are_refused_in_qemus_words() -> None:
    with MemfdBackend(MIB) as backend:
        check_memdev("m0", backend, is_busy=False)
        check_address(0)
        with pytest.raises(MemoryDeviceError, match=r"^'memdev' property specifies a busy memdev: m0$"):
            check_memdev("m0", backend, is_busy=True)
        with pytest.raises(MemoryDeviceError, match=r"^'memdev' property must not be set without a memdev$"):
            check_address(BASE)


def refusal(memory: str, device: str, *objects: str) -> str:
    """Why a machine's hv-balloon gets no memory."""
    balloon, _ = options.parse_devices((device,))
    said = options.VmOptions(
        "t", parse_memory(memory), objects=memory_options.parse_objects(objects), balloon=balloon
    )
    machine = MachineMemory(said, MappedMemory(), SlotMap(Faults(lambda: 0)))
    try:
        with pytest.raises(ConfigError) as refused:
            machine.plug_hot_added(said, NO_TRACE)
    finally:
        machine.close()
    return str(refused.value).partition(": ")[2]


def test_a_machine_refuses_an_hv_balloon_that_its_memory_does_not_fit() -> None:
    mine = "memory-backend-memfd,id=m,size="
    assert refusal("64M", "hv-balloon,addr=0x800000000") == (
        "'memdev' property must not be set without a memdev"
    )
    assert refusal("64M,maxmem=1G", "hv-balloon,memdev=m").startswith("there is no object 'm' (")
    assert refusal("64M", "hv-balloon,memdev=m", mine + "1M").startswith(
        "the configuration is not prepared for memory devices"
    )
    assert refusal("64M,maxmem=1G", "hv-balloon,memdev=m", mine + "2G").startswith("not enough space")
    assert refusal("64M,maxmem=1G", "hv-balloon,memdev=m,addr=0x900000000", mine + "1M") == (
        "address must be aligned to 0x800000000 bytes"
    )


@plays
async def test_with_startup_last_the_next_guest_starts_with_the_size_before_in_whole_slots() -> None:
    rig = rig_of(startup_last=True)
    rig.grow(SIZE + 3 * SLOT)
    rig.shrink(SLOT + 5 * MIB >> PAGE_SHIFT, (FIRST, SLOT + 5 * MIB >> PAGE_SHIFT))
    await rig.reset()
    assert rig.plugged.slots == [(0, SLOT), (SLOT, SLOT)]  # 2 slots less 5 MiB, rounded up
    assert rig.device.actual_bytes == SIZE + 2 * SLOT
    assert rig.plugged.memory.added_bytes == 2 * SLOT
    rig.shrink(1, (FIRST + 9, 1))  # all of it is the guest's
    assert rig.device.pages.removed_pages == 1


@plays
async def test_with_startup_last_a_guest_at_its_boot_size_keeps_nothing_that_was_added() -> None:
    rig = rig_of(startup_last=True)
    rig.grow(SIZE + SLOT)
    rig.shrink(SLOT >> PAGE_SHIFT, (FIRST, SLOT >> PAGE_SHIFT))
    await rig.reset()
    assert rig.plugged.slots == []


@plays
async def test_what_waited_to_be_discarded_at_a_reset_is_not_discarded_from_the_next_guest() -> None:
    rig = rig_of(startup_last=True)
    rig.grow(SIZE + 3 * MIB)
    rig.remove(UNIT, (0, 100))
    assert len(rig.discards.open) == 1
    rig.remove(UNIT, (200, 10))  # waits for the first
    assert len(rig.discards.open) == 1
    await rig.reset()
    rig.turn()
    assert rig.plugged.slots == [(0, SLOT)]
    assert rig.discards.open == []


@plays
async def test_a_dimm_that_leaves_takes_pages_out_of_an_offer_that_found_no_room() -> None:
    rig = rig_of()
    dimm_at = 2 * FIRST
    rig.device.memory_plugged(dimm_at, memory_of(rig, MIB))
    assert rig.device.actual_bytes == SIZE + MIB
    rig.shrink(20, (100, 4), (dimm_at, 16))
    while rig.discards.open:
        rig.discards.finish()
    rig.tick()
    rig.device.set_target(SIZE + MIB)
    assert rig.device.host.next_message() is not None  # taken, not sent
    await rig.device.memory_unplugged(dimm_at)
    assert rig.device.actual_bytes == SIZE - 4 * PAGE_SIZE
    (back,) = rig.turn()
    assert isinstance(back, dm.UnballoonRequest)
    assert back.ranges == packed((100, 4))
    assert rig.device.actual_bytes == SIZE


@plays
async def test_the_hosts_memory_follows_the_guests_size_up_and_down_and_back_to_nothing_at_a_reset() -> None:
    plugged = Plugged(2 * SLOT)
    worker = ThreadPoolExecutor(1)

    def discarding(backend: Backend) -> StartDiscard:
        discard = Discarder(backend).discard
        return lambda ranges: asyncio.get_running_loop().run_in_executor(worker, discard, ranges)

    rig = AddingRig(plugged, discarding)
    rig.grow(SIZE + 16 * MIB)
    plugged.backend.view[: 16 * MIB] = b"x" * 16 * MIB
    assert plugged.backend.resident_bytes() == 16 * MIB
    rig.shrink(2049, (FIRST + 512, 2048), (FIRST + 5, 1))  # 8 MiB in blocks, and a single page
    await rig.device.settled()
    rig.turn()
    await rig.device.settled()
    assert plugged.backend.resident_bytes() == 8 * MIB - PAGE_SIZE
    rig.remove(1024, (3072, 1024))
    await rig.device.settled()
    assert plugged.backend.resident_bytes() == 4 * MIB - PAGE_SIZE
    assert bytes(plugged.backend.view[4 * PAGE_SIZE : 7 * PAGE_SIZE : PAGE_SIZE]) == b"x\0x"
    rig.disconnect()
    await rig.device.reset()
    assert plugged.backend.resident_bytes() == 0
    worker.shutdown()
