"""Each gap and each fault that a reading of QEMU hw/hyperv/hv-balloon.c shows, and what ours does there."""

import struct

import pytest
from tests.rigs.driven_host import DEADLINE, DrivenHost
from tests.rigs.pages import packed
from tests.rigs.stores import PlainBlocks, PlainPages, PlainSource, SetStore

from dynmem.dm.events import Anomaly, StateChanged
from dynmem.dm.guest import DynamicMemoryGuest
from dynmem.dm.host import DynamicMemoryHost
from dynmem.dm.options import HostOptions
from dynmem.dm.states import HostState
from dynmem.errors import RemoteProtocolError
from dynmem.limits import DM_EVENTS_PENDING, DM_RANGES_PER_MESSAGE, PAGE_RANGE_PAGES_MAX
from dynmem.units import MIB, NS_PER_S, PAGE_SIZE
from dynmem.wire import dm

GIGABYTES = (1 << 30) // PAGE_SIZE * 32


@pytest.fixture
def host() -> DynamicMemoryHost:
    """A host of 32 GiB that has asked for all but a page."""
    host = DynamicMemoryHost(
        store=SetStore(GIGABYTES),
        boot_pages=GIGABYTES,
        options=HostOptions(status_report=True, post_init_wait_ns=0),
    )
    host.channel_opened(0)
    for message in (dm.VersionRequest(1, dm.VERSION_WIN10, False), dm.CapabilitiesReport(2, 1, 0, 0)):
        host.receive(dm.encode(message), 0)
        host.next_message()
        host.message_sent(0)
    host.set_target(1, 0)
    host.next_message()
    host.message_sent(0)
    host.take_events()
    return host


@pytest.mark.parametrize("length", range(8, 16))
def test_a_message_that_is_cut_is_malformed_and_not_passed_over(host: DynamicMemoryHost, length: int) -> None:
    whole = dm.encode(dm.BalloonResponse(3, False, packed((0, 1))))
    with pytest.raises(RemoteProtocolError):
        host.receive(struct.pack("<HH", 7, length) + whole[4:length], 0)
    assert host.state is HostState.BALLOON_REPLY_WAIT


@pytest.mark.parametrize("count", [2, 511, (1 << 31) - 1])
def test_a_range_count_above_the_ranges_that_are_there_is_not_believed(
    host: DynamicMemoryHost, count: int
) -> None:
    data = struct.pack("<HHIIIQ", 7, 24, 3, 0, count << 1, 1 << 40)
    with pytest.raises(RemoteProtocolError):
        host.receive(data, 0)
    assert host.actual_pages == GIGABYTES


@pytest.mark.parametrize("number", [15, 99, 0xFFFF])
def test_an_unknown_message_is_malformed(host: DynamicMemoryHost, number: int) -> None:
    with pytest.raises(RemoteProtocolError, match="unknown"):
        host.receive(struct.pack("<HHI", number, 8, 0), 0)


@pytest.mark.parametrize("length", range(8))
def test_less_than_a_header_is_malformed(host: DynamicMemoryHost, length: int) -> None:
    with pytest.raises(RemoteProtocolError, match="header"):
        host.receive(bytes(length), 0)


def test_ranges_that_name_an_exabyte_cost_no_more_than_their_bytes_and_one_line(
    host: DynamicMemoryHost,
) -> None:
    """QEMU looks each page up and warns of each; a page or a line each would take this test for days."""
    outside = packed(*((GIGABYTES + number, PAGE_RANGE_PAGES_MAX) for number in range(DM_RANGES_PER_MESSAGE)))
    for _ in range(50):
        host.receive(dm.encode(dm.BalloonResponse(3, True, outside)), 0)
    anomalies = [event for event in host.take_events() if isinstance(event, Anomaly)]
    assert len(anomalies) <= 2 * 50
    assert host.actual_pages == GIGABYTES


def test_a_flood_of_oddities_stops_at_what_somebody_takes(host: DynamicMemoryHost) -> None:
    for _ in range(4 * DM_EVENTS_PENDING):
        host.receive(dm.encode(dm.BalloonResponse(3, True, packed((GIGABYTES, 1)))), 0)
    assert len(host.take_events()) == DM_EVENTS_PENDING


def test_a_guest_that_returns_more_than_its_memory_leaves_a_size_of_nothing_and_no_less(
    host: DynamicMemoryHost,
) -> None:
    host.receive(dm.encode(dm.BalloonResponse(3, True, packed((0, GIGABYTES - 1)))), 0)
    for _ in range(2):
        host.receive(dm.encode(dm.BalloonResponse(3, True, packed((0, GIGABYTES)))), 0)
    assert host.actual_pages == 0


def test_a_silent_guest_does_not_wedge_the_device_for_ever() -> None:
    played = DrivenHost()
    played.start()
    played.host.set_target(900, played.now)
    played.sent()
    played.passes(DEADLINE)
    assert played.state() is HostState.STUCK
    played.host.channel_closed(played.now)
    played.start()
    assert played.sent() == dm.BalloonRequest(0, 100)


def test_nothing_and_a_failure_is_no_barrier_and_the_next_hot_add_is_made() -> None:
    """QEMU never adds memory again after it, though Linux says by it that it may be asked later."""
    source = PlainSource(4096, 512)
    played = DrivenHost(source=source)
    played.start(dm.CAP_HOT_ADD)
    played.host.set_target(1256, played.now)
    played.sent()
    played.says(dm.HotAddResponse(1, 0, 0))
    played.host.set_target(1256, played.now)
    assert isinstance(played.sent(), dm.HotAddRequest)


def test_hot_remove_is_promised_and_there_is_one() -> None:
    source = PlainSource(4096, 512)
    played = DrivenHost(source=source)
    played.start(dm.CAP_HOT_ADD | dm.CAP_HOT_REMOVE)
    assert played.host.hot_remove(1, played.now)
    assert isinstance(played.sent(), dm.HotRemoveRequest)


def test_the_guest_is_told_how_large_it_can_get() -> None:
    played = DrivenHost(max_page_count=99)
    played.start()
    assert isinstance(played.sent(), dm.InfoMessage)


@pytest.mark.parametrize("version", [dm.make_version(1, 7), dm.make_version(0, 4)])
def test_a_version_between_those_that_there_are_passes_as_with_qemu_and_knows_what_is_below_it(
    version: int,
) -> None:
    played = DrivenHost(max_page_count=99)
    played.start(dm.CAP_BALLOON | dm.CAP_HOT_REMOVE, version=version)
    assert played.host.version == version
    assert isinstance(played.sent(), dm.InfoMessage) is (version >= dm.VERSION_WIN8)
    assert not played.host.hot_remove(1, played.now)


def test_replies_are_matched_by_state_as_guests_count_their_own_transactions() -> None:
    played = DrivenHost()
    played.start()
    played.host.set_target(900, played.now)
    assert played.sent() == dm.BalloonRequest(0, 100)
    played.says(dm.BalloonResponse(0xFFFF_FFFF, False, packed((0, 100))))
    assert played.host.actual_pages == 900


def test_every_change_of_size_is_told_though_no_client_asks() -> None:
    played = DrivenHost()
    played.start()
    played.host.set_target(900, played.now)
    played.sent()
    played.gives((0, 60), more=True)
    assert played.host.actual_pages == 940
    kinds = [
        type(event).__name__ for event in played.host.take_events() if not isinstance(event, StateChanged)
    ]
    assert kinds == ["ActualChanged"]


def test_a_linux_guest_frees_what_it_is_told_to_and_ours_only_what_it_gave() -> None:
    pages = PlainPages(16384)
    guest = DynamicMemoryGuest(pages=pages, total_pages=16384, blocks=PlainBlocks(256, 1 << 20))
    guest.channel_opened(0)
    for answer in (dm.VersionResponse(0, True), dm.CapabilitiesResponse(1, True, True, True)):
        guest.next_message()
        guest.message_sent(0)
        guest.receive(dm.encode(answer), 0)
    with pytest.raises(RemoteProtocolError, match="not all of which"):
        guest.receive(dm.encode(dm.UnballoonRequest(0, False, packed((100, 1)))), 0)
    assert pages.available_pages == 16384


def test_a_target_of_any_size_is_within_what_there_is() -> None:
    played = DrivenHost(source=PlainSource(4096, 256))
    played.start(dm.CAP_BALLOON | dm.CAP_HOT_ADD)
    for target in (-1, 0):
        played.host.set_target(target, played.now)
        assert played.sent() is None
    played.host.set_target(1 << 62, played.now)
    request = played.sent()
    assert isinstance(request, dm.HotAddRequest)
    assert request.range >> 40 == 256 == MIB // PAGE_SIZE
    played.says(dm.HotAddResponse(1, 256, 1))
    played.passes(NS_PER_S)
    assert played.host.actual_pages == 1256
