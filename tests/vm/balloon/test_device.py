"""The device between bus and memory: what is being discarded is nobody's until that is done."""

import asyncio
import struct
from typing import Any

import pytest
from tests.rigs.balloon_device import SIZE, Discards, Rig
from tests.rigs.pages import packed
from tests.rigs.scenes import play, plays

from dynmem.limits import DM_REPLIES_PENDING
from dynmem.memory.discard import DiscardError
from dynmem.trace_events import Trace, matching
from dynmem.units import NS_PER_S, PAGE_SIZE
from dynmem.wire import dm

SPANS = ((1000, 16), (2000, 8))
RANGES = packed(*SPANS)


def shrunk(discards: Discards, **options: Any) -> Rig:
    """A guest that has just given up 24 pages."""
    rig = Rig(discards, **options)
    assert rig.ask(SIZE - 24 * PAGE_SIZE) == [dm.BalloonRequest(0, 24)]
    rig.give(*SPANS)
    return rig


@plays
async def test_no_page_goes_back_to_the_guest_while_it_is_being_discarded() -> None:
    discards = Discards()
    rig = shrunk(discards)
    assert rig.turn() == []
    assert [ranges for _, ranges, _ in discards.open] == [RANGES]
    assert rig.ask(SIZE) == []
    assert rig.device.actual_bytes == SIZE - 24 * PAGE_SIZE
    woken = rig.woken
    discards.finish()
    await asyncio.sleep(0)
    assert rig.woken == woken + 1
    assert rig.turn() == [dm.UnballoonRequest(1, more_pages=False, ranges=RANGES)]
    assert rig.device.actual_bytes == SIZE


@plays
async def test_the_guest_is_heard_and_asked_for_more_while_a_discard_goes_on() -> None:
    discards = Discards()
    rig = shrunk(discards)
    rig.turn()
    assert rig.ask(SIZE - 32 * PAGE_SIZE) == [dm.BalloonRequest(1, 8)]
    rig.give((5000, 8))
    rig.say(dm.StatusReport(7, 5, 6, 0, 0, 0, 0))
    assert rig.device.status is not None
    rig.turn()
    assert len(discards.open) == 1  # one at a time
    discards.finish()
    rig.turn()
    assert discards.finish() == packed((5000, 8))


@plays
async def test_what_is_only_held_back_goes_back_to_the_guest_undiscarded() -> None:
    discards = Discards()
    rig = Rig(discards)
    rig.ask(SIZE - 600 * PAGE_SIZE)
    rig.give((1000, 16), more=True)
    rig.turn()
    assert discards.open == []  # more may come: a block as a whole is discarded faster
    deadline = rig.device.deadline_ns()
    assert deadline is not None
    assert deadline < NS_PER_S
    rig.device.set_target(SIZE)
    rig.give((2000, 8))
    assert rig.turn() == [dm.UnballoonRequest(1, more_pages=False, ranges=RANGES)]
    assert discards.open == []


@plays
async def test_what_is_held_back_is_discarded_when_its_time_has_come() -> None:
    discards = Discards()
    rig = Rig(discards)
    rig.ask(SIZE - 600 * PAGE_SIZE)
    rig.give((1000, 16), more=True)
    rig.turn()
    deadline = rig.device.deadline_ns()
    assert deadline is not None
    rig.now = deadline
    rig.turn()
    assert discards.finish() == packed((1000, 16))
    assert rig.device.deadline_ns() != deadline


@plays
async def test_nothing_wakes_the_machine_over_and_over_for_pages_that_wait_to_go_back() -> None:
    discards = Discards()
    rig = shrunk(discards)
    rig.turn()
    rig.ask(SIZE - 32 * PAGE_SIZE)
    rig.give((5000, 8))
    rig.ask(SIZE)  # 8 pages are held back, and 24 in flight
    deadline = rig.device.deadline_ns()
    assert deadline is not None
    assert deadline > rig.now  # the guest's silence, nothing of ours


@plays
async def test_a_discard_that_the_system_refuses_is_noted_and_the_pages_stay_given_up() -> None:
    discards = Discards()
    rig = shrunk(discards)
    rig.turn()
    discards.finish(DiscardError("no", 1, 0))
    rig.turn()
    assert rig.faults.counts == {"discard failed": 1}
    assert rig.device.actual_bytes == SIZE - 24 * PAGE_SIZE
    assert (rig.device.pages.removed_guest_pages, rig.device.pages.removed_pages) == (24, 24)


@plays
async def test_pages_that_were_not_discarded_go_back_to_the_guest_first() -> None:
    discards = Discards()
    rig = shrunk(discards)
    rig.turn()
    discards.finish()
    rig.ask(SIZE - 32 * PAGE_SIZE)
    rig.give((5000, 8))
    rig.turn()
    discards.finish(DiscardError("no", 1, 0))
    rig.turn()
    assert (rig.device.pages.removed_guest_pages, rig.device.pages.removed_pages) == (8, 32)
    (asked,) = rig.ask(SIZE - 20 * PAGE_SIZE)
    assert asked == dm.UnballoonRequest(2, more_pages=False, ranges=packed((5000, 8), (1000, 4)))
    assert (rig.device.pages.removed_guest_pages, rig.device.pages.removed_pages) == (0, 20)


@plays
async def test_a_page_given_up_twice_counts_once_and_what_lies_outside_memory_counts_for_nothing() -> None:
    rig = Rig(Discards())
    rig.ask(SIZE - 24 * PAGE_SIZE)
    last = SIZE // PAGE_SIZE
    rig.give((1000, 10), (1005, 10), (last - 1, 2), (1 << 39, 1 << 20), (7, 0))
    assert rig.device.pages.removed_pages == 16
    assert rig.device.actual_bytes == SIZE - 16 * PAGE_SIZE
    rig.device.take_events()
    assert rig.faults.counts == {"anomaly": 2}


@plays
async def test_what_the_guest_gives_up_is_traced_range_by_range_as_qemu_does() -> None:
    lines: list[str] = []
    discards = Discards()
    trace = Trace(matching(["hv_balloon_remove*"]), lambda name, text: lines.append(text))
    rig = shrunk(discards, trace=trace)
    assert lines == [
        "processing remove response range 16 @ 0x3e8, both 1",
        "remove response remaining range 16 @ 0x3e8, both 1",
        "processing remove response range 8 @ 0x7d0, both 1",
        "remove response remaining range 8 @ 0x7d0, both 1",
    ]
    rig.turn()
    discards.finish()
    rig.tick()
    lines.clear()
    rig.device.set_target(SIZE)
    assert rig.device.host.next_message() is not None
    rig.device.closed()  # what was to be given back is given up still, and no guest said so
    assert (rig.device.pages.removed_pages, lines) == (24, [])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<HHI", 15, 8, 1),
        struct.pack("<HHI", 7, 8, 1) + bytes(16),
        struct.pack("<HHI", 7, 4096, 1) + bytes(16),
        struct.pack("<HHIIIQ", 7, 24, 1, 0, 2 << 1, 1 << 40),
        struct.pack("<HHI", 5, 24, 1) + bytes(40),
        dm.encode(dm.StatusReport(1, (1 << 64) - 1, 5, 0, 0, 0, 0)),
        dm.encode(dm.BalloonRequest(1, 5)),
    ],
    ids=[
        "empty",
        "unknown",
        "too-short",
        "longer-than-its-packet",
        "too-short-for-its-ranges",
        "a-short-status",
        "an-impossible-status",
        "a-hosts",
    ],
)
def test_a_message_that_is_none_is_counted_and_costs_the_guest_nothing_else(data: bytes) -> None:
    async def scene() -> None:
        rig = Rig(Discards())
        rig.ask(SIZE - 24 * PAGE_SIZE)
        for number in (1, 2):
            assert rig.channel.send(data)
            assert rig.device.receive()
            assert rig.faults.counts == {"malformed message": number}
        assert not rig.channel_is_broken()
        rig.give(*SPANS)
        assert rig.device.actual_bytes == SIZE - 24 * PAGE_SIZE

    play(scene())


@plays
async def test_a_guest_that_asks_without_end_and_reads_nothing_keeps_its_channel() -> None:
    rig = Rig(Discards())
    rig.close()
    rig.channel.open(range(16, 26), 5)
    rig.pump()
    for _ in range(20):
        rig.say(dm.VersionRequest(1, dm.make_version(9, 9), is_last_attempt=False))
    assert rig.faults.counts == {"malformed message": 20 - DM_REPLIES_PENDING}
    assert not rig.channel_is_broken()
    rig.send()
    rig.say(dm.VersionRequest(1, dm.VERSION_WIN10, is_last_attempt=False))
    rig.send()
    assert rig.heard()[-1] == dm.VersionResponse(1, True)


@plays
async def test_pages_may_come_in_one_message_of_many_kilobytes() -> None:
    rig = Rig(Discards(), ring_pages=(20, 15))
    rig.ask(SIZE - 1144 * PAGE_SIZE)
    spans = packed(*((page, 1) for page in range(0, 2 * 1144, 2)))
    assert rig.channel.send(struct.pack("<HHIII", 7, 16 + len(spans), 1, 0, 1144 << 1) + spans)
    assert rig.device.receive()
    assert rig.device.actual_bytes == SIZE - 1144 * PAGE_SIZE


@plays
async def test_a_ring_that_holds_no_whole_message_costs_the_guest_its_channel_and_not_the_machine() -> None:
    discards = Discards()
    rig = Rig(discards, ring_pages=(4, 2))
    rig.ask(SIZE - 600 * PAGE_SIZE)
    scattered = [(page, 1) for page in range(1000, 2200, 2)]
    rig.give(*scattered[:300], more=True)
    rig.give(*scattered[300:])
    rig.ask(SIZE)
    assert rig.channel_is_broken()


@plays
async def test_a_new_guest_comes_when_the_last_discard_is_over_and_owns_what_the_former_one_gave() -> None:
    discards = Discards()
    rig = shrunk(discards)
    rig.turn()
    rig.device.closed()
    coming = asyncio.create_task(rig.device.restarted())
    await asyncio.sleep(0)
    assert rig.device.resets == 0  # the guest's contact is not answered yet
    discards.finish()
    await coming
    assert (rig.device.actual_bytes, rig.device.pages.removed_pages, rig.device.resets) == (SIZE, 0, 1)
    rig.turn()
    assert discards.open == []


@plays
async def test_a_kernel_that_contacts_the_bus_again_is_neither_shrunk_again_nor_given_pages_of_another() -> (
    None
):
    """After a kexec the pages are the new kernel's; after a reload of the driver the old one's, lost."""
    rig = shrunk(Discards())
    rig.disconnect()
    await rig.device.restarted()
    assert rig.connect() == []
    rig.now += 100 * NS_PER_S
    assert rig.turn() == []
    assert (rig.device.actual_bytes, rig.device.target_bytes) == (SIZE, SIZE)
    assert rig.ask(SIZE - 8 * PAGE_SIZE) == [dm.BalloonRequest(0, 8)]


@plays
async def test_a_driver_that_comes_back_gets_the_pages_of_the_one_before_it_and_no_new_request() -> None:
    discards = Discards()
    rig = shrunk(discards)
    rig.turn()
    discards.finish()
    rig.turn()
    rig.close()
    assert rig.open() == []
    assert (rig.device.actual_bytes, rig.device.target_bytes) == (SIZE - 24 * PAGE_SIZE,) * 2
    assert rig.ask(SIZE) == [dm.UnballoonRequest(1, more_pages=False, ranges=RANGES)]


@plays
async def test_what_is_held_back_when_a_new_guest_comes_is_never_discarded() -> None:
    discards = Discards()
    rig = shrunk(discards)
    rig.device.closed()
    await rig.device.restarted()
    rig.turn()
    assert (discards.open, rig.device.actual_bytes) == ([], SIZE)
