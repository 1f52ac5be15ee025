"""What hv-balloon traces of memory, beside what QEMU's wrote in the same session, and corner by corner."""

from pathlib import Path

import pytest
from tests.rigs.added_memory import FIRST, SIZE, UNIT, AddingRig, Discards, Plugged
from tests.rigs.memory import memory_of
from tests.rigs.scenes import play, plays

from dynmem.trace.lines import EventLine, parse
from dynmem.trace_events import BY_NAME, Trace, matching
from dynmem.units import MIB, NS_PER_S, PAGE_SHIFT, PAGE_SIZE
from dynmem.vm.balloon import given_trace
from dynmem.wire import dm

CAPTURES = Path(__file__).parents[2] / "captures"
BOOT = 256 * MIB
TARGETS = (160, 256, 512, 768, 300)  # MiB: the balloon commands of QEMU's session
ADDED = 512 * MIB  # in two slots
SLOT = 128 * MIB >> PAGE_SHIFT


class Session:
    """Our device in the place of QEMU's; its guest says what QEMU's guest said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        trace = Trace(matching(["hv_balloon*"]), lambda name, text: self.lines.append(f"{name} {text}"))
        plugged = Plugged(ADDED, trace=trace)
        plugged.memory.cut_into(2)
        self.rig = AddingRig(plugged, Discards(), trace=trace, caps=0x1F, boot=memory_of(self, BOOT))
        self.targets = iter(TARGETS)

    def told(self, event: EventLine, removed: tuple[int, int]) -> None:
        """What happened around QEMU's device when it logged `event`; `removed` is what a response names."""
        values = event.values
        match event.name, values.get("tostr"):
            case "hv_balloon_state_change", "S_BALLOON_RB_WAIT" | "S_UNBALLOON_RB_WAIT" | "S_HOT_ADD_SETUP":
                self.rig.ask(next(self.targets) * MIB)
            case "hv_balloon_incoming_balloon", _:
                start, pages = removed
                each = pages // int(values["range_count"])
                spans = ((page, each) for page in range(start, start + pages, each))
                words = b"".join((page | count << 40).to_bytes(8, "little") for page, count in spans)
                self.rig.say(dm.BalloonResponse(int(values["trans_id"]), more_pages=False, ranges=words))
                self.discarded()
            case "hv_balloon_incoming_unballoon", _:
                self.rig.say(dm.UnballoonResponse(int(values["trans_id"])))
            case "hv_balloon_incoming_hot_add", _:
                numbers = (int(values[name]) for name in ("trans_id", "count", "result"))
                self.rig.say(dm.HotAddResponse(*numbers))

    def discarded(self) -> None:
        """Let all that was given up be discarded."""
        self.rig.now += NS_PER_S
        self.rig.turn()
        while self.rig.discards.open:
            self.rig.discards.finish()
            self.rig.turn()


@pytest.mark.parametrize("file", ["trace.log", "trace-linux-6.1.log"])
def test_our_device_logs_for_the_same_guest_all_that_qemus_logged(file: str) -> None:
    lines = [parse(line) for line in (CAPTURES / file).read_text().splitlines()]
    events = [line for line in lines if isinstance(line, EventLine) and line.name.startswith("hv_balloon")]
    theirs = [f"{event.name} {BY_NAME[event.name].text(list(event.values.values()))}" for event in events]
    ours, actual_bytes = play(replayed(events))
    assert ours == theirs
    assert actual_bytes == TARGETS[-1] * MIB


async def replayed(events: list[EventLine]) -> tuple[list[str], int]:
    """What our device logs when it meets the guest of QEMU's, and the size that it leaves it with."""
    session = Session()
    for position, event in enumerate(events):
        removed = (0, 0)
        if event.name == "hv_balloon_incoming_balloon":
            values = events[position + 1].values
            removed = int(values["start"]), int(values["count"])
        session.told(event, removed)
    return session.lines, session.rig.device.actual_bytes


class Traced:
    """A guest of SIZE with an hv-balloon that can add 512 MiB, `added` of them added."""

    def __init__(self, *patterns: str, added: int = 0) -> None:
        self.lines: list[str] = []
        trace = Trace(matching(patterns), lambda name, text: self.lines.append(text))
        self.rig = AddingRig(Plugged(ADDED, trace=trace), Discards(), trace=trace)
        if added:
            self.rig.grow(SIZE + added)

    def asked(self) -> None:
        """Let the guest be asked for pages, and forget what was traced so far."""
        self.rig.ask(SIZE - 16 * MIB)
        self.lines.clear()

    def gives(self, *spans: tuple[int, int]) -> list[str]:
        """What is traced when the guest gives these."""
        self.rig.give(*spans, more=True)
        found = self.lines.copy()
        self.lines.clear()
        return found


def processing(count: int, start: int, both: int = 1) -> str:
    return f"processing remove response range {count} @ {start:#x}, both {both}"


def remaining(count: int, start: int, both: int = 1) -> str:
    return f"remove response remaining range {count} @ {start:#x}, both {both}"


def common(count: int, start: int, removed: int, *, of: tuple[int, int] | None = None, both: int = 1) -> str:
    whole, whole_start = of or (count, start)
    return (
        f"response common range {count} @ {start:#x} from range {whole} @ {whole_start:#x} "
        f"with our {ADDED >> PAGE_SHIFT} @ {FIRST:#x}, removed {removed}, both {both}"
    )


@plays
async def test_boot_memory_is_all_remainder_before_and_after_memory_was_added() -> None:
    traced = Traced("hv_balloon_remove*")
    traced.asked()
    assert traced.gives((1000, 8)) == [processing(8, 1000), remaining(8, 1000)]
    traced = Traced("hv_balloon_remove*", added=MIB)
    traced.asked()
    assert traced.gives((1000, 8)) == [processing(8, 1000), remaining(8, 1000)]


@plays
async def test_added_memory_is_common_with_all_of_our_range_and_counts_once() -> None:
    traced = Traced("hv_balloon_remove*", added=MIB)
    traced.asked()
    assert traced.gives((FIRST + 4, 2)) == [processing(2, FIRST + 4), common(2, FIRST + 4, 2)]
    assert traced.gives((FIRST + 2, 6), (FIRST + 20, 3), (FIRST + 2, 6)) == [
        processing(6, FIRST + 2),
        common(6, FIRST + 2, 4),  # two of them were given up before
        processing(3, FIRST + 20),
        common(3, FIRST + 20, 3),
        processing(6, FIRST + 2),
        common(6, FIRST + 2, 0),
    ]


@plays
async def test_a_range_joins_the_one_before_it_on_either_side_and_no_other() -> None:
    traced = Traced("hv_balloon_remove*")
    traced.asked()
    assert traced.gives((1000, 8), (1008, 2), (998, 2), (0, 0), (2000, 1), (1010, 5)) == [
        processing(12, 998),
        remaining(12, 998),
        processing(1, 2000),
        remaining(1, 2000),
        processing(5, 1010),
        remaining(5, 1010),
    ]


@plays
async def test_what_is_no_memory_of_the_guest_is_followed_by_itself_and_comes_last() -> None:
    traced = Traced("hv_balloon_remove*", added=MIB)
    traced.asked()
    end = SIZE >> PAGE_SHIFT
    assert traced.gives((end - 2, 5), (FIRST + UNIT - 1, 3), (100, 1)) == [
        processing(2, end - 2),
        remaining(2, end - 2),
        processing(3, FIRST + UNIT - 1),  # two of them mapped and not added yet
        common(3, FIRST + UNIT - 1, 3),
        processing(1, 100),
        remaining(1, 100),
        processing(3, end, 0),
        remaining(3, end, 0),
    ]
    assert traced.rig.device.pages.removed_pages == 4


@plays
async def test_what_is_not_added_counts_once_for_the_trace_whether_it_is_mapped_or_not() -> None:
    traced = Traced("hv_balloon_remove*", added=MIB)
    traced.asked()
    for first, both in ((FIRST + UNIT, 1), (FIRST + SLOT, 0)):
        for removed in (4, 0):
            found = traced.gives((first, 4))
            assert found == [processing(4, first, both), common(4, first, removed, both=both)]
    border = (FIRST + SLOT - 1, 3)
    assert traced.gives(border) == [
        processing(1, FIRST + SLOT - 1),
        common(1, FIRST + SLOT - 1, 1),
        processing(2, FIRST + SLOT, 0),
        common(2, FIRST + SLOT, 0, both=0),
    ]
    assert traced.rig.device.pages.removed_pages == 0
    await traced.rig.reset()
    traced.rig.grow(SIZE + MIB)
    traced.asked()
    assert traced.gives((FIRST + UNIT, 4)) == [processing(4, FIRST + UNIT), common(4, FIRST + UNIT, 4)]


@plays
async def test_a_page_counts_once_while_it_is_not_mapped_and_once_more_when_it_is() -> None:
    traced = Traced("hv_balloon_remove*", added=MIB)
    traced.asked()
    first = FIRST + SLOT
    for removed in (4, 0):
        assert traced.gives((first, 4)) == [processing(4, first, 0), common(4, first, removed, both=0)]
    traced.rig.give()
    assert traced.rig.grow(SIZE + (SLOT << PAGE_SHIFT) + MIB)  # the slot behind is mapped now
    traced.asked()
    for removed in (4, 0):
        assert traced.gives((first, 4)) == [processing(4, first), common(4, first, removed)]


@plays
async def test_a_page_that_was_to_go_back_and_did_not_counts_no_more() -> None:
    traced = Traced("hv_balloon_remove*", added=MIB)
    traced.asked()
    traced.rig.give((FIRST, 2))
    traced.rig.turn()
    traced.rig.give()
    traced.rig.device.set_target(SIZE + MIB)
    assert traced.rig.device.host.next_message() is not None
    assert traced.rig.device.pages.removed_pages == 0
    traced.rig.device.closed()
    assert traced.rig.device.pages.removed_pages == 2
    traced.rig.channel.close()
    traced.rig.pump()
    traced.rig.device.set_target(SIZE - 16 * MIB)
    traced.rig.open()
    traced.lines.clear()
    assert traced.gives((FIRST, 3)) == [processing(3, FIRST), common(3, FIRST, 1)]


@plays
async def test_a_page_that_went_back_to_the_guest_counts_again_for_the_trace() -> None:
    traced = Traced("hv_balloon_remove*", added=MIB)
    for _ in range(2):
        traced.asked()
        traced.rig.give((FIRST, 2))
        assert traced.lines == [processing(2, FIRST), common(2, FIRST, 2)]
        traced.rig.ask(SIZE + MIB)
        traced.rig.give()
        traced.rig.turn()
        traced.rig.say(dm.UnballoonResponse(9))
        assert traced.rig.device.pages.removed_pages == 0


@plays
async def test_a_run_over_both_borders_of_our_range_has_a_hole_before_it_and_a_remainder_behind() -> None:
    traced = Traced("hv_balloon_*")
    traced.rig.ask(SIZE + PAGE_SIZE)  # less than can be added, but our range is there from now on
    assert traced.lines[-3:] == [
        "-> S_HOT_ADD_SETUP",
        f"adding our range {ADDED >> PAGE_SHIFT} @ {FIRST:#x}",
        "-> S_IDLE",
    ]
    traced.asked()
    ours = ADDED >> PAGE_SHIFT
    whole = (ours + 5, FIRST - 3)
    hole = f"3 @ {FIRST - 3:#x} from range {whole[0]} @ {whole[1]:#x}, before our start {FIRST:#x}, both 0"
    assert traced.gives((FIRST - 3, ours + 5)) == [
        "incoming balloon response 3, ranges 1, more 1",
        processing(*whole, 0),
        f"response range hole {hole}",
        common(ours, FIRST, ours, of=whole, both=0),
        remaining(2, FIRST + ours, 0),
    ]


@plays
async def test_no_more_of_one_message_is_traced_than_a_bound_says() -> None:
    traced = Traced("hv_balloon_remove*")
    traced.asked()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(given_trace, "VM_REMOVED_RUNS_TRACED_MAX", 2)
        for _ in range(2):  # messages
            found = traced.gives(*((page, 1) for page in range(1000, 1010, 2)))
            assert found == [processing(1, 1000), remaining(1, 1000), processing(1, 1002), remaining(1, 1002)]
    assert traced.rig.device.pages.removed_pages == 5


@plays
async def test_our_range_is_added_once_until_a_reset() -> None:
    traced = Traced("hv_balloon_our*", added=MIB)
    added = [f"adding our range {ADDED >> PAGE_SHIFT} @ {FIRST:#x}"]
    assert traced.lines == added
    traced.rig.grow(SIZE + 2 * MIB)
    assert traced.lines == added
    await traced.rig.reset()
    assert traced.lines == added
    traced.rig.grow(SIZE + MIB)
    assert traced.lines == added * 2
