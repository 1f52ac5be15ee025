"""Cases against a host: the parts of every sound session, as a stock Linux guest plays it.

The guest of these cases sends what a Linux 6.12 guest sent to a Python VMM, ids and pages included, so that
its captured session passes them when replayed.
"""

from typing import Final

from dynmem.conformance import layouts as dm
from dynmem.conformance.adapter import SESSION, HostUnderTest
from dynmem.conformance.case import CaseTable, NotApplicableError, fail, must
from dynmem.conformance.host.played_guest import PlayedGuest
from dynmem.conformance.layouts import Span
from dynmem.units import GIB, MIB, PAGE_SIZE
from dynmem.wire.versions import VERSION_5_0

TABLE: Final = CaseTable()

LINUX_CAPS: Final = 0x1F  # balloon, hot add, alignment 2^7 MiB
_BLOCK: Final = 0x200
LINUX_SPANS: Final[list[Span]] = [
    (page, _BLOCK)
    for page in (
        *(0x5400, 0x5600, 0xB400, 0xB600, 0xB000, 0xB200, 0xAC00, 0xAE00),
        *(0xA800, 0xAA00, 0xA400, 0xA600, 0xA000, 0xA200, 0x9C00, 0x9E00),
        *(0x9800, 0x9A00, 0x9400, 0x9600, 0x9000, 0x9200, 0x8C00, 0x8E00),
        *(0x8800, 0x8A00, 0x8400, 0x8600, 0x8000, 0x8200, 0x7C00, 0x7E00),
    )
]
LINUX_PAGES: Final = 64 * MIB // PAGE_SIZE


def linux(host: HostUnderTest) -> PlayedGuest:
    """Return a guest that has finished the handshake and reported its status twice."""
    guest = PlayedGuest(host)
    guest.connect()
    guest.open()
    must(guest.negotiate(dm.DM_2_0), "the host rejects protocol version 2.0")
    guest.capabilities(LINUX_CAPS)
    for available, committed in ((0xBD48, 0x607C), (0x9D74, 0x609B)):
        guest.send(dm.status_report(guest.next_id(), available, committed))
    host.advance(host.post_init_wait_ns)
    return guest


def ballooned(host: HostUnderTest) -> PlayedGuest:
    """Return a guest that has given the requested pages, in many unordered ranges."""
    guest = linux(host)
    host.set_target(host.boot_pages - LINUX_PAGES)
    must(guest.asked() == LINUX_PAGES, f"{LINUX_PAGES} pages must be requested")
    guest.give(LINUX_SPANS)
    return guest


@TABLE.case(
    "session-contact",
    SESSION,
    "The reply to a contact is one VERSION_RESPONSE; from 5.0 on it names a connection id for posts.",
    "Linux drivers/hv/connection.c, vmbus_negotiate_version",
)
def _contact(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    for version in (0x5_0003, 0x5_0002, 0x5_0001, 0x5_0000, 0x4_0001, 0x4_0000, 0x3_0000, 0x2_0004):
        answer = guest.contact(version)
        if answer is not None and guest.version is not None:
            if version >= VERSION_5_0:
                must(answer.version_or_connection_id, "a contact of 5.0 or later gets no connection id")
            return
    fail("no version that Linux requests is accepted")


@TABLE.case(
    "session-offers",
    SESSION,
    "The Dynamic Memory device is offered once, with a relid of 1 to 2047 and a connection id to signal.",
    "Linux drivers/hv/channel_mgmt.c, vmbus_onoffer; include/linux/hyperv.h, HV_DM_GUID",
)
def _offers(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    must(0 < guest.relid <= 2047, f"relid {guest.relid} is not an event flag of a page")
    must(guest.offer.connection_id, "the offer has no connection id")
    must(not guest.offer.sub_channel_index, "the first channel of a device is said to be a subchannel")


@TABLE.case(
    "session-open",
    SESSION,
    "A GPADL of ten pages is created and a channel opened over it, ids echoed, status 0.",
    "Linux drivers/hv/channel.c, vmbus_open; balloon_connect_vsp opens rings of 5 pages each",
)
def _open(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    guest.open()
    guest.silent("before a version was requested")


@TABLE.case(
    "session-handshake",
    SESSION,
    "Version 2.0 and the capabilities are accepted in messages of 16 bytes that echo the guest's ids.",
    "Linux drivers/hv/hv_balloon.c, balloon_connect_vsp",
)
def _handshake(host: HostUnderTest) -> None:
    linux(host)


@TABLE.case(
    "session-status-unanswered",
    SESSION,
    "Status reports are outside any transaction and get no reply.",
    "dynmem-proto.h, DM_STATUS_REPORT; Linux hv_balloon.c, post_status",
)
def _status(host: HostUnderTest) -> None:
    linux(host).silent("after two status reports")


@TABLE.case(
    "session-balloon",
    SESSION,
    "A smaller target causes a DM_BALLOON_REQUEST for the difference; pages given no longer count.",
    "QEMU hw/hyperv/hv-balloon.c, hv_balloon_idle_state_process_target",
)
def _balloon(host: HostUnderTest) -> None:
    guest = ballooned(host)
    guest.silent("with the whole request answered")
    guest.actual(host.boot_pages - LINUX_PAGES)


@TABLE.case(
    "session-unballoon",
    SESSION,
    "A larger target returns exactly the given pages, each once, in a transaction with one response.",
    "QEMU hw/hyperv/hv-balloon.c; Linux hv_balloon.c, balloon_down",
)
def _unballoon(host: HostUnderTest) -> None:
    guest = ballooned(host)
    guest.return_all()
    guest.actual(host.boot_pages)


@TABLE.case(
    "session-hot-add",
    SESSION,
    "A target above the guest's size causes a DM_MEM_HOT_ADD_REQUEST of 16 or 24 bytes, above its RAM.",
    "Linux hv_balloon.c, hot_add_req; QEMU hv-balloon.c, hv_balloon_hot_add_posting",
)
def _hot_add(host: HostUnderTest) -> None:
    if not host.hot_add_pages:
        raise NotApplicableError("the host cannot hot-add memory")
    guest = ballooned(host)
    guest.return_all()
    guest.send(dm.status_report(guest.next_id(), 0x136C0, 0x607C))
    host.set_target(host.boot_pages + host.hot_add_pages)
    (start, count), (first, pages) = dm.read_hot_add(guest.expect())
    must(count, "no pages are hot-added")
    must(start >= host.boot_pages, f"the range at {start:#x} lies in the guest's RAM")
    must(start % (128 * MIB // PAGE_SIZE) == 0, f"page {start:#x} is not on the guest's boundary of 128 MiB")
    must(start + count <= 1 << 40, "the range leaves the guest's address space")
    must(first <= start and start + count <= first + pages, "the range is not inside its region")
    guest.send(dm.hot_add_response(guest.next_id(), count, 1))
    if count >= host.hot_add_pages:
        guest.silent("with everything hot-added")


assert sum(count for _, count in LINUX_SPANS) == LINUX_PAGES < 4 * GIB // PAGE_SIZE
