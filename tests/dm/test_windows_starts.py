"""What is documented of a Windows guest's start: bus, versions, capabilities; each on the wire."""

import pytest
from tests.rigs.bus import BusEnds
from tests.rigs.windows import LIMIT, STEP, TOTAL, Played, only, shows

from dynmem import vmbus
from dynmem.dm.habits import Habits
from dynmem.dm.states import GuestState, HostState
from dynmem.dm.windows import Release, Situation, windows
from dynmem.wire import dm
from dynmem.wire import vmbus as wire
from dynmem.wire.versions import (
    VERSION_5_2,
    VERSION_5_3,
    VERSION_WIN7,
    VERSION_WIN8,
    VERSION_WIN8_1,
    VERSION_WIN10,
    VERSIONS,
)

ALL_ONES = (1 << 64) - 1
NAMED = 0x7F  # the capability bits that the header files name


def capabilities(played: Played) -> dm.CapabilitiesReport:
    report = played.said(dm.CapabilitiesReport)[-1]
    assert isinstance(report, dm.CapabilitiesReport)
    return report


def shrinks(played: Played) -> bool:
    """Whether our host gets memory from this guest."""
    played.target(TOTAL - 1000)
    return played.host.actual_pages == TOTAL - 1000


@shows("bus-of-2008-r2", "bus-of-2012", "bus-of-2012-r2", "bus-of-2016", "bus-of-2019", "bus-of-2022")
@pytest.mark.parametrize(
    ("release", "version"),
    [
        (Release.SERVER_2008_R2, VERSION_WIN7),
        (Release.SERVER_2012, VERSION_WIN8),
        (Release.SERVER_2012_R2, VERSION_WIN8_1),
        (Release.SERVER_2016, VERSION_WIN10),
        (Release.SERVER_2019, VERSION_5_2),
        (Release.SERVER_2022, VERSION_5_3),
    ],
)
def test_it_asks_first_for_the_bus_that_came_with_its_release(release: Release, version: int) -> None:
    ends = BusEnds(versions=windows(release).bus_versions, interrupt_page=1 << 16)
    ends.client.connect()
    first = wire.decode(ends.client.take_posts()[0].payload)
    assert isinstance(first, wire.InitiateContact)
    assert first.version == version
    ends = BusEnds(versions=windows(release).bus_versions, interrupt_page=1 << 16)
    ends.client.connect()
    ends.pump()
    assert ends.client.version == version
    assert any(isinstance(event, vmbus.Offered) for event in ends.client_events)


def test_it_falls_back_to_an_older_bus() -> None:
    ends = BusEnds(versions=windows(Release.SERVER_2022).bus_versions, max_version=VERSIONS[3])
    ends.client.connect()
    ends.pump()
    assert ends.client.version == VERSIONS[3]


@shows("protocol-of-2008-r2", "protocol-of-2012", "protocol-of-2016")
@pytest.mark.parametrize(
    ("release", "version"),
    [
        (Release.SERVER_2008_R2, dm.VERSION_WIN7),
        (Release.SERVER_2012, dm.VERSION_WIN8),
        (Release.SERVER_2012_R2, dm.VERSION_WIN8),
        (Release.SERVER_2016, dm.VERSION_WIN10),
        (Release.SERVER_2022, dm.VERSION_WIN10),
    ],
)
def test_it_knows_the_protocol_of_its_release_and_the_older_ones(release: Release, version: int) -> None:
    played = Played(windows(release)).start()
    assert played.said(dm.VersionRequest)[0].version == version
    assert played.host.version == version
    assert played.host.hot_remove(1, played.wire.now) is (version == dm.VERSION_WIN10)
    assert shrinks(played)


@shows("stops-if-outdated")
def test_an_outdated_driver_says_nothing_after_its_last_version_was_refused() -> None:
    played = Played(windows(Release.SERVER_2016))
    played.wire.open()
    for _ in range(3):
        data = played.guest.next_message()
        assert data is not None
        request = dm.decode(data)
        played.guest.message_sent(0)
        played.guest.receive(dm.encode(dm.VersionResponse(0, False)), 0)
    assert isinstance(request, dm.VersionRequest)
    assert request.is_last_attempt
    assert played.guest.next_message() is None
    assert played.guest.state is GuestState.INIT_ERROR


def test_our_host_waits_for_another_driver_after_one_that_knows_only_newer_versions() -> None:
    played = Played(Habits(versions=(dm.make_version(3, 0),))).start()
    played.target(TOTAL // 2)
    assert (played.host.state, played.host.actual_pages) == (HostState.REFUSED, TOTAL)
    played.wire.close()
    played.guest = played.wire.guest = played.driver(Habits())
    played.start()
    assert (played.host.state, played.host.actual_pages) == (HostState.IDLE, TOTAL // 2)


@shows("stops-if-refused")
def test_a_driver_whose_capabilities_were_refused_says_nothing_more() -> None:
    played = Played(windows(Release.SERVER_2012_R2))
    played.wire.open()
    played.guest.next_message()
    played.guest.message_sent(0)
    played.guest.receive(dm.encode(dm.VersionResponse(0, True)), 0)
    played.guest.next_message()
    played.guest.message_sent(0)
    played.guest.receive(dm.encode(dm.CapabilitiesResponse(0, False, False, False)), 0)
    assert played.guest.state is GuestState.INIT_ERROR
    assert played.guest.next_message() is None
    assert played.guest.deadline_ns() is None


@shows("silent-on-hyper-v", "silent-in-other-editions")
@pytest.mark.parametrize("special", [Situation.NESTS, Situation.OTHER_EDITION])
def test_a_driver_that_does_not_start_says_nothing_and_our_host_waits_for_it(special: Situation) -> None:
    played = Played(windows(Release.SERVER_2016, special)).start()
    played.target(TOTAL // 2)
    played.passes(60)
    assert played.wire.seen == []
    assert (played.host.state, played.host.actual_pages) == (HostState.VERSION, TOTAL)
    assert played.anomalies() == []


@shows("probes-hot-add")
@pytest.mark.parametrize("supported", [True, False])
def test_it_offers_hot_add_if_it_could_add_one_page_at_its_start(supported: bool) -> None:
    played = Played(only("probes-hot-add"))
    played.blocks.unsupported = not supported
    played.start()
    assert played.blocks.probes == 1
    assert bool(capabilities(played).caps & dm.CAP_HOT_ADD) is supported
    played.blocks.unsupported = False
    played.target(TOTAL + STEP)
    assert played.said(dm.HotAddRequest) == [] or supported
    assert played.host.actual_pages == TOTAL + STEP * supported
    assert shrinks(played)


def test_a_guest_without_hot_add_is_served_by_our_host_though_hyper_v_refuses_it() -> None:
    played = Played(Habits(hot_adds=False, hot_removes=False)).start()
    assert capabilities(played).caps == dm.CAP_BALLOON
    assert played.said(dm.CapabilitiesResponse)[0].is_accepted
    assert shrinks(played)


@shows("no-hot-remove-before-2016", "offers-hot-remove")
@pytest.mark.parametrize("release", Release)
def test_it_offers_hot_remove_from_2016_on(release: Release) -> None:
    played = Played(windows(release)).start()
    offers = release.is_between(Release.SERVER_2016, Release.SERVER_2022)
    assert bool(capabilities(played).caps & dm.CAP_HOT_REMOVE) is offers
    assert played.host.hot_remove(5, played.wire.now) is offers


@shows("hibernates-at-its-size")
def test_a_guest_that_can_hibernate_offers_the_balloon_alone() -> None:
    played = Played(windows(Release.SERVER_2022, Situation.HIBERNATES)).start()
    assert capabilities(played).caps & NAMED == dm.CAP_BALLOON
    played.target(TOTAL + STEP)
    assert not played.host.hot_remove(5, played.wire.now)
    assert played.said(dm.HotAddRequest) == []
    assert shrinks(played)


@shows("unnamed-capabilities")
def test_capabilities_without_a_name_change_nothing() -> None:
    played = Played(only("unnamed-capabilities")).start()
    assert capabilities(played).caps & ~NAMED
    played.target(TOTAL + STEP)
    assert played.host.actual_pages == TOTAL + STEP
    assert shrinks(played)
    assert played.anomalies() == []


@shows("needs-no-pages")
def test_it_says_that_it_needs_no_pages_and_can_be_asked_for_nearly_all() -> None:
    played = Played(windows()).start()
    assert capabilities(played).min_page_cnt == 0
    played.target(2 * STEP)
    assert played.host.actual_pages == 2 * STEP


@shows("names-no-last-page", "names-its-last-page")
@pytest.mark.parametrize(
    ("name", "last"), [("names-no-last-page", ALL_ONES), ("names-its-last-page", LIMIT - 1)]
)
def test_it_names_the_last_page_or_all_ones_and_memory_is_added_below_it(name: str, last: int) -> None:
    played = Played(only(name)).start()
    assert capabilities(played).max_page_number == last
    played.target(TOTAL + 4 * STEP)
    assert played.host.actual_pages == TOTAL + 2 * STEP
    assert played.source.given == played.blocks.added


@shows("names-its-alignment")
def test_another_boot_may_need_another_alignment_and_our_host_keeps_to_it() -> None:
    played = Played(windows()).start()
    assert dm.hot_add_alignment_bytes(capabilities(played).caps) == STEP << 12
    coarse = Played(windows(), alignment=2 * STEP).start()
    assert dm.hot_add_alignment_bytes(capabilities(coarse).caps) == 2 * STEP << 12
    coarse.target(TOTAL + 3 * STEP)
    assert [request.range >> 40 for request in coarse.said(dm.HotAddRequest)] == [2 * STEP]
    assert coarse.host.actual_pages == TOTAL + 2 * STEP
