"""Memory that is added to the guest and taken for good, and other guests' habits; the host is played."""

import pytest
from tests.rigs.pages import pages_of
from tests.rigs.stores import PlainBlocks, PlainPages

from dynmem.dm.events import Anomaly, Crashed, HotAdded, HotRemoved
from dynmem.dm.guest import DynamicMemoryGuest
from dynmem.dm.habits import LINUX, Habits, balloon_floor
from dynmem.dm.options import GuestOptions
from dynmem.dm.states import GuestState
from dynmem.dm.windows import WINDOWS
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.units import NS_PER_S
from dynmem.wire import dm

TOTAL = 16384
STEP = 256
REGION = 4 * TOTAL
LIMIT = REGION + 64 * STEP


class Played:
    """A guest with such a kernel, and the host's side of it."""

    def __init__(self, *, habits: Habits = LINUX, alignment: int = STEP, attempts: int = 3) -> None:
        self.blocks = PlainBlocks(alignment, LIMIT)
        self.pages = PlainPages(TOTAL)
        self.guest = DynamicMemoryGuest(
            pages=self.pages,
            total_pages=TOTAL,
            blocks=self.blocks,
            options=GuestOptions(
                status_delay_ns=1 << 60, page_limit=LIMIT, hot_add_attempts=attempts, habits=habits
            ),
        )
        self.now = 0

    def sent(self) -> dm.Message | None:
        data = self.guest.next_message()
        if data is None:
            return None
        self.guest.message_sent(self.now)
        return dm.decode(data)

    def says(self, message: dm.Message) -> None:
        self.guest.receive(dm.encode(message), self.now)

    def start(self, *, hot_remove: bool = True, refusals: int = 0) -> dm.CapabilitiesReport:
        self.guest.channel_opened(self.now)
        for number in range(refusals + 1):
            self.sent()
            self.says(dm.VersionResponse(0, number == refusals))
        report = self.sent()
        assert isinstance(report, dm.CapabilitiesReport)
        self.says(dm.CapabilitiesResponse(1, True, hot_remove, False))
        assert self.guest.state is GuestState.INITIALIZED
        return report

    def passes(self, ns: int) -> None:
        self.now += ns
        self.guest.tick(self.now)

    def offers(self, start: int, pages: int) -> None:
        word = start | pages << 40
        self.says(dm.HotAddRequest(0, word, word))

    def answer(self) -> tuple[int, int] | None:
        message = self.sent()
        assert message is None or isinstance(message, dm.HotAddResponse)
        return None if message is None else (message.page_count, message.result)

    def events(self, kind: type) -> list[object]:
        return [event for event in self.guest.take_events() if isinstance(event, kind)]

    def state(self) -> GuestState:
        return self.guest.state


@pytest.fixture
def played() -> Played:
    played = Played()
    played.start()
    return played


@pytest.mark.parametrize(("alignment", "shift"), [(256, 0), (32768, 7), (1 << 23, 15)])
def test_the_capabilities_tell_alignment_and_last_page(alignment: int, shift: int) -> None:
    report = Played(alignment=alignment).start()
    assert report.caps == dm.CAP_BALLOON | dm.CAP_HOT_ADD | dm.CAP_HOT_REMOVE | shift << 2
    assert dm.hot_add_alignment_bytes(report.caps) == alignment * 4096
    assert report.max_page_number == LIMIT - 1


def test_memory_that_is_added_counts_as_the_guests_own(played: Played) -> None:
    played.offers(REGION, 2 * STEP)
    assert played.answer() == (2 * STEP, 1)
    assert played.guest.total_pages == TOTAL + 2 * STEP
    assert played.guest.floor_pages == balloon_floor(TOTAL + 2 * STEP)
    assert played.events(HotAdded) == [HotAdded(2 * STEP, 2 * STEP)]
    assert played.state() is GuestState.INITIALIZED


def test_the_shorter_form_is_taken_too(played: Played) -> None:
    played.says(dm.HotAddRequest(0, REGION | STEP << 40))
    assert played.answer() == (STEP, 1)


def test_a_guest_that_is_short_of_resources_holds_its_answer_until_it_can(played: Played) -> None:
    played.blocks.short = [0, 0]
    played.offers(REGION, STEP)
    assert played.answer() is None
    assert played.state() is GuestState.HOT_ADD
    assert played.guest.deadline_ns() == NS_PER_S
    played.passes(NS_PER_S)
    assert played.answer() is None
    played.passes(NS_PER_S)
    assert played.answer() == (STEP, 1)
    assert len(played.blocks.calls) == 3


def test_after_so_many_attempts_in_vain_the_request_is_failed_and_may_be_made_again(played: Played) -> None:
    played.blocks.short = [0, 0, 0]
    played.offers(REGION, STEP)
    played.passes(NS_PER_S)
    assert played.answer() is None
    played.passes(NS_PER_S)
    assert played.answer() == (0, 0)
    assert played.guest.total_pages == TOTAL
    played.offers(REGION, STEP)
    assert played.answer() == (STEP, 1)


def test_an_attempt_that_adds_something_is_not_in_vain(played: Played) -> None:
    played.blocks.short = [10, 0, 20, 0, 0]
    played.offers(REGION, STEP)
    for _ in range(4):
        assert played.answer() is None
        played.passes(NS_PER_S)
    assert played.answer() == (30, 1)
    assert played.blocks.calls[-1] == (REGION + 30, STEP - 30)
    assert played.guest.total_pages == TOTAL + 30


@pytest.mark.parametrize("room", [0, 100])
def test_a_barrier_is_told_as_fewer_pages_with_result_1(played: Played, room: int) -> None:
    played.blocks.barrier = REGION + room
    played.offers(REGION, STEP)
    assert played.answer() == (room, 1)


@pytest.mark.parametrize(
    ("start", "pages"),
    [(0, STEP), (REGION + 1, STEP), (REGION, STEP + 1), (LIMIT, STEP), (LIMIT - STEP, 2 * STEP)],
    ids=["its-own", "start", "length", "above", "over-the-end"],
)
def test_memory_that_cannot_be_added_is_never_tried(played: Played, start: int, pages: int) -> None:
    played.offers(start, pages)
    assert played.answer() == (0, 1)
    assert played.blocks.calls == []
    assert len(played.events(Anomaly)) == 1


def test_memory_is_not_added_twice(played: Played) -> None:
    played.offers(REGION, STEP)
    assert played.answer() == (STEP, 1)
    played.offers(REGION, 2 * STEP)
    assert played.answer() == (0, 1)
    assert played.guest.total_pages == TOTAL + STEP


@pytest.mark.parametrize("region", [None, (REGION + STEP) | STEP << 40, REGION | (STEP - 1) << 40])
def test_an_offer_of_nothing_or_outside_its_region_is_malformed(played: Played, region: int | None) -> None:
    pages = 0 if region is None else STEP
    with pytest.raises(RemoteProtocolError, match="region"):
        played.says(dm.HotAddRequest(0, REGION | pages << 40, region))
    assert played.state() is GuestState.INITIALIZED


def test_a_host_that_asks_for_something_else_meanwhile_is_refused(played: Played) -> None:
    played.blocks.short = [0]
    played.offers(REGION, STEP)
    with pytest.raises(RemoteProtocolError, match="in HOT_ADD"):
        played.offers(REGION + STEP, STEP)
    with pytest.raises(RemoteProtocolError, match="in HOT_ADD"):
        played.says(dm.BalloonRequest(0, 10))
    played.passes(NS_PER_S)
    assert played.answer() == (STEP, 1)


def test_pages_go_for_good_over_several_responses(played: Played) -> None:
    played.offers(REGION, STEP)
    played.sent()
    played.says(dm.HotRemoveRequest(0, 2, 150, dm.REMOVE_QOS_LARGE))
    assert played.state() is GuestState.HOT_REMOVE
    first, second = played.sent(), played.sent()
    assert isinstance(first, dm.HotRemoveResponse)
    assert isinstance(second, dm.HotRemoveResponse)
    assert (first.result, first.more_pages, len(first.ranges)) == (1, True, 800)
    assert (second.result, second.more_pages, len(second.ranges)) == (1, False, 400)
    assert played.sent() is None
    assert played.blocks.flags == (2, dm.REMOVE_QOS_LARGE)
    assert played.guest.total_pages == TOTAL + STEP - 150
    assert played.events(HotRemoved) == [HotRemoved(150, 150)]
    assert played.state() is GuestState.INITIALIZED


def test_a_hot_remove_that_runs_dry_ends_with_an_empty_response(played: Played) -> None:
    played.offers(REGION, STEP)
    played.sent()
    played.says(dm.HotRemoveRequest(0, 0, 1000, 0))
    answers = [played.sent() for _ in range(4)]
    assert answers[-1] == dm.HotRemoveResponse(6, 1, False, b"")
    assert played.guest.total_pages == TOTAL
    assert played.state() is GuestState.INITIALIZED


def test_a_guest_with_nothing_to_remove_says_that_it_failed(played: Played) -> None:
    played.says(dm.HotRemoveRequest(0, 0, 10, 0))
    assert played.sent() == dm.HotRemoveResponse(2, 0, False, b"")


def test_pages_taken_out_for_a_response_that_was_never_sent_are_used_again(played: Played) -> None:
    played.offers(REGION, STEP)
    played.sent()
    played.says(dm.HotRemoveRequest(0, 0, 10, 0))
    assert played.guest.next_message() is not None
    assert len(played.blocks.added) == STEP - 10
    played.guest.channel_closed(played.now)
    assert len(played.blocks.added) == STEP
    assert played.guest.total_pages == TOTAL + STEP


def test_a_hot_remove_that_was_not_agreed_on_is_skipped() -> None:
    played = Played()
    played.start(hot_remove=False)
    played.says(dm.HotRemoveRequest(0, 0, 10, 0))
    assert played.sent() is None
    assert len(played.events(Anomaly)) == 1


@pytest.mark.parametrize(
    ("refusals", "knows"), [(0, True), (1, False), (2, False)], ids=["2.0", "1.0", "0.3"]
)
def test_a_guest_knows_hot_remove_from_version_2_on(refusals: int, knows: bool) -> None:
    played = Played()
    played.start(refusals=refusals)
    if knows:
        played.says(dm.HotRemoveRequest(0, 0, 0, 0))
        assert isinstance(played.sent(), dm.HotRemoveResponse)
        return
    with pytest.raises(RemoteProtocolError, match="unknown"):
        played.says(dm.HotRemoveRequest(0, 0, 10, 0))
    assert played.sent() is None
    assert played.state() is GuestState.INITIALIZED


@pytest.mark.parametrize(("refusals", "knows"), [(0, True), (1, True), (2, False)], ids=["2.0", "1.0", "0.3"])
def test_a_guest_knows_information_from_version_1_on(refusals: int, knows: bool) -> None:
    played = Played()
    played.start(refusals=refusals)
    told = dm.InfoMessage(0, dm.INFO_TYPE_MAX_PAGE_CNT, (12345).to_bytes(8, "little"))
    if knows:
        played.says(told)
    else:
        with pytest.raises(RemoteProtocolError, match="unknown"):
            played.says(told)
    assert played.guest.max_page_count == (12345 if knows else None)


def test_removing_what_is_in_the_balloon_is_our_own_fault(played: Played) -> None:
    played.says(dm.BalloonRequest(0, 10))
    response = played.sent()
    assert isinstance(response, dm.BalloonResponse)
    played.blocks.added = set(pages_of(response.ranges))
    played.says(dm.HotRemoveRequest(0, 0, 10, 0))
    with pytest.raises(LocalProtocolError, match="does not have"):
        played.sent()


@pytest.mark.parametrize("habits", [LINUX, WINDOWS])
def test_added_memory_stays_over_a_reconnect(habits: Habits) -> None:
    played = Played(habits=habits)
    played.start()
    played.passes(habits.settles_ns)
    played.offers(REGION, STEP)
    played.sent()
    played.guest.channel_closed(played.now)
    played.start()
    played.passes(habits.settles_ns)
    assert played.guest.total_pages == TOTAL + STEP
    played.offers(REGION, STEP)
    assert played.answer() == (0, 1)


def test_a_windows_guest_does_not_answer_a_request_above_585728_pages() -> None:
    played = Played(habits=WINDOWS)
    played.start()
    played.passes(50 * NS_PER_S)
    played.says(dm.BalloonRequest(0, 585_729))
    assert played.sent() is None
    assert played.state() is GuestState.INITIALIZED
    played.says(dm.BalloonRequest(0, 585_728))
    assert isinstance(played.sent(), dm.BalloonResponse)


@pytest.mark.parametrize(
    "request_",
    [
        dm.BalloonRequest(0, 1),
        dm.UnballoonRequest(0, False, b""),
        dm.HotAddRequest(0, REGION | STEP << 40),
        dm.HotRemoveRequest(0, 0, 1, 0),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_windows_guest_that_is_asked_too_early_is_gone(request_: dm.Message) -> None:
    played = Played(habits=WINDOWS)
    played.start()
    played.passes(50 * NS_PER_S - 1)
    played.says(request_)
    assert played.state() is GuestState.CRASHED
    assert len(played.events(Crashed)) == 1
    played.says(dm.BalloonRequest(0, 1))
    played.guest.channel_closed(played.now)
    played.guest.channel_opened(played.now)
    played.passes(100 * NS_PER_S)
    assert played.sent() is None
    assert played.guest.deadline_ns() is None
    assert played.state() is GuestState.CRASHED


def test_information_is_no_request_and_crashes_nobody() -> None:
    played = Played(habits=WINDOWS)
    played.start()
    played.says(dm.InfoMessage(0, dm.INFO_TYPE_MAX_PAGE_CNT, (77).to_bytes(8, "little")))
    assert played.guest.max_page_count == 77
    assert played.state() is GuestState.INITIALIZED
