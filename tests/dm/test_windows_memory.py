"""What is documented of a Windows guest's reports, balloon and added memory; each on the wire."""

import pytest
from tests.rigs.pages import packed
from tests.rigs.windows import LIMIT, REGION, RUN, STEP, TOTAL, Played, only, shows

from dynmem.dm.habits import LINUX, Habits
from dynmem.dm.options import POST_INIT_WAIT_NS, REPLY_DEADLINE_NS
from dynmem.dm.states import GuestState, HostState
from dynmem.dm.windows import Release, windows
from dynmem.limits import DM_MESSAGE_BYTES_MAX
from dynmem.units import NS_PER_S, PAGE_SIZE
from dynmem.wire import dm

LARGEST = 585_728


def last_report(played: Played) -> dm.StatusReport:
    report = played.said(dm.StatusReport)[-1]
    assert isinstance(report, dm.StatusReport)
    return report


@shows("reports-every-second")
def test_it_reports_once_a_second() -> None:
    played = Played(windows()).start()
    before = len(played.said(dm.StatusReport))
    played.passes(10)
    assert len(played.said(dm.StatusReport)) == before + 10
    assert played.host.status is not None
    assert played.host.status.at_ns == played.wire.now


@shows("reports-its-page-file", "available-is-mostly-cache")
def test_it_reports_a_page_file_and_that_most_of_what_is_available_is_cache() -> None:
    played = Played(windows(), committed=TOTAL + 500).start()
    report = last_report(played)
    assert report.num_avail == played.pages.available_pages
    assert 0 < report.zero_free < report.num_avail
    assert (report.page_file_size, report.page_file_writes) == (TOTAL, 500)
    played = Played(LINUX).start()
    report = last_report(played)
    assert (report.zero_free, report.page_file_size, report.page_file_writes) == (0, 0, 0)


@shows("commits-more-than-it-has")
def test_it_may_commit_more_than_its_memory_and_our_host_believes_what_can_be() -> None:
    played = Played(windows(), committed=TOTAL + 5000).start()
    assert last_report(played).num_committed == TOTAL + 5000
    assert played.host.status is not None
    assert played.host.status.committed_bytes == (TOTAL + 5000) * PAGE_SIZE
    played = Played(windows(), committed=9 * TOTAL).start()
    assert played.host.status is not None
    assert played.host.status.committed_bytes == (TOTAL + 2 * STEP) * PAGE_SIZE


@shows("counts-the-balloon", "no-reserve")
def test_what_is_given_up_counts_as_committed_and_no_reserve_does() -> None:
    played = Played(windows(), committed=7000).start()
    assert last_report(played).num_committed == 7000
    played.target(TOTAL - 3000)
    played.passes(1)
    assert last_report(played).num_committed == 10_000
    played.target(TOTAL)
    played.passes(1)
    assert last_report(played).num_committed == 7000


@shows("no-reserve")
def test_it_gives_its_last_free_page_where_linux_keeps_a_reserve() -> None:
    sizes = []
    for habits in (only("no-reserve"), LINUX):
        played = Played(habits).start()
        spare = played.pages.available_pages
        played.target(TOTAL - spare)
        sizes.append(TOTAL - spare - played.host.actual_pages)
        assert played.host.state is HostState.IDLE
    assert sizes[0] == 0
    assert sizes[1] < 0


@shows("settles-50-seconds")
@pytest.mark.parametrize("short_ns", [0, NS_PER_S])
def test_a_request_within_50_seconds_is_its_end_and_our_hosts_wait_after_start_prevents_that(
    short_ns: int,
) -> None:
    played = Played(only("settles-50-seconds"), wait_ns=POST_INIT_WAIT_NS - short_ns)
    played.target(TOTAL // 2)
    played.start()
    assert (played.guest.state is GuestState.CRASHED) is (short_ns > 0)
    assert played.host.actual_pages == (TOTAL if short_ns else TOTAL // 2)


@shows("ignores-large-requests")
def test_a_request_for_too_many_pages_is_ignored_and_our_host_never_makes_one() -> None:
    played = Played(only("ignores-large-requests")).start()
    played.guest.receive(dm.encode(dm.BalloonRequest(0, LARGEST + 1)), played.wire.now)
    assert played.guest.next_message() is None
    assert played.guest.state is GuestState.INITIALIZED
    played.target(TOTAL // 4)
    requests = [request.num_pages for request in played.said(dm.BalloonRequest)]
    assert requests == [LARGEST, TOTAL - TOTAL // 4 - LARGEST]
    assert played.host.actual_pages == TOTAL // 4


@shows("long-responses")
def test_a_response_may_be_longer_than_a_page_and_our_host_takes_all_of_it() -> None:
    played = Played(only("long-responses")).start()
    played.target(TOTAL - 1020 * RUN)
    sizes = [size for message, size in played.wire.seen if isinstance(message, dm.BalloonResponse)]
    assert sizes[0] > DM_MESSAGE_BYTES_MAX
    assert played.host.actual_pages == TOTAL - 1020 * RUN
    assert played.anomalies() == []


@shows("all-or-nothing")
def test_a_request_that_is_too_large_gets_no_pages_and_a_smaller_one_all() -> None:
    played = Played(only("all-or-nothing")).start()
    while (over := played.pages.available_pages - played.guest.floor_pages - 5000) > 0:
        played.pages.allocate_for_balloon(over)
    played.target(TOTAL - 5001)
    assert [response.ranges for response in played.said(dm.BalloonResponse)] == [b""]
    assert (played.host.state, played.host.actual_pages) == (HostState.IDLE, TOTAL)
    assert played.host.guest_at_floor
    played.target(TOTAL - 5000)
    assert played.host.actual_pages == TOTAL - 5000
    assert not played.host.guest_at_floor


@shows("adds-zero-pages")
def test_it_answers_zero_pages_for_what_its_kernel_does_not_take_and_is_asked_no_more() -> None:
    played = Played(windows()).start()
    played.blocks.barrier = REGION
    for _ in range(2):
        played.target(TOTAL + STEP)
        played.passes(60)
    assert [(answer.page_count, answer.result) for answer in played.said(dm.HotAddResponse)] == [(0, 1)]
    assert (played.host.state, played.host.actual_pages) == (HostState.IDLE, TOTAL)
    played.target(TOTAL - 1000)
    assert played.host.actual_pages == TOTAL - 1000


@shows("stops-without-an-answer")
def test_a_driver_that_stops_makes_our_host_stuck_until_its_channel_closes() -> None:
    played = Played(windows()).start()
    played.blocks.unsupported = True
    played.target(TOTAL + STEP)
    assert played.said(dm.HotAddResponse) == []
    assert played.guest.state is GuestState.STOPPED
    played.passes(2 * REPLY_DEADLINE_NS // NS_PER_S)
    assert played.host.state is HostState.STUCK
    reports = len(played.said(dm.StatusReport))
    played.target(TOTAL - 1000)
    played.passes(60)
    assert len(played.said(dm.StatusReport)) == reports
    assert played.said(dm.BalloonRequest) == []
    played.wire.close()
    played.blocks.unsupported = False
    played.start()
    assert played.host.actual_pages <= TOTAL + STEP
    assert (played.host.state, played.guest.state) == (HostState.IDLE, GuestState.INITIALIZED)
    # it may have added what it was offered, so that is never offered again
    assert played.source.given == set(range(REGION, REGION + STEP))


@shows("keeps-added-memory")
def test_added_memory_stays_its_own_when_it_disconnects_and_comes_back() -> None:
    played = Played(windows()).start()
    played.target(TOTAL + STEP)
    assert played.blocks.added == played.source.given == set(range(REGION, REGION + STEP))
    played.wire.close()
    assert played.host.actual_pages == TOTAL + STEP
    assert played.source.given == set(range(REGION, REGION + STEP))
    played.start()
    played.target(TOTAL + 2 * STEP)
    assert [request.range & (1 << 40) - 1 for request in played.said(dm.HotAddRequest)] == [
        REGION,
        REGION + STEP,
    ]
    assert played.guest.total_pages == played.host.actual_pages == TOTAL + 2 * STEP


@shows("removes-boot-memory")
def test_boot_memory_that_it_removes_is_named_and_not_taken_for_added_memory() -> None:
    played = Played(windows(Release.SERVER_2016)).start()
    played.blocks.added = set(range(100, 200))
    assert played.host.hot_remove(50, played.wire.now)
    played.wire.settle()
    (response,) = played.said(dm.HotRemoveResponse)
    assert response.ranges == packed(*((page, 1) for page in range(100, 150)))
    assert played.host.state is HostState.IDLE
    assert played.anomalies() == ["the guest gave up 50 pages permanently that were not added to it"]
    assert played.host.actual_pages == TOTAL
    played.target(TOTAL - 1000)
    assert played.host.actual_pages == TOTAL - 1000


@pytest.mark.parametrize("release", Release)
def test_every_release_shrinks_grows_beyond_boot_size_and_comes_back(release: Release) -> None:
    played = Played(windows(release)).start()
    for target in (TOTAL // 4, TOTAL + STEP, TOTAL - LARGEST, TOTAL + 2 * STEP, TOTAL):
        played.target(target)
        assert (played.host.state, played.host.actual_pages) == (HostState.IDLE, target)
        assert played.guest.total_pages - played.guest.ballooned_pages == target
    assert played.anomalies() == []
    assert LIMIT > TOTAL
    assert windows(release) != Habits()
