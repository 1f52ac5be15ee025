"""The guest's end against a host played by hand."""

import pytest
from tests.rigs.pages import packed, pages_of
from tests.rigs.stores import PlainPages

from dynmem.dm.events import Anomaly, BalloonedDown, BalloonedUp, ServiceFailed
from dynmem.dm.guest import DynamicMemoryGuest
from dynmem.dm.habits import Habits, balloon_floor
from dynmem.dm.options import ANSWER_DEADLINE_NS, GuestOptions
from dynmem.dm.states import GuestState
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.limits import DM_RANGES_PER_MESSAGE
from dynmem.units import NS_PER_S
from dynmem.wire import dm

TOTAL = 16384  # 64 MiB: a floor of 40 MiB
FLOOR = balloon_floor(TOTAL)
VERSIONS = (dm.VERSION_WIN10, dm.VERSION_WIN8, dm.VERSION_WIN7)


class Played:
    """A guest, and the host's side of it as the test wants it."""

    def __init__(self, *, used: int = 0, run: int = 1, status_delay_ns: int = NS_PER_S) -> None:
        self.pages = PlainPages(TOTAL, used=used, run=run)
        self.guest = DynamicMemoryGuest(
            pages=self.pages, total_pages=TOTAL, options=GuestOptions(status_delay_ns=status_delay_ns)
        )
        self.now = 0

    def state(self) -> GuestState:
        return self.guest.state

    def sent(self) -> dm.Message | None:
        """Let the guest send one message."""
        data = self.guest.next_message()
        if data is None:
            return None
        assert self.guest.next_message() == data
        self.guest.message_sent(self.now)
        return dm.decode(data)

    def says(self, message: dm.Message) -> None:
        self.guest.receive(dm.encode(message), self.now)

    def start(self, *, suppress: bool = False) -> None:
        self.guest.channel_opened(self.now)
        assert isinstance(self.sent(), dm.VersionRequest)
        self.says(dm.VersionResponse(0, True))
        assert isinstance(self.sent(), dm.CapabilitiesReport)
        self.says(dm.CapabilitiesResponse(1, True, False, suppress))
        assert self.guest.state is GuestState.INITIALIZED

    def passes(self, ns: int) -> None:
        self.now += ns
        self.guest.tick(self.now)

    def events(self, kind: type) -> list[object]:
        return [event for event in self.guest.take_events() if isinstance(event, kind)]


@pytest.fixture
def played() -> Played:
    played = Played()
    played.start()
    return played


def test_versions_are_tried_from_the_newest_down_and_the_last_attempt_says_so() -> None:
    played = Played()
    played.guest.channel_opened(0)
    for trans_id, version in enumerate(VERSIONS):
        assert played.sent() == dm.VersionRequest(trans_id, version, version == dm.VERSION_WIN7)
        assert played.sent() is None
        played.says(dm.VersionResponse(trans_id, False))
    assert played.state() is GuestState.INIT_ERROR
    assert played.sent() is None
    assert played.guest.deadline_ns() is None
    assert len(played.events(ServiceFailed)) == 1


@pytest.mark.parametrize("accepted", VERSIONS)
def test_each_version_that_the_host_takes_is_gone_on_with(accepted: int) -> None:
    played = Played()
    played.guest.channel_opened(0)
    while played.state() is GuestState.VERSION_WAIT:
        request = played.sent()
        assert isinstance(request, dm.VersionRequest)
        played.says(dm.VersionResponse(request.trans_id, request.version == accepted))
    assert played.guest.version == accepted
    report = played.sent()
    assert isinstance(report, dm.CapabilitiesReport)
    assert report.caps == dm.CAP_BALLOON
    assert report.max_page_number == (1 << 64) - 1


def test_refused_capabilities_end_the_service() -> None:
    played = Played()
    played.guest.channel_opened(0)
    played.sent()
    played.says(dm.VersionResponse(0, True))
    played.sent()
    played.says(dm.CapabilitiesResponse(1, False, False, False))
    assert played.state() is GuestState.INIT_ERROR
    played.passes(100 * NS_PER_S)
    assert played.sent() is None
    played.says(dm.BalloonRequest(0, 10))
    assert played.sent() is None
    assert len(played.events(Anomaly)) == 1


@pytest.mark.parametrize("answered", [0, 1])
def test_a_host_that_does_not_answer_ends_the_service_after_five_seconds(answered: int) -> None:
    played = Played()
    played.guest.channel_opened(0)
    played.sent()
    if answered:
        played.says(dm.VersionResponse(0, True))
        played.sent()
    assert played.guest.deadline_ns() == ANSWER_DEADLINE_NS
    played.passes(ANSWER_DEADLINE_NS - 1)
    assert played.state() is not GuestState.INIT_ERROR
    played.passes(1)
    assert played.state() is GuestState.INIT_ERROR
    played.says(dm.VersionResponse(0, True))
    assert played.state() is GuestState.INIT_ERROR
    assert played.sent() is None


def test_a_failed_service_comes_up_when_the_channel_is_opened_again() -> None:
    played = Played()
    played.guest.channel_opened(0)
    played.passes(ANSWER_DEADLINE_NS)
    played.guest.channel_closed(played.now)
    played.start()


def test_status_counts_given_up_pages_and_the_floor_as_committed_as_linux_does() -> None:
    played = Played(used=1000)
    played.start()
    played.says(dm.BalloonRequest(0, 500))
    assert isinstance(played.sent(), dm.BalloonResponse)
    played.passes(NS_PER_S)
    report = played.sent()
    assert isinstance(report, dm.StatusReport)
    assert report.num_avail == TOTAL - 1000 - 500
    assert report.num_committed == 1000 + 500 + balloon_floor(TOTAL - 500)
    assert (report.page_file_size, report.zero_free, report.page_file_writes, report.io_diff) == (0, 0, 0, 0)


def test_status_is_sent_once_a_second_and_never_piles_up(played: Played) -> None:
    assert played.guest.deadline_ns() == NS_PER_S
    played.passes(NS_PER_S)
    for _ in range(5):
        played.passes(NS_PER_S)  # the ring is full all the while
    assert isinstance(played.sent(), dm.StatusReport)
    assert played.sent() is None
    assert played.guest.deadline_ns() == played.now + NS_PER_S


def test_status_is_not_sent_to_a_host_that_suppresses_it() -> None:
    played = Played()
    played.start(suppress=True)
    assert played.guest.deadline_ns() is None
    played.passes(100 * NS_PER_S)
    assert played.sent() is None


def test_a_request_is_answered_over_several_responses(played: Played) -> None:
    played.says(dm.BalloonRequest(0, 1200))
    answers = [played.sent() for _ in range(3)]
    assert played.sent() is None
    pages: list[int] = []
    for answer in answers:
        assert isinstance(answer, dm.BalloonResponse)
        assert len(answer.ranges) <= DM_RANGES_PER_MESSAGE * 8
        pages += pages_of(answer.ranges)
    assert [answer.more_pages for answer in answers if isinstance(answer, dm.BalloonResponse)] == [
        True,
        True,
        False,
    ]
    assert set(pages) == played.pages.ballooned
    assert len(pages) == 1200 == played.guest.ballooned_pages
    assert played.events(BalloonedUp) == [BalloonedUp(1200, 1200)]


def test_a_guest_gives_what_it_has_above_its_floor_and_no_more() -> None:
    played = Played(used=1000, run=4096)
    played.start()
    played.says(dm.BalloonRequest(0, TOTAL))
    answer = played.sent()
    assert isinstance(answer, dm.BalloonResponse)
    assert not answer.more_pages
    assert len(pages_of(answer.ranges)) == TOTAL - 1000 - FLOOR
    assert played.pages.available_pages == FLOOR


def test_the_floor_follows_the_size_so_a_second_request_gets_more() -> None:
    played = Played(run=4096)
    played.start()
    given = 0
    for _ in range(3):
        floor = played.guest.floor_pages
        assert floor == balloon_floor(TOTAL - given)
        played.says(dm.BalloonRequest(0, TOTAL))
        answer = played.sent()
        assert isinstance(answer, dm.BalloonResponse)
        assert played.pages.available_pages == floor
        given += len(pages_of(answer.ranges))
        assert played.guest.ballooned_pages == given


def test_a_guest_at_its_floor_answers_with_nothing() -> None:
    played = Played(used=TOTAL - FLOOR)
    played.start()
    played.says(dm.BalloonRequest(0, 100))
    assert played.sent() == dm.BalloonResponse(2, False, b"")
    assert played.state() is GuestState.INITIALIZED
    assert played.guest.ballooned_pages == 0


def test_a_request_ends_empty_when_the_allocator_runs_dry_on_the_way(played: Played) -> None:
    played.says(dm.BalloonRequest(0, 1000))
    first = played.sent()
    assert isinstance(first, dm.BalloonResponse)
    assert first.more_pages
    played.pages.free.clear()
    last = played.sent()
    assert isinstance(last, dm.BalloonResponse)
    assert (last.more_pages, last.ranges) == (False, b"")
    assert played.events(BalloonedUp) == [BalloonedUp(1000, DM_RANGES_PER_MESSAGE)]


def test_answers_carry_the_guests_own_transaction_ids(played: Played) -> None:
    played.says(dm.BalloonRequest(4711, 10))
    answer = played.sent()
    assert isinstance(answer, dm.BalloonResponse)
    assert answer.trans_id == 2
    played.says(dm.UnballoonRequest(4712, False, answer.ranges))
    assert played.sent() == dm.UnballoonResponse(3)


def test_pages_that_are_given_back_are_freed_and_answered_once(played: Played) -> None:
    played.says(dm.BalloonRequest(0, 100))
    answer = played.sent()
    assert isinstance(answer, dm.BalloonResponse)
    pages = pages_of(answer.ranges)
    half = packed(*((page, 1) for page in pages[:50]))
    played.says(dm.UnballoonRequest(1, True, half))
    assert played.state() is GuestState.BALLOON_DOWN
    assert played.sent() is None
    played.says(dm.UnballoonRequest(1, False, packed((min(pages[50:]), 50))))
    assert played.sent() == dm.UnballoonResponse(3)
    assert played.sent() is None
    assert played.guest.ballooned_pages == 0
    assert played.pages.available_pages == TOTAL
    assert played.events(BalloonedDown) == [BalloonedDown(50), BalloonedDown(50)]


@pytest.mark.parametrize(
    "spans",
    [
        [(0, 1)],
        [(TOTAL - 101, 101)],
        [(TOTAL - 5, 5), (TOTAL - 1, 1)],
        [(TOTAL - 1, 2)],
        [((1 << 40) - 1, (1 << 24) - 1)],
        [(TOTAL - 5, 0)],
    ],
)
def test_pages_that_were_not_given_are_not_taken_back(played: Played, spans: list[tuple[int, int]]) -> None:
    played.says(dm.BalloonRequest(0, 100))
    played.sent()
    with pytest.raises(RemoteProtocolError, match="host returns"):
        played.says(dm.UnballoonRequest(1, False, packed(*spans)))
    assert played.guest.ballooned_pages == 100
    assert played.pages.available_pages == TOTAL - 100
    assert played.sent() is None
    assert played.state() is GuestState.INITIALIZED


def test_pages_are_not_taken_back_twice(played: Played) -> None:
    played.says(dm.BalloonRequest(0, 100))
    answer = played.sent()
    assert isinstance(answer, dm.BalloonResponse)
    played.says(dm.UnballoonRequest(1, True, answer.ranges))
    with pytest.raises(RemoteProtocolError, match="host returns"):
        played.says(dm.UnballoonRequest(1, False, answer.ranges))


def test_a_second_request_while_one_is_answered_is_refused(played: Played) -> None:
    played.says(dm.BalloonRequest(0, 1000))
    for message in (dm.BalloonRequest(1, 10), dm.UnballoonRequest(1, False, b"")):
        with pytest.raises(RemoteProtocolError, match="BALLOON_UP"):
            played.says(message)
    assert isinstance(played.sent(), dm.BalloonResponse)


def test_a_close_frees_what_was_not_sent_and_keeps_what_was(played: Played) -> None:
    played.says(dm.BalloonRequest(0, 1000))
    played.sent()
    assert played.guest.next_message() is not None
    assert len(played.pages.ballooned) == 1000
    played.guest.channel_closed(played.now)
    assert len(played.pages.ballooned) == DM_RANGES_PER_MESSAGE == played.guest.ballooned_pages
    played.start()
    assert played.sent() is None
    back = packed(*((page, 1) for page in sorted(played.pages.ballooned)))
    played.says(dm.UnballoonRequest(1, False, back))
    assert played.pages.available_pages == TOTAL


def test_the_largest_page_count_is_kept_and_other_information_skipped(played: Played) -> None:
    played.says(dm.InfoMessage(0, dm.INFO_TYPE_MAX_PAGE_CNT, (12345).to_bytes(8, "little")))
    assert played.guest.max_page_count == 12345
    played.says(dm.InfoMessage(0, 9, bytes(16)))
    assert len(played.events(Anomaly)) == 1
    with pytest.raises(RemoteProtocolError, match="4 bytes"):
        played.says(dm.InfoMessage(0, dm.INFO_TYPE_MAX_PAGE_CNT, bytes(4)))
    assert played.guest.max_page_count == 12345


def test_a_guest_that_cannot_hot_add_says_that_it_never_will(played: Played) -> None:
    played.says(dm.HotAddRequest(0, TOTAL | 256 << 40))
    assert played.sent() == dm.HotAddResponse(2, 0, 1)


@pytest.mark.parametrize("message", [dm.BalloonResponse(1, False, b""), dm.StatusReport(1, 0, 0, 0, 0, 0, 0)])
def test_a_message_that_only_a_guest_sends_is_refused(played: Played, message: dm.Message) -> None:
    with pytest.raises(RemoteProtocolError, match="only a guest"):
        played.says(message)


def test_a_host_that_asks_and_never_reads_is_refused_and_loses_nothing(played: Played) -> None:
    played.says(dm.BalloonRequest(0, 100))
    answer = played.sent()
    assert isinstance(answer, dm.BalloonResponse)
    pages = pages_of(answer.ranges)
    refused = 0
    for page in pages:
        try:
            played.says(dm.UnballoonRequest(1, False, packed((page, 1))))
        except RemoteProtocolError:
            refused += 1
    assert refused
    assert played.guest.ballooned_pages == refused == len(played.pages.ballooned)


def test_an_allocator_that_gives_a_page_twice_is_our_own_fault(played: Played) -> None:
    played.says(dm.BalloonRequest(0, 100))
    played.sent()
    played.pages.free |= played.pages.ballooned
    played.says(dm.BalloonRequest(0, 100))
    assert played.guest.next_message() is not None
    with pytest.raises(LocalProtocolError, match="the balloon has"):
        played.guest.message_sent(played.now)


def test_a_guest_without_a_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version"):
        Habits(versions=())
