"""Hot add and hot remove at the host's end, against a guest played by hand."""

import pytest
from tests.rigs.driven_host import DEADLINE, DrivenHost
from tests.rigs.pages import packed, pages_of
from tests.rigs.stores import PlainSource

from dynmem.dm.events import ActualChanged, Anomaly, HotAddFinished, HotRemoveFinished
from dynmem.dm.options import HOT_ADD_RETRY_NS
from dynmem.dm.states import HostState
from dynmem.dm.stores import Reservation
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.limits import DM_HOT_ADD_CHUNK_PAGES
from dynmem.units import NS_PER_S
from dynmem.wire import dm

CAPS = dm.CAP_BALLOON | dm.CAP_HOT_ADD | dm.CAP_HOT_REMOVE  # alignment 1 MiB: 256 pages
STEP = 256
BLOCK = 5 * NS_PER_S  # for which Linux waits for 128 MiB to be brought online
REGION = 4096  # the first page of the memory to add


def made(*, pages: int = 4 * STEP, mapped: bool = True, hot_add_region: bool = True) -> DrivenHost:
    source = PlainSource(REGION, pages, mapped=mapped)
    return DrivenHost(source=source, hot_add_region=hot_add_region)


def source_of(played: DrivenHost) -> PlainSource:
    assert played.source is not None
    return played.source


@pytest.fixture
def played() -> DrivenHost:
    played = made()
    played.start(CAPS)
    played.path()
    return played


def word(start: int, count: int) -> int:
    return start | count << 40


def asked(start: int, count: int, trans_id: int = 0) -> dm.HotAddRequest:
    return dm.HotAddRequest(trans_id, word(start, count), word(start, count))


def test_a_guest_grows_past_its_boot_size_through_the_states_that_qemu_traces(played: DrivenHost) -> None:
    played.host.set_target(1000 + 2 * STEP + 100, played.now)
    assert played.sent() == asked(REGION, 2 * STEP)
    assert played.host.actual_pages == 1000
    played.says(dm.HotAddResponse(55, 2 * STEP, 1))
    assert played.path() == [
        "S_HOT_ADD_SETUP",
        "S_HOT_ADD_RB_WAIT",
        "S_HOT_ADD_POSTING",
        "S_HOT_ADD_REPLY_WAIT",
        "S_IDLE",
    ]
    assert played.host.actual_pages == 1000 + 2 * STEP
    assert played.events(HotAddFinished) == [HotAddFinished(2 * STEP, 2 * STEP)]
    assert played.events(ActualChanged) == [ActualChanged(1000 + 2 * STEP)]
    assert played.sent() is None


def test_the_shorter_form_names_the_range_alone() -> None:
    played = made(hot_add_region=False)
    played.start(CAPS)
    played.host.set_target(1000 + STEP, played.now)
    assert played.sent() == dm.HotAddRequest(0, word(REGION, STEP))
    played.says(dm.HotAddResponse(55, STEP, 1))
    assert played.host.actual_pages == 1000 + STEP


def test_what_was_given_up_comes_back_before_anything_is_added(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    played.gives((0, 100))
    played.path()
    played.host.set_target(1000 + STEP, played.now)
    assert isinstance(played.sent(), dm.UnballoonRequest)
    played.says(dm.UnballoonResponse(1))
    assert played.sent() == asked(REGION, STEP, trans_id=2)
    assert played.path()[3:5] == ["S_HOT_ADD_SETUP", "S_HOT_ADD_RB_WAIT"]


def test_a_target_that_sinks_while_pages_come_back_adds_nothing(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    played.gives((0, 100))
    played.host.set_target(1000 + STEP, played.now)
    played.sent()
    played.host.set_target(1000, played.now)
    played.says(dm.UnballoonResponse(1))
    assert played.sent() is None
    assert "S_HOT_ADD_SETUP" not in played.path()
    assert played.host.actual_pages == 1000


def test_nothing_is_asked_for_before_the_memory_is_mapped() -> None:
    played = made(mapped=False)
    played.start(CAPS)
    played.host.set_target(1000 + STEP, played.now)
    assert played.state() is HostState.HOT_ADD_SETUP
    assert played.sent() is None
    source_of(played).mapped = True
    played.host.tick(played.now)
    assert played.sent() == asked(REGION, STEP)


def test_memory_that_the_host_has_not_after_all_is_not_offered_until_the_next_wish() -> None:
    played = made(mapped=False)
    played.start(CAPS)
    played.host.set_target(1000 + STEP, played.now)
    source_of(played).without_memory = source_of(played).mapped = True
    played.host.tick(played.now)
    assert played.state() is HostState.IDLE
    assert played.sent() is None
    assert played.events(HotAddFinished) == [HotAddFinished(STEP, 0)]
    assert source_of(played).reserved == []
    assert played.host.journal.operations[-1].outcome == "the host has no memory to add"
    source_of(played).without_memory = False
    played.host.set_target(1000 + STEP, played.now)
    assert played.sent() == asked(REGION, STEP)


def test_a_mapping_that_never_comes_is_stuck_and_goes_on_when_it_does_come() -> None:
    played = made(mapped=False)
    played.start(CAPS)
    played.host.set_target(1000 + STEP, played.now)
    played.passes(DEADLINE)
    assert played.state() is HostState.STUCK
    source_of(played).mapped = True
    played.passes(1)
    assert played.sent() == asked(REGION, STEP)


def test_an_answer_of_nothing_with_result_0_is_asked_again_later(played: DrivenHost) -> None:
    played.host.set_target(1000 + STEP, played.now)
    played.sent()
    played.says(dm.HotAddResponse(1, 0, 0))
    assert played.state() is HostState.IDLE
    assert played.host.actual_pages == 1000
    assert len(source_of(played).free) == 4 * STEP
    assert played.sent() is None
    assert played.host.deadline_ns() == played.now + HOT_ADD_RETRY_NS
    played.passes(HOT_ADD_RETRY_NS - 1)
    assert played.sent() is None
    played.passes(1)
    assert played.sent() == asked(REGION, STEP, trans_id=1)
    played.says(dm.HotAddResponse(1, STEP, 1))
    assert played.host.deadline_ns() is None
    assert played.host.actual_pages == 1000 + STEP


@pytest.mark.parametrize(
    ("count", "result"),
    [(0, 1), (100, 1), (100, 0), (2 * STEP, 0)],
    ids=["nothing-and-success", "fewer", "fewer-and-failure", "all-and-failure"],
)
def test_an_answer_of_fewer_pages_is_the_last_hot_add_before_a_reset(
    played: DrivenHost, count: int, result: int
) -> None:
    played.host.set_target(1000 + 2 * STEP, played.now)
    played.sent()
    played.says(dm.HotAddResponse(1, count, result))
    assert played.host.actual_pages == 1000 + count
    assert source_of(played).reserved == []
    for _ in range(2):
        played.host.set_target(1000 + 4 * STEP, played.now)
        played.passes(10 * HOT_ADD_RETRY_NS)
        assert played.sent() is None
        played.host.channel_closed(played.now)  # the barrier is the guest's, not the channel's
        played.start(CAPS)
    source_of(played).given.clear()
    played.host.reset(played.now)
    played.start(CAPS)
    played.host.set_target(1000 + STEP, played.now)
    assert isinstance(played.sent(), dm.HotAddRequest)


def test_nothing_is_added_above_the_guests_last_page() -> None:
    played = made()
    played.start(CAPS, max_page_number=REGION + 2 * STEP)
    played.host.set_target(1000 + 4 * STEP, played.now)
    assert played.sent() == asked(REGION, 2 * STEP)
    played.says(dm.HotAddResponse(1, 2 * STEP, 1))
    played.path()
    played.host.set_target(1000 + 4 * STEP, played.now)
    assert played.sent() is None
    assert played.path() == ["S_HOT_ADD_SETUP", "S_IDLE"]


def test_less_than_one_step_of_the_guests_alignment_is_not_added(played: DrivenHost) -> None:
    played.host.set_target(1000 + STEP - 1, played.now)
    assert played.sent() is None
    assert played.path() == ["S_HOT_ADD_SETUP", "S_IDLE"]


def test_a_guest_that_cannot_hot_add_is_not_asked_to() -> None:
    played = made()
    played.start(dm.CAP_BALLOON)
    played.path()
    played.host.set_target(1000 + STEP, played.now)
    assert played.sent() is None
    assert played.path() == []


class LargeSource(PlainSource):
    """More memory than anybody wants to have page for page."""

    def __init__(self, start: int) -> None:
        super().__init__(0, 0)
        self.start = start
        self.count = 0

    @property
    def added_pages(self) -> int:
        return self.count

    def reserve(self, pages: int, alignment: int, end: int) -> Reservation | None:
        return Reservation(self.start, pages)

    def confirm(self, pages: int) -> None:
        self.count += pages

    def cancel(self) -> None:
        raise AssertionError("it was all taken")


@pytest.mark.parametrize(
    ("shift", "chunks"),
    [
        (0, [DM_HOT_ADD_CHUNK_PAGES, DM_HOT_ADD_CHUNK_PAGES, 1 << 18]),
        (7, [DM_HOT_ADD_CHUNK_PAGES, DM_HOT_ADD_CHUNK_PAGES, 1 << 18]),
        (12, [1 << 20]),
    ],
    ids=["1MiB", "128MiB", "4GiB"],
)
def test_a_large_hot_add_is_asked_for_in_chunks_of_2_gib_or_of_the_guests_alignment(
    shift: int, chunks: list[int]
) -> None:
    first = 1 << 23
    played = DrivenHost(source=LargeSource(first))
    played.start(CAPS | shift << dm.HOT_ADD_ALIGNMENT_SHIFT)
    played.host.set_target(1000 + 5 * (1 << 18), played.now)  # 5 GiB
    for number, chunk in enumerate(chunks):
        assert played.sent() == asked(first, chunk, trans_id=number)
        played.says(dm.HotAddResponse(9, chunk, 1))
        first += chunk
    assert played.state() is HostState.IDLE
    assert played.host.actual_pages == 1000 + sum(chunks)


def test_a_target_that_changes_leaves_the_rest_of_a_hot_add_unasked() -> None:
    played = DrivenHost(source=LargeSource(1 << 23))
    played.start(CAPS)
    played.host.set_target(1000 + 2 * DM_HOT_ADD_CHUNK_PAGES, played.now)
    played.sent()
    assert isinstance(source_of(played), LargeSource)
    source_of(played).cancel = lambda: None  # type: ignore[method-assign]
    played.host.set_target(1000 + DM_HOT_ADD_CHUNK_PAGES, played.now)
    played.says(dm.HotAddResponse(9, DM_HOT_ADD_CHUNK_PAGES, 1))
    assert played.sent() is None
    assert played.state() is HostState.IDLE
    assert played.host.actual_pages == played.host.target_pages


def test_a_guest_that_says_it_added_more_than_it_was_offered_gets_what_it_was_offered(
    played: DrivenHost,
) -> None:
    played.host.set_target(1000 + STEP, played.now)
    played.sent()
    played.says(dm.HotAddResponse(1, 0xFFFF_FFFF, 1))
    assert played.host.actual_pages == 1000 + STEP
    assert len(played.events(Anomaly)) == 1


def test_a_guest_that_is_slow_to_add_is_asked_for_no_other_and_its_late_answer_counts(
    played: DrivenHost,
) -> None:
    played.host.set_target(1000 + STEP, played.now)
    played.sent()
    played.passes(DEADLINE + BLOCK)
    assert played.state() is HostState.STUCK
    played.host.set_target(1000 + 2 * STEP, played.now)
    assert played.sent() is None
    played.says(dm.HotAddResponse(1, STEP, 1))
    assert played.host.actual_pages == 1000 + STEP
    assert played.sent() == asked(REGION + STEP, STEP, trans_id=1)


@pytest.mark.parametrize(
    ("pages", "blocks"),
    [(STEP, 1), (1 << 15, 1), ((1 << 15) + STEP, 2), (DM_HOT_ADD_CHUNK_PAGES, 16)],
    ids=["1MiB", "128MiB", "129MiB", "2GiB"],
)
def test_a_guest_that_waits_for_each_block_to_be_brought_online_is_not_stuck(pages: int, blocks: int) -> None:
    """Linux waits for 5 s for each 128 MiB. It may have been asked for no status reports."""
    played = DrivenHost(source=LargeSource(1 << 23))
    played.start(CAPS)
    played.host.set_target(1000 + pages, played.now)
    played.offer()
    assert played.host.deadline_ns() == played.now + DEADLINE  # for room in the ring
    played.sent()
    assert played.host.deadline_ns() == played.now + DEADLINE + blocks * BLOCK
    for _ in range(blocks):
        played.passes(BLOCK)
    played.passes(DEADLINE - 1)
    assert played.state() is HostState.HOT_ADD_REPLY_WAIT
    played.passes(1)
    assert played.state() is HostState.STUCK


def test_a_hot_add_goes_on_while_the_guest_reports_its_status_however_long_it_takes(
    played: DrivenHost,
) -> None:
    played.host.set_target(1000 + STEP, played.now)
    assert played.sent() is not None
    for _ in range(9):
        played.passes(DEADLINE + BLOCK - 1)
        played.says(dm.StatusReport(3, 10, 20, 0, 0, 0, 0))
    assert played.state() is HostState.HOT_ADD_REPLY_WAIT
    played.says(dm.HotAddResponse(1, STEP, 1))
    assert played.host.actual_pages == 1000 + STEP


def test_a_linux_that_was_offered_hibernation_and_adds_no_memory_is_told_apart(played: DrivenHost) -> None:
    played.host.set_target(1000 + STEP, played.now)
    played.sent()
    played.says(dm.HotAddResponse(1, 0, 1))
    (oddity,) = played.events(Anomaly)
    assert isinstance(oddity, Anomaly)
    assert "ACPI S4" in oddity.text


def test_after_a_refusal_for_want_of_resources_the_same_range_is_asked_first(played: DrivenHost) -> None:
    """Linux adds a longer one only up to the end of the range that it remembers, which reads as a barrier."""
    played.host.set_target(1000 + STEP, played.now)
    played.sent()
    played.says(dm.HotAddResponse(1, 0, 0))
    played.host.set_target(1000 + 3 * STEP, played.now)
    assert played.sent() == asked(REGION, STEP, trans_id=1)
    played.says(dm.HotAddResponse(1, STEP, 1))
    assert played.sent() == asked(REGION + STEP, 2 * STEP, trans_id=2)
    played.says(dm.HotAddResponse(1, 2 * STEP, 1))
    assert played.host.actual_pages == 1000 + 3 * STEP


def test_a_part_of_a_refused_range_may_be_asked_for_and_then_the_rest_of_it(played: DrivenHost) -> None:
    played.host.set_target(1000 + 2 * STEP, played.now)
    played.sent()
    played.says(dm.HotAddResponse(1, 0, 0))
    played.host.set_target(1000 + STEP, played.now)
    assert played.sent() == asked(REGION, STEP, trans_id=1)
    played.says(dm.HotAddResponse(1, STEP, 1))
    played.host.set_target(1000 + 4 * STEP, played.now)
    assert played.sent() == asked(REGION + STEP, STEP, trans_id=2)
    played.says(dm.HotAddResponse(1, STEP, 1))
    assert played.sent() == asked(REGION + 2 * STEP, 2 * STEP, trans_id=3)


def test_a_driver_that_is_loaded_again_remembers_no_refusal(played: DrivenHost) -> None:
    played.host.set_target(1000 + STEP, played.now)
    played.sent()
    played.says(dm.HotAddResponse(1, 0, 0))
    played.host.set_target(1000 + 3 * STEP, played.now)
    played.host.channel_closed(played.now)
    played.start(CAPS)
    assert played.sent() == asked(REGION, 3 * STEP, trans_id=1)


def test_a_guest_that_can_never_add_is_asked_less_and_less_often(played: DrivenHost) -> None:
    played.host.set_target(1000 + STEP, played.now)
    pauses = []
    for _ in range(9):
        played.sent()
        played.says(dm.HotAddResponse(1, 0, 0))
        due = played.host.deadline_ns()
        assert due is not None
        pauses.append((due - played.now) // HOT_ADD_RETRY_NS)
        played.passes(due - played.now)
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    played.sent()
    played.says(dm.HotAddResponse(1, STEP, 1))
    played.host.set_target(1000 + 2 * STEP, played.now)
    played.sent()
    played.says(dm.HotAddResponse(1, 0, 0))
    assert played.host.deadline_ns() == played.now + HOT_ADD_RETRY_NS


def test_memory_that_was_posted_is_the_guests_though_its_channel_closes_before_it_answers(
    played: DrivenHost,
) -> None:
    played.host.set_target(1000 + STEP, played.now)
    played.sent()
    played.host.channel_closed(played.now)
    assert played.host.actual_pages == 1000 + STEP
    played.start(CAPS)
    assert played.sent() is None  # and so the target is reached


def test_memory_that_was_offered_and_never_posted_is_free_when_the_channel_closes(
    played: DrivenHost,
) -> None:
    played.host.set_target(1000 + STEP, played.now)
    played.offer()
    played.host.channel_closed(played.now)
    assert played.host.actual_pages == 1000
    assert len(source_of(played).free) == 4 * STEP


def test_added_memory_stays_over_a_reconnect_and_is_gone_after_a_reset(played: DrivenHost) -> None:
    played.host.set_target(1000 + STEP, played.now)
    played.sent()
    played.says(dm.HotAddResponse(1, STEP, 1))
    played.host.channel_closed(played.now)
    played.start(CAPS)
    assert played.host.actual_pages == 1000 + STEP
    assert played.sent() is None
    source_of(played).given.clear()
    played.host.reset(played.now)
    assert played.host.actual_pages == 1000
    played.start(CAPS)
    assert played.sent() is None  # the target was the former guest's


class Careless(PlainSource):
    """Reserves what this guest cannot add."""

    def reserve(self, pages: int, alignment: int, end: int) -> Reservation | None:
        return self.wrong

    wrong = Reservation(REGION + 1, STEP)


@pytest.mark.parametrize(
    "wrong", [(REGION + 1, STEP), (REGION, STEP + 1), (REGION, 2 * STEP), (REGION, 0), (1 << 40, STEP)]
)
def test_a_source_that_reserves_what_does_not_fit_is_our_own_fault(wrong: tuple[int, int]) -> None:
    source = Careless(REGION, STEP)
    source.wrong = Reservation(*wrong)
    played = DrivenHost(source=source)
    played.start(CAPS)
    with pytest.raises(LocalProtocolError):
        played.host.set_target(1000 + STEP, played.now)


def grown(played: DrivenHost) -> None:
    played.host.set_target(1000 + 2 * STEP, played.now)
    played.sent()
    played.says(dm.HotAddResponse(1, 2 * STEP, 1))


def test_pages_come_back_for_good_over_several_answers(played: DrivenHost) -> None:
    grown(played)
    played.path()
    flags = dm.REMOVE_QOS_LARGE | dm.REMOVE_QOS_LOCAL
    assert played.host.hot_remove(STEP, played.now, virtual_node=3, qos_flags=flags)
    assert played.sent() == dm.HotRemoveRequest(1, 3, STEP, flags)
    played.says(dm.HotRemoveResponse(4, 1, True, packed((REGION, 100))))
    assert played.state() is HostState.HOT_REMOVE_REPLY_WAIT
    played.says(dm.HotRemoveResponse(5, 1, False, packed((REGION + 100, STEP - 100))))
    assert played.path() == [
        "S_HOT_REMOVE_RB_WAIT",
        "S_HOT_REMOVE_POSTING",
        "S_HOT_REMOVE_REPLY_WAIT",
        "S_IDLE",
    ]
    assert played.host.actual_pages == 1000 + STEP
    assert played.events(HotRemoveFinished) == [HotRemoveFinished(STEP, STEP)]
    assert [operation.outcome for operation in played.host.journal.operations] == ["done", "done"]


def test_pages_that_were_not_added_do_not_come_back_for_good(played: DrivenHost) -> None:
    grown(played)
    played.host.hot_remove(STEP, played.now)
    played.sent()
    played.says(dm.HotRemoveResponse(4, 1, False, packed((0, 50), (REGION, 10))))
    assert played.host.actual_pages == 1000 + 2 * STEP - 10
    assert len(played.events(Anomaly)) == 1


def test_a_hot_remove_that_the_guest_fails_changes_nothing(played: DrivenHost) -> None:
    grown(played)
    played.host.hot_remove(STEP, played.now)
    played.sent()
    played.says(dm.HotRemoveResponse(4, 0, False, b""))
    assert played.host.actual_pages == 1000 + 2 * STEP
    assert played.host.journal.operations[-1].outcome == "the guest could not"
    assert played.state() is HostState.IDLE


def test_a_hot_remove_waits_until_what_is_under_way_is_done(played: DrivenHost) -> None:
    grown(played)
    played.host.set_target(1000, played.now)
    played.sent()
    assert played.host.hot_remove(STEP, played.now)
    assert not played.host.hot_remove(STEP, played.now)
    assert played.sent() is None
    played.gives((0, 400))
    assert played.sent() == dm.BalloonRequest(2, 112)
    played.gives((400, 112))
    assert isinstance(played.sent(), dm.HotRemoveRequest)


@pytest.mark.parametrize(
    ("caps", "version"),
    [(dm.CAP_HOT_ADD, dm.VERSION_WIN10), (CAPS, dm.VERSION_WIN8)],
    ids=["caps", "version"],
)
def test_a_guest_that_does_not_know_hot_remove_is_not_asked(caps: int, version: int) -> None:
    played = made()
    played.start(caps, version=version)
    assert not played.host.hot_remove(STEP, played.now)
    assert played.sent() is None


@pytest.mark.parametrize(("version", "knows"), [(dm.VERSION_WIN8, False), (dm.VERSION_WIN10, True)])
def test_an_answer_that_the_negotiated_version_does_not_know_is_malformed(version: int, knows: bool) -> None:
    played = made()
    played.start(CAPS, version=version)
    answer = dm.HotRemoveResponse(4, 1, False, b"")
    if knows:
        played.says(answer)
        assert len(played.events(Anomaly)) == 1  # known, but nobody asked
    else:
        with pytest.raises(RemoteProtocolError, match="unknown"):
            played.says(answer)
        assert played.events(Anomaly) == []


@pytest.mark.parametrize(("least", "pages"), [(1200, 56), (1256, 0), (1 << 60, 0)])
def test_a_hot_remove_does_not_take_a_guest_below_what_its_capabilities_say_it_needs(
    least: int, pages: int
) -> None:
    played = made()
    played.start(CAPS, min_page_cnt=least)
    played.host.set_target(1000 + STEP, played.now)
    played.sent()
    played.says(dm.HotAddResponse(1, STEP, 1))
    assert played.host.actual_pages == 1256
    assert played.host.hot_remove(STEP, played.now)
    assert played.sent() == (dm.HotRemoveRequest(1, 0, pages, 0) if pages else None)
    if pages:
        played.says(dm.HotRemoveResponse(4, 1, False, packed((REGION, pages))))
    assert played.state() is HostState.IDLE
    assert played.events(HotRemoveFinished) == [HotRemoveFinished(STEP, pages)]
    assert played.host.actual_pages == 1256 - pages


def test_a_hot_remove_that_waits_counts_what_the_guest_has_when_it_begins(played: DrivenHost) -> None:
    played.host.channel_closed(played.now)
    played.start(CAPS, min_page_cnt=1000)
    grown(played)
    played.host.set_target(1100, played.now)
    assert played.host.hot_remove(2 * STEP, played.now)
    assert played.sent() == dm.BalloonRequest(1, 400)
    played.gives((0, 400))
    assert played.sent() == dm.BalloonRequest(2, 12)
    played.gives((400, 12))
    assert played.sent() == dm.HotRemoveRequest(3, 0, 100, 0)


@pytest.mark.parametrize(
    ("pages", "node", "flags"), [(0, 0, 0), (1 << 32, 0, 0), (1, -1, 0), (1, 1 << 32, 0), (1, 0, 4)]
)
def test_a_hot_remove_that_no_message_can_say_is_refused(
    played: DrivenHost, pages: int, node: int, flags: int
) -> None:
    with pytest.raises(LocalProtocolError):
        played.host.hot_remove(pages, played.now, virtual_node=node, qos_flags=flags)


@pytest.mark.parametrize("version", [dm.VERSION_WIN7, dm.VERSION_WIN8, dm.VERSION_WIN10])
def test_the_largest_page_count_is_told_from_version_1_on(version: int) -> None:
    played = DrivenHost(max_page_count=123456)
    played.start(version=version)
    told = dm.InfoMessage(0, dm.INFO_TYPE_MAX_PAGE_CNT, (123456).to_bytes(8, "little"))
    assert played.sent() == (None if version == dm.VERSION_WIN7 else told)
    assert played.sent() is None


def test_memory_that_is_free_in_pieces_is_added_piece_by_piece(played: DrivenHost) -> None:
    source = source_of(played)
    source.free -= set(range(REGION + STEP, REGION + 2 * STEP))
    played.host.set_target(1000 + 3 * STEP, played.now)
    assert played.sent() == asked(REGION, STEP)
    played.says(dm.HotAddResponse(1, STEP, 1))
    assert played.sent() == asked(REGION + 2 * STEP, 2 * STEP, trans_id=1)
    played.says(dm.HotAddResponse(2, 2 * STEP, 1))
    assert played.host.actual_pages == 1000 + 3 * STEP
    assert played.sent() is None


def test_a_dimm_that_comes_counts_as_memory_and_one_that_goes_does_not(played: DrivenHost) -> None:
    played.host.boot_pages += 512
    assert played.host.actual_pages == 1512
    played.host.boot_pages -= 512
    assert played.host.actual_pages == 1000


def test_an_unballoon_that_was_offered_is_built_anew_when_its_pages_are_the_guests_no_more(
    played: DrivenHost,
) -> None:
    played.store.add_given(packed((100, 8), (900, 8)))
    played.host.set_target(1000, played.now)
    assert played.host.takes_pages_next
    offered = played.host.next_message()
    assert offered is not None
    assert not played.host.takes_pages_next  # they are taken
    played.host.withdraw_message()
    assert played.store.removed_pages == 16
    assert played.host.actual_pages == 984
    played.store.pages -= set(range(900, 908))  # of a DIMM that was unplugged
    played.host.boot_pages -= 100
    first = played.sent()
    assert isinstance(first, dm.UnballoonRequest)
    assert pages_of(first.ranges) == list(range(100, 108))
    assert played.host.actual_pages == 900
