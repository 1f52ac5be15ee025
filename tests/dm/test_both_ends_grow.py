"""Both ends, with memory to add and to remove, and a guest that has Windows' habits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rigs.dm_channel import Wire
from tests.rigs.stores import PlainBlocks, PlainPages, PlainSource, SetStore

from dynmem.dm.events import Anomaly
from dynmem.dm.guest import DynamicMemoryGuest
from dynmem.dm.habits import LINUX, Habits
from dynmem.dm.host import DynamicMemoryHost
from dynmem.dm.options import HOT_ADD_RETRY_NS, POST_INIT_WAIT_NS, GuestOptions, HostOptions
from dynmem.dm.states import GuestState, HostState
from dynmem.dm.windows import WINDOWS
from dynmem.units import NS_PER_S
from dynmem.wire import dm

TOTAL = 16384
STEP = 256
REGION = 4 * TOTAL
LIMIT = REGION + 8 * STEP


class Pair:
    """Both ends over a wire; 2048 pages can be added."""

    def __init__(
        self,
        *,
        region_form: bool = True,
        habits: Habits = LINUX,
        post_init_wait_ns: int = NS_PER_S,
        source_start: int = REGION,
    ) -> None:
        self.store = SetStore(LIMIT)
        self.source = PlainSource(source_start, LIMIT - source_start)
        self.blocks = PlainBlocks(STEP, LIMIT)
        self.pages = PlainPages(TOTAL, run=64)
        self.host = DynamicMemoryHost(
            store=self.store,
            boot_pages=TOTAL,
            hot_add=self.source,
            options=HostOptions(
                status_report=True,
                post_init_wait_ns=post_init_wait_ns,
                hot_add_region=region_form,
                max_page_count=TOTAL + 8 * STEP,
            ),
        )
        self.guest = DynamicMemoryGuest(
            pages=self.pages,
            total_pages=TOTAL,
            blocks=self.blocks,
            options=GuestOptions(page_limit=LIMIT, hot_add_attempts=3, habits=habits),
        )
        self.wire = Wire(self.host, self.guest)
        self.host.reset(0)

    def start(self) -> None:
        self.wire.open()
        self.wire.settle()
        self.passes(POST_INIT_WAIT_NS)

    def passes(self, ns: int) -> None:
        """Let time pass in steps in which nothing is due twice."""
        end = self.wire.now + ns
        while self.wire.now < end:
            self.wire.now = min(end, self.wire.now + NS_PER_S)
            self.host.tick(self.wire.now)
            self.guest.tick(self.wire.now)
            self.wire.settle()

    def target(self, pages: int) -> None:
        self.host.set_target(pages, self.wire.now)
        self.wire.settle()

    def agree(self) -> bool:
        return (
            self.source.given == self.blocks.added
            and self.guest.total_pages == TOTAL + len(self.blocks.added)
            and self.host.actual_pages == self.guest.total_pages - self.guest.ballooned_pages
        )


@pytest.mark.parametrize("region_form", [True, False])
def test_a_guest_grows_past_its_boot_size_and_shrinks_again(region_form: bool) -> None:
    pair = Pair(region_form=region_form)
    pair.start()
    assert pair.guest.max_page_count == TOTAL + 8 * STEP
    for target, size in [
        (TOTAL + 3 * STEP, TOTAL + 3 * STEP),
        (15000, 15000),
        (TOTAL + 5 * STEP, TOTAL + 5 * STEP),
        (1 << 30, TOTAL + 8 * STEP),
    ]:
        pair.target(target)
        assert pair.host.actual_pages == size
        assert pair.host.state is HostState.IDLE
        assert pair.agree()
    assert not [event for event in pair.host.take_events() if isinstance(event, Anomaly)]


def test_a_guest_short_of_resources_is_waited_for_then_asked_again_until_it_has_room() -> None:
    pair = Pair()
    pair.start()
    pair.blocks.short = [0] * 4
    pair.target(TOTAL + STEP)
    assert pair.host.state is HostState.HOT_ADD_REPLY_WAIT
    assert pair.guest.state is GuestState.HOT_ADD
    pair.passes(2 * NS_PER_S)
    assert (pair.host.state, pair.host.actual_pages) == (HostState.IDLE, TOTAL)
    pair.passes(HOT_ADD_RETRY_NS + NS_PER_S)
    assert pair.host.actual_pages == TOTAL + STEP
    assert pair.agree()
    kinds = [(operation.kind, operation.outcome) for operation in pair.host.journal.operations]
    assert kinds == [("hot add", "the guest was short of resources"), ("hot add", "done")]


def test_a_guest_at_its_barrier_is_asked_once_and_never_again() -> None:
    pair = Pair()
    pair.start()
    pair.blocks.barrier = REGION + STEP + 100
    for _ in range(3):
        pair.target(TOTAL + 4 * STEP)
        pair.passes(2 * HOT_ADD_RETRY_NS)
    assert len(pair.blocks.calls) == 1
    assert pair.host.actual_pages == TOTAL + STEP + 100
    assert pair.agree()


def test_memory_comes_back_for_good_from_a_guest() -> None:
    pair = Pair()
    pair.start()
    pair.target(TOTAL + 2 * STEP)
    assert pair.host.hot_remove(STEP, pair.wire.now, qos_flags=dm.REMOVE_QOS_LOCAL)
    pair.wire.settle()
    assert pair.guest.total_pages == TOTAL + STEP
    assert pair.blocks.flags == (0, dm.REMOVE_QOS_LOCAL)
    assert pair.agree()


@pytest.mark.parametrize("habits", [LINUX, WINDOWS])
def test_added_memory_is_the_guests_over_a_reconnect(habits: Habits) -> None:
    pair = Pair(habits=habits, post_init_wait_ns=POST_INIT_WAIT_NS)
    pair.host.set_target(TOTAL + 2 * STEP, 0)
    pair.start()
    assert pair.host.actual_pages == TOTAL + 2 * STEP
    pair.wire.close()
    assert pair.agree()
    pair.start()
    assert pair.host.actual_pages == TOTAL + 2 * STEP
    assert pair.agree()
    pair.target(TOTAL + 3 * STEP)
    assert pair.agree()


@pytest.mark.parametrize("wait_ns", [POST_INIT_WAIT_NS, POST_INIT_WAIT_NS - NS_PER_S])
def test_a_windows_guest_survives_the_wait_after_start_and_no_shorter_one(wait_ns: int) -> None:
    pair = Pair(habits=WINDOWS, post_init_wait_ns=wait_ns)
    pair.host.set_target(15000, 0)
    pair.start()
    survived = wait_ns == POST_INIT_WAIT_NS
    assert (pair.guest.state is GuestState.CRASHED) is not survived
    assert pair.host.actual_pages == (15000 if survived else TOTAL)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_the_order_of_delivery_added_memory_is_never_in_doubt_for_long(data: st.DataObject) -> None:
    pair = Pair()
    wire = pair.wire
    pair.host.set_target(data.draw(st.integers(9000, TOTAL + 9 * STEP)), 0)
    pair.blocks.short = data.draw(st.lists(st.sampled_from([0, 0, 10]), max_size=4))
    wire.open()
    moves = wire.steps()
    for _ in range(data.draw(st.integers(0, 80))):
        choice = data.draw(st.integers(0, 24))
        if choice < 20:
            moves[choice % len(moves)]()
        elif choice < 22:
            pair.host.set_target(data.draw(st.integers(9000, TOTAL + 9 * STEP)), wire.now)
        elif choice < 24:
            pair.host.hot_remove(data.draw(st.integers(1, 2 * STEP)), wire.now)
        elif pair.host.state is not HostState.WAIT_RESET:
            wire.close()
            wire.open()
        # what the guest uses, the host never takes for free
        assert pair.source.free.isdisjoint(pair.blocks.added)
    wire.settle()
    if pair.guest.state is GuestState.INIT_ERROR:  # time passed while the test delivered nothing
        wire.close()
        wire.open()
        wire.settle()
    pair.passes(60 * NS_PER_S)
    assert pair.host.state is HostState.IDLE
    assert pair.guest.state is GuestState.INITIALIZED
    # posted and not answered before a close: the guest's, though it may have had no time to add it
    assert pair.blocks.added <= pair.source.given
