"""Cases against a guest: the parts of every sound session."""

from typing import Final

from dynmem.conformance import layouts as dm
from dynmem.conformance.adapter import SESSION, GuestUnderTest
from dynmem.conformance.case import CaseTable, must
from dynmem.conformance.guest.played_host import PlayedHost
from dynmem.units import MIB, NS_PER_S, PAGE_SIZE

TABLE: Final = CaseTable()

PAGES: Final = 64 * MIB // PAGE_SIZE  # the request to a captured Linux guest; small for any guest


@TABLE.case(
    "guest-session-contact",
    SESSION,
    "INITIATE_CONTACT comes first, and REQUESTOFFERS after the reply to it.",
    "QEMU hw/hyperv/vmbus.c, vmbus_handle_initiate_contact",
)
def _contact(guest: GuestUnderTest) -> None:
    PlayedHost(guest).connect()


@TABLE.case(
    "guest-session-open",
    SESSION,
    "The offered device is opened over a GPADL of whole pages that holds two empty rings.",
    "QEMU hw/hyperv/vmbus.c, vmbus_handle_open_channel",
)
def _open(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest)
    host.connect()
    host.open()


@TABLE.case(
    "guest-session-handshake",
    SESSION,
    "First version 2.0 is requested, then capabilities are reported, in messages of 16 and 32 bytes.",
    "QEMU hv-balloon.c, hv_balloon_handle_version_request and _caps_report",
)
def _handshake(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest)
    host.connect()
    host.open()
    must(host.negotiate() == dm.DM_2_0, "the first version requested is not 2.0")
    caps, least, largest = host.capabilities()
    must(caps & dm.CAP_BALLOON, "the guest says that it cannot balloon")
    must(caps < 1 << 7, f"reserved capability bits are set: {caps:#x}")
    must(least <= guest.total_pages <= largest + 1, "its least and largest pages do not fit its size")


@TABLE.case(
    "guest-session-status",
    SESSION,
    "Status reports of 48 bytes come about once per second, with sizes that are possible for the guest.",
    "Linux hv_balloon.c, post_status; QEMU hv-balloon.c, hv_balloon_handle_status_report",
)
def _status(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin(suppress=False)
    for _ in range(60):
        guest.advance(NS_PER_S)
        must(not host.packets(), "something other than a status report comes unrequested")
    must(2 <= len(host.statuses) <= 90, f"{len(host.statuses)} status reports came in a minute")
    for available, committed, *_ in host.statuses:
        must(available <= guest.total_pages, f"{available} pages are available of {guest.total_pages}")
        must(0 < committed < 1 << 40, f"{committed} pages are committed")


@TABLE.case(
    "guest-session-balloon",
    SESSION,
    "The responses to a balloon request hold pages of the guest, each once, no more than requested.",
    "QEMU hv-balloon.c, hv_balloon_handle_balloon_response",
)
def _balloon(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    responses = host.balloon(PAGES)
    must(len(host.given) == PAGES, f"{len(host.given)} pages are given where {PAGES} are there")
    must(responses[0], "the first response is empty")
    host.holds(PAGES)


@TABLE.case(
    "guest-session-unballoon",
    SESSION,
    "The response to returned pages is one DM_UNBALLOON_RESPONSE of 8 bytes.",
    "QEMU hv-balloon.c, hv_balloon_handle_unballoon_response",
)
def _unballoon(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    spans = [span for response in host.balloon(PAGES) for span in response]
    host.unballoon([spans[at : at + dm.RANGES_MAX] for at in range(0, len(spans), dm.RANGES_MAX)])
    host.holds(0)
    host.silent("after the unballoon response")
