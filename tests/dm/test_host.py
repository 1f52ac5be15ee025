"""The host's end against a guest played by hand, byte for byte."""

import pytest
from tests.rigs.driven_host import DEADLINE, WAIT, DrivenHost
from tests.rigs.pages import packed, pages_of
from tests.rigs.stores import PlainSource, PlainStore

from dynmem.dm.events import ActualChanged, Anomaly, BalloonFinished, StatusReported
from dynmem.dm.host import DynamicMemoryHost
from dynmem.dm.options import HostOptions
from dynmem.dm.states import HostState
from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.limits import DM_RANGES_PER_MESSAGE, DM_REPLIES_PENDING
from dynmem.wire import dm


@pytest.fixture
def played() -> DrivenHost:
    played = DrivenHost()
    played.host.reset(0)
    played.start()
    return played


def test_the_states_of_a_start_a_balloon_and_an_unballoon_are_those_that_qemu_traces() -> None:
    played = DrivenHost()
    played.host.reset(0)
    played.start()
    played.host.set_target(900, played.now)
    assert played.sent() == dm.BalloonRequest(0, 100)
    played.gives((0, 100))
    played.host.set_target(1000, played.now)
    assert played.sent() == dm.UnballoonRequest(1, False, packed(*((page, 1) for page in range(100))))
    played.says(dm.UnballoonResponse(100))
    assert played.path() == [
        "S_POST_RESET_CLOSED",
        "S_VERSION",
        "S_CAPS",
        "S_POST_INIT_WAIT",
        "S_IDLE",
        "S_BALLOON_RB_WAIT",
        "S_BALLOON_POSTING",
        "S_BALLOON_REPLY_WAIT",
        "S_IDLE",
        "S_UNBALLOON_RB_WAIT",
        "S_UNBALLOON_POSTING",
        "S_UNBALLOON_REPLY_WAIT",
        "S_IDLE",
    ]
    assert played.events(ActualChanged) == [ActualChanged(900), ActualChanged(1000)]


@pytest.mark.parametrize(
    ("version", "accepted"),
    [
        (dm.make_version(0, 2), False),
        (dm.VERSION_WIN7, True),
        (dm.VERSION_WIN8, True),
        (dm.make_version(1, 7), True),  # compared as one number
        (dm.VERSION_WIN10, True),
        (dm.make_version(2, 1), False),
        (0xFFFF_FFFF, False),
    ],
)
def test_a_version_between_the_oldest_and_the_newest_is_accepted(version: int, accepted: bool) -> None:
    played = DrivenHost()
    played.host.channel_opened(0)
    played.says(dm.VersionRequest(5, version, False))
    assert played.sent() == dm.VersionResponse(5, accepted)
    assert played.state() is (HostState.CAPS if accepted else HostState.VERSION)
    assert played.host.version == (version if accepted else None)


def test_a_refused_last_attempt_ends_the_service_in_order() -> None:
    played = DrivenHost()
    played.host.channel_opened(0)
    played.says(dm.VersionRequest(5, dm.make_version(9, 0), True))
    assert played.sent() == dm.VersionResponse(5, False)
    assert len(played.events(Anomaly)) == 1
    assert played.state() is HostState.REFUSED
    played.host.set_target(10, 0)
    assert played.sent() is None
    assert played.host.deadline_ns() is None


def test_after_a_refused_last_attempt_no_other_version_is_taken_before_the_channel_opens_again() -> None:
    played = DrivenHost()
    played.host.channel_opened(0)
    played.says(dm.VersionRequest(5, dm.make_version(9, 0), True))
    played.sent()
    played.events(Anomaly)
    for message in (
        dm.VersionRequest(6, dm.VERSION_WIN10, False),
        dm.CapabilitiesReport(7, dm.CAP_BALLOON, 0, 0),
    ):
        played.says(message)
        assert played.sent() is None
    assert len(played.events(Anomaly)) == 2
    assert played.state() is HostState.REFUSED
    assert played.host.version is None
    played.host.channel_closed(0)
    played.start()
    assert played.state() is HostState.IDLE


def test_a_refused_attempt_that_is_not_the_last_is_followed_by_the_next() -> None:
    played = DrivenHost()
    played.host.channel_opened(0)
    for trans_id, version in enumerate((dm.make_version(9, 0), dm.make_version(3, 0), dm.VERSION_WIN10)):
        played.says(dm.VersionRequest(trans_id, version, False))
        assert played.sent() == dm.VersionResponse(trans_id, version == dm.VERSION_WIN10)
    assert played.state() is HostState.CAPS
    assert played.events(Anomaly) == []


def test_status_reports_are_not_answered(played: DrivenHost) -> None:
    for number in range(3):
        played.says(dm.StatusReport(number, 10, 20, 0, 0, 0, 0))
        assert played.sent() is None
    assert played.state() is HostState.IDLE
    played.host.set_target(900, played.now)
    assert played.sent() == dm.BalloonRequest(0, 100)  # no transaction id was spent on them
    played.says(dm.StatusReport(4, 10, 20, 0, 0, 0, 0))
    assert played.sent() is None
    assert played.state() is HostState.BALLOON_REPLY_WAIT


@pytest.mark.parametrize("wanted", [True, False])
def test_status_reports_are_suppressed_when_nobody_wants_them(wanted: bool) -> None:
    played = DrivenHost(status_report=wanted)
    played.host.channel_opened(0)
    played.says(dm.VersionRequest(1, dm.VERSION_WIN8, False))
    played.sent()
    played.says(dm.CapabilitiesReport(2, dm.CAP_BALLOON, 0, 0))
    answer = played.sent()
    assert isinstance(answer, dm.CapabilitiesResponse)
    assert (answer.trans_id, answer.is_accepted) == (2, True)
    assert answer.suppress_pressure_reports is not wanted
    played.now = 77
    played.says(dm.StatusReport(3, 10, 20, 0, 0, 0, 0))
    if wanted:
        assert played.host.status == (20 * 4096, 10 * 4096, 77)
        assert played.events(StatusReported) == [StatusReported(20 * 4096, 10 * 4096)]
    else:
        assert played.host.status is None
        assert played.events(StatusReported) == []


@pytest.mark.parametrize(
    ("said", "counted"),
    [(20, 20), (1000, 1000), (1100, 1100), (1101, 1100), ((1 << 32) - 1, 1100), ((1 << 32) + 700, 700)],
    ids=["some", "all", "all-and-the-balloon", "more", "most", "wrapped"],
)
def test_a_guest_commits_no_more_than_it_can_be_given_and_its_balloon(
    played: DrivenHost, said: int, counted: int
) -> None:
    """Linux's count of the balloon wraps when a driver that was loaded again gets pages back."""
    played.host.set_target(900, played.now)
    played.sent()
    played.gives((0, 100))
    played.says(dm.StatusReport(3, 1 << 30, said, 0, 0, 0, 0))
    assert played.host.status == (counted * 4096, 1000 * 4096, played.now)
    assert played.events(StatusReported) == [StatusReported(counted * 4096, 1000 * 4096)]


def test_a_driver_that_is_loaded_again_and_counts_nothing_is_not_said_to_need_nothing(
    played: DrivenHost,
) -> None:
    played.host.set_target(600, played.now)
    played.sent()
    played.gives((0, 400))
    played.says(dm.StatusReport(3, 10, 550 + 400, 0, 0, 0, 0))
    played.host.channel_closed(played.now)
    played.start()
    played.says(dm.StatusReport(3, 10, 560, 0, 0, 0, 0))
    assert played.host.status == ((560 + 400) * 4096, 10 * 4096, played.now)
    played.store.pages.clear()
    played.host.reset(played.now)
    played.start()
    played.says(dm.StatusReport(3, 10, 560, 0, 0, 0, 0))  # of another guest
    assert played.host.status == (560 * 4096, 10 * 4096, played.now)


def test_a_driver_is_not_judged_by_what_the_guest_before_the_reset_had_committed(played: DrivenHost) -> None:
    played.says(dm.StatusReport(3, 10, 500, 0, 0, 0, 0))
    played.host.reset(played.now)
    played.start()
    played.host.set_target(900, played.now)
    played.sent()
    played.gives((0, 100))
    played.host.channel_closed(played.now)
    played.start()
    played.says(dm.StatusReport(3, 10, 420, 0, 0, 0, 0))
    assert played.host.status == (420 * 4096, 10 * 4096, played.now)


def test_what_can_be_added_counts_among_what_a_guest_may_commit() -> None:
    played = DrivenHost(source=PlainSource(4096, 512))
    played.start()
    played.says(dm.StatusReport(3, 10, 5000, 0, 0, 0, 0))
    assert played.host.status == (1512 * 4096, 10 * 4096, played.now)


def test_a_status_report_of_more_pages_than_there_can_be_is_malformed(played: DrivenHost) -> None:
    with pytest.raises(RemoteProtocolError, match="status"):
        played.says(dm.StatusReport(3, (1 << 64) - 1, 20, 0, 0, 0, 0))
    assert played.host.status is None


def test_nothing_is_asked_before_the_wait_after_start_is_over() -> None:
    played = DrivenHost()
    played.host.set_target(500, 0)
    played.host.channel_opened(0)
    played.says(dm.VersionRequest(1, dm.VERSION_WIN10, False))
    played.sent()
    played.says(dm.CapabilitiesReport(2, dm.CAP_BALLOON, 0, 0))
    played.sent()
    assert played.host.deadline_ns() == WAIT
    played.passes(WAIT - 1)
    assert played.state() is HostState.POST_INIT_WAIT
    assert played.sent() is None
    played.passes(1)
    assert played.sent() == dm.BalloonRequest(0, 400)


def test_a_wait_of_nothing_is_over_at_once() -> None:
    host = DynamicMemoryHost(
        store=PlainStore(10), boot_pages=10, options=HostOptions(status_report=False, post_init_wait_ns=0)
    )
    host.channel_opened(5)
    host.receive(dm.encode(dm.VersionRequest(1, dm.VERSION_WIN10, False)), 5)
    host.receive(dm.encode(dm.CapabilitiesReport(2, dm.CAP_BALLOON, 0, 0)), 5)
    assert host.state is HostState.IDLE


def test_a_large_balloon_is_asked_for_in_chunks(played: DrivenHost) -> None:
    played.host.set_target(100, played.now)
    assert played.sent() == dm.BalloonRequest(0, 400)
    assert played.sent() is None
    played.gives((0, 300), more=True)
    assert played.sent() is None
    played.gives((300, 100))
    assert played.sent() == dm.BalloonRequest(1, 400)
    played.gives((400, 400))
    assert played.sent() == dm.BalloonRequest(2, 100)
    played.gives((800, 100))
    assert played.sent() is None
    assert played.state() is HostState.IDLE
    assert played.events(BalloonFinished) == [BalloonFinished(900, 900)]
    assert played.host.actual_pages == 100


def test_a_guest_that_gives_less_is_asked_for_the_rest_until_it_gives_nothing(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    assert played.sent() == dm.BalloonRequest(0, 100)
    played.gives((0, 30))
    assert not played.host.guest_at_floor
    assert played.sent() == dm.BalloonRequest(1, 70)
    played.gives()
    assert played.host.guest_at_floor
    assert played.state() is HostState.IDLE
    assert played.sent() is None
    assert played.events(BalloonFinished) == [BalloonFinished(100, 30)]


def test_the_same_target_again_means_try_again(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    played.gives()
    played.host.set_target(900, played.now)
    assert played.sent() == dm.BalloonRequest(1, 100)
    played.gives((0, 100))
    assert not played.host.guest_at_floor
    played.host.set_target(0, played.now)
    assert played.sent() is None
    assert played.host.target_pages == 900


def test_more_pages_than_were_asked_for_are_taken_and_told(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    played.gives((0, 150))
    assert played.state() is HostState.IDLE
    assert played.host.actual_pages == 850
    (anomaly,) = played.events(Anomaly)
    assert isinstance(anomaly, Anomaly)
    assert "150" in anomaly.text
    assert "100" in anomaly.text


def test_pages_given_twice_or_not_there_are_told_and_end_the_operation_all_the_same(
    played: DrivenHost,
) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    played.gives((0, 40), (0, 40), (990, 20))
    assert played.state() is HostState.IDLE
    assert played.host.actual_pages == 960
    assert played.events(BalloonFinished) == [BalloonFinished(100, 40)]
    assert len(played.events(Anomaly)) == 1


def test_a_silent_guest_becomes_stuck_and_is_asked_for_nothing_new(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    due = played.host.deadline_ns()
    assert due == played.now + DEADLINE
    played.passes(DEADLINE - 1)
    assert played.state() is HostState.BALLOON_REPLY_WAIT
    played.passes(1)
    assert played.state() is HostState.STUCK
    assert played.host.deadline_ns() is None
    played.host.set_target(100, played.now)
    played.host.set_target(2000, played.now)
    played.passes(100 * DEADLINE)
    assert played.sent() is None
    assert played.state() is HostState.STUCK


REPORT = dm.StatusReport(9, 10, 20, 0, 0, 0, 0)


def test_a_guest_that_reports_its_status_is_not_silent_however_long_its_answer_takes(
    played: DrivenHost,
) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    for _ in range(5):
        played.passes(DEADLINE - 1)
        played.says(REPORT)
    assert played.state() is HostState.BALLOON_REPLY_WAIT
    assert played.host.deadline_ns() == played.now + DEADLINE
    assert played.sent() is None  # alive or not, one answer is outstanding
    played.gives((0, 100))
    assert played.state() is HostState.IDLE
    assert played.host.actual_pages == 900


def test_a_status_report_leaves_stuck_when_an_answer_is_awaited(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    played.passes(DEADLINE)
    played.path()
    played.says(REPORT)
    assert played.path() == ["S_BALLOON_REPLY_WAIT"]
    played.passes(DEADLINE)
    assert played.state() is HostState.STUCK


def test_a_status_report_makes_no_room_in_the_ring(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    assert played.host.next_message() is not None
    played.passes(DEADLINE)
    played.says(REPORT)
    assert played.state() is HostState.STUCK


def test_a_guest_that_lives_and_never_answers_is_reported_once_a_request_with_what_linux_means_by_it(
    played: DrivenHost,
) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    played.passes(DEADLINE - 1)
    played.says(REPORT)
    assert played.events(Anomaly) == []  # it is only slow so far
    for _ in range(5):
        played.passes(DEADLINE - 1)
        played.says(REPORT)
    (oddity,) = played.events(Anomaly)
    assert isinstance(oddity, Anomaly)
    assert "ACPI S4" in oddity.text
    played.gives((0, 100))
    played.host.set_target(800, played.now)
    played.sent()
    played.passes(DEADLINE - 1)
    played.says(REPORT)
    played.passes(1)
    played.says(REPORT)
    assert len(played.events(Anomaly)) == 1


def test_a_late_answer_leaves_stuck_and_is_taken_in_full(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    played.passes(DEADLINE)
    played.path()
    played.host.set_target(700, played.now)
    played.gives((0, 60), more=True)
    assert played.path() == ["S_BALLOON_REPLY_WAIT"]
    assert played.host.deadline_ns() == played.now + DEADLINE
    assert played.sent() is None
    played.gives((60, 40))
    assert played.host.actual_pages == 900
    assert played.sent() == dm.BalloonRequest(1, 200)


def test_a_late_unballoon_response_leaves_stuck(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    played.gives((0, 100))
    played.host.set_target(1000, played.now)
    played.sent()
    played.passes(DEADLINE)
    assert played.state() is HostState.STUCK
    played.gives((200, 5))  # not what is awaited
    assert played.state() is HostState.STUCK
    assert played.host.actual_pages == 1000
    played.says(dm.UnballoonResponse(1))
    assert played.state() is HostState.IDLE


def test_progress_begins_the_deadline_anew_and_pages_given_twice_are_no_progress(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    played.passes(DEADLINE - 1)
    played.gives((0, 10), more=True)
    played.passes(DEADLINE - 1)
    assert played.state() is HostState.BALLOON_REPLY_WAIT
    played.gives((0, 10), more=True)
    played.passes(1)
    assert played.state() is HostState.STUCK


def test_only_what_brings_something_ends_being_stuck(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    played.gives((0, 10), more=True)
    played.passes(DEADLINE)
    played.path()
    for spans in ((), ((0, 10),), ((1 << 30, 5),)):  # nothing, nothing new, nothing that there is
        played.gives(*spans, more=True)
        played.passes(DEADLINE)
        assert played.state() is HostState.STUCK
    assert played.path() == []
    played.gives((10, 1), more=True)
    assert played.path() == ["S_BALLOON_REPLY_WAIT"]


def test_a_full_ring_is_waited_for_and_its_emptying_leaves_stuck(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    offered = played.host.next_message()
    played.passes(DEADLINE)
    assert played.state() is HostState.STUCK
    assert played.host.next_message() == offered
    played.path()
    assert played.sent() == dm.BalloonRequest(0, 100)
    assert played.path() == ["S_BALLOON_RB_WAIT", "S_BALLOON_POSTING", "S_BALLOON_REPLY_WAIT"]


def test_an_unballoon_of_many_ranges_takes_several_messages_and_one_answer() -> None:
    played = DrivenHost(boot_pages=4000, chunk=4000)
    played.start()
    played.host.set_target(2800, played.now)
    played.sent()
    for first in (0, 800, 1600):
        played.gives(*((page, 1) for page in range(first, first + 800, 2)), more=first < 1600)
    assert played.host.actual_pages == 2800
    played.host.set_target(4000, played.now)
    parts = [played.sent() for _ in range(3)]
    assert played.sent() is None
    back: list[int] = []
    for part in parts:
        assert isinstance(part, dm.UnballoonRequest)
        assert len(part.ranges) <= DM_RANGES_PER_MESSAGE * 8
        back += pages_of(part.ranges)
    assert [part.more_pages for part in parts if isinstance(part, dm.UnballoonRequest)] == [True, True, False]
    assert sorted(back) == list(range(0, 2400, 2))
    assert played.host.actual_pages == 4000
    played.says(dm.UnballoonResponse(1))
    assert played.state() is HostState.IDLE


class Refusing(PlainStore):
    """Pages that cannot be had again, but for so many."""

    can_have = 0

    def remove_for_guest(self, max_pages: int, max_ranges: int) -> bytes:
        ranges = super().remove_for_guest(min(max_pages, self.can_have), max_ranges)
        self.can_have -= len(pages_of(ranges))
        return ranges


@pytest.mark.parametrize("can_have", [0, 60])
def test_pages_that_the_host_cannot_have_again_stay_in_the_balloon_until_the_next_wish(can_have: int) -> None:
    played = DrivenHost(store=Refusing)
    store = played.store
    assert isinstance(store, Refusing)
    played.start()
    played.host.set_target(900, played.now)
    played.sent()
    played.gives((100, 100))
    store.can_have = can_have
    played.host.set_target(1000, played.now)
    heard = []
    while (message := played.sent()) is not None:
        assert isinstance(message, dm.UnballoonRequest)
        heard.append((len(pages_of(message.ranges)), message.more_pages))
    assert heard == ([(can_have, True), (0, False)] if can_have else [(0, False)])
    played.events(Anomaly)
    played.says(dm.UnballoonResponse(1))
    assert played.state() is HostState.IDLE
    assert played.host.actual_pages == 900 + can_have
    (told,) = played.events(Anomaly)
    assert isinstance(told, Anomaly)
    assert told.text.startswith(f"{100 - can_have} of 100 pages stay in the balloon")
    assert played.host.journal.operations[-1].outcome == "the host has no memory for the rest"
    played.passes(DEADLINE)
    assert played.sent() is None  # not by itself
    store.can_have = 1000
    played.host.set_target(1000, played.now)
    played.sent()
    played.says(dm.UnballoonResponse(2))
    assert played.host.actual_pages == 1000
    assert played.events(Anomaly) == []


def test_a_target_that_changes_cuts_a_running_operation_short_at_the_next_message(
    played: DrivenHost,
) -> None:
    played.host.set_target(100, played.now)
    played.sent()
    played.host.set_target(800, played.now)
    played.gives((0, 400))
    first = played.sent()
    assert isinstance(first, dm.UnballoonRequest)
    assert len(pages_of(first.ranges)) == 200
    assert played.host.actual_pages == 800


def test_a_target_that_changes_makes_the_next_part_of_an_unballoon_the_last() -> None:
    played = DrivenHost(boot_pages=4000, chunk=4000)
    played.start()
    played.host.set_target(2000, played.now)
    played.sent()
    played.gives((0, 2000))
    played.host.set_target(4000, played.now)
    first = played.sent()
    assert isinstance(first, dm.UnballoonRequest)
    assert first.more_pages
    played.host.set_target(1000, played.now)
    second = played.sent()
    assert isinstance(second, dm.UnballoonRequest)
    assert not second.more_pages
    assert played.sent() is None
    played.says(dm.UnballoonResponse(1))
    size = 2000 + 2 * DM_RANGES_PER_MESSAGE
    assert played.host.actual_pages == size
    assert played.sent() == dm.BalloonRequest(2, size - 1000)


def test_a_request_that_is_answered_in_parts_is_not_called_overfull(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    played.gives((0, 60), more=True)
    played.gives((60, 40))
    assert played.events(Anomaly) == []


def test_pages_taken_for_a_message_that_was_never_sent_still_count_as_given_up(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    played.gives((0, 100))
    played.host.set_target(1000, played.now)
    assert played.host.next_message() is not None
    assert played.host.actual_pages == 900
    assert played.store.removed_pages == 0
    played.host.channel_closed(played.now)
    assert played.host.actual_pages == 900
    assert played.store.removed_pages == 100


def test_a_target_outlives_close_and_reopen_and_is_applied_again(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    played.gives((0, 40), more=True)
    played.host.channel_closed(played.now)
    assert played.state() is HostState.WAIT_RESET
    assert played.sent() is None
    assert played.host.actual_pages == 960
    played.start()
    assert played.sent() == dm.BalloonRequest(0, 60)


def test_a_guest_that_comes_after_a_reset_is_asked_for_nothing_of_the_target_before(
    played: DrivenHost,
) -> None:
    played.host.set_target(900, played.now)
    played.sent()
    played.gives((0, 100))
    played.store.pages.clear()
    played.events(ActualChanged)
    played.host.reset(played.now)
    assert played.state() is HostState.POST_RESET_CLOSED
    assert played.events(ActualChanged) == [ActualChanged(1000)]
    assert played.host.target_pages == 1000
    played.start()
    assert played.sent() is None
    assert played.host.actual_pages == 1000


def test_a_target_that_no_guest_was_asked_for_yet_waits_for_the_next_guest() -> None:
    played = DrivenHost()
    played.host.set_target(900, played.now)
    played.host.channel_opened(played.now)
    played.host.channel_closed(played.now)
    played.host.reset(played.now)
    played.start()
    assert played.sent() == dm.BalloonRequest(0, 100)


def test_a_target_that_a_guest_was_asked_for_in_vain_is_over_with_that_guest(played: DrivenHost) -> None:
    played.host.set_target(900, played.now)
    played.sent()  # it never answers
    played.host.channel_closed(played.now)
    played.host.reset(played.now)
    played.start()
    assert played.sent() is None


def test_a_guest_that_cannot_balloon_keeps_its_size_and_that_is_told() -> None:
    played = DrivenHost()
    played.start(caps=dm.CAP_HOT_ADD)
    played.host.set_target(900, played.now)
    assert played.sent() is None
    assert len(played.events(Anomaly)) == 1


def test_a_guest_is_not_shrunk_below_what_its_capabilities_say_it_needs() -> None:
    played = DrivenHost()
    played.start(min_page_cnt=950)
    played.host.set_target(900, played.now)
    assert played.sent() == dm.BalloonRequest(0, 50)


@pytest.mark.parametrize(
    "message",
    [
        dm.DmError(1),
        dm.VersionRequest(1, dm.VERSION_WIN10, False),
        dm.CapabilitiesReport(1, 1, 0, 0),
        dm.BalloonResponse(1, False, packed((0, 10))),
        dm.UnballoonResponse(1),
        dm.HotAddResponse(1, 10, 1),
        dm.HotRemoveResponse(1, 1, False, packed((0, 10))),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_at_the_wrong_time_is_told_and_ignored(played: DrivenHost, message: dm.Message) -> None:
    played.says(message)
    assert len(played.events(Anomaly)) == 1
    assert played.state() is HostState.IDLE
    assert played.host.actual_pages == 1000
    assert played.sent() is None


@pytest.mark.parametrize("message", [dm.BalloonRequest(1, 10), dm.VersionResponse(1, True)])
def test_a_message_that_only_a_host_sends_is_refused(played: DrivenHost, message: dm.Message) -> None:
    with pytest.raises(RemoteProtocolError, match="only a host"):
        played.says(message)


def test_a_guest_that_asks_and_never_reads_is_refused_in_the_end() -> None:
    played = DrivenHost()
    played.host.channel_opened(0)
    for _ in range(DM_REPLIES_PENDING):
        played.says(dm.VersionRequest(1, dm.make_version(9, 9), False))
    with pytest.raises(RemoteProtocolError, match="does not read"):
        played.says(dm.VersionRequest(1, dm.VERSION_WIN10, False))
    assert played.state() is HostState.VERSION
    assert played.host.version is None
    while played.sent() is not None:
        pass
    played.says(dm.VersionRequest(1, dm.VERSION_WIN10, False))
    assert played.state() is HostState.CAPS


def test_a_flood_of_odd_messages_does_not_pile_up(played: DrivenHost) -> None:
    for _ in range(5000):
        played.says(dm.UnballoonResponse(1))
    assert len(played.host.take_events()) < 300


def test_a_message_that_was_not_offered_cannot_have_been_sent(played: DrivenHost) -> None:
    with pytest.raises(LocalProtocolError):
        played.host.message_sent(played.now)


def test_an_open_channel_cannot_be_opened(played: DrivenHost) -> None:
    with pytest.raises(LocalProtocolError, match="OPEN in S_IDLE"):
        played.host.channel_opened(played.now)
    assert played.host.capabilities is not None
