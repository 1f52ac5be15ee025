"""Cases against a guest's end of the Dynamic Memory Protocol, played by a good or a hostile host."""

import struct
from functools import partial
from typing import Final

from dynmem.conformance import layouts as dm
from dynmem.conformance.adapter import DM, DM_FAULTS, GuestUnderTest
from dynmem.conformance.case import Case, CaseTable, NotApplicableError, fail, must
from dynmem.conformance.guest.played_host import PlayedHost
from dynmem.conformance.layouts import Span
from dynmem.units import NS_PER_S
from dynmem.wire.packet import Packet, PacketType

TABLE: Final = CaseTable()


def _opened(guest: GuestUnderTest) -> PlayedHost:
    host = PlayedHost(guest)
    host.connect()
    host.open()
    return host


def _flat(responses: list[list[Span]]) -> list[Span]:
    return [span for spans in responses for span in spans]


def _version(newest: int, guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin(newest=newest)
    host.alive()


for _name, _number in (("2.0", dm.DM_2_0), ("1.0", dm.DM_1_0), ("0.3", dm.DM_0_3)):
    TABLE.add(
        Case(
            f"guest-version-{_name}",
            DM,
            f"A host that accepts no version above {_name} gets the same service with it.",
            "Linux hv_balloon.c, version_resp: 2.0, then 1.0, then 0.3",
            partial(_version, _number),
        )
    )


@TABLE.case(
    "guest-last-attempt",
    DM,
    "Only the last version it knows is requested with is_last_attempt; if rejected, the guest falls silent.",
    "dynmem-proto.h, dm_version_request; Linux hv_balloon.c, version_resp",
)
def _last_attempt(guest: GuestUnderTest) -> None:
    host = _opened(guest)
    asked: list[int] = []
    last = False
    while not last:
        trans_id, version, last = host.version_request()
        must(version not in asked and len(asked) < 16, f"version {version:#x} is requested after {asked}")
        asked.append(version)
        host.send(dm.version_response(trans_id, accepted=False))
    must(asked == sorted(asked, reverse=True), f"versions are requested in the order {asked}")
    host.silent("after its last version was rejected", 100 * NS_PER_S)
    must(not host.statuses, "status reports come although no version was agreed on")


@TABLE.case(
    "guest-capabilities-refused",
    DM,
    "A guest whose capabilities are rejected ends the service: no status, no pages.",
    "dynmem-proto.h, dm_capabilities_resp_msg.is_accepted",
)
def _caps_refused(guest: GuestUnderTest) -> None:
    host = _opened(guest)
    host.negotiate()
    host.capabilities(accepted=False)
    host.silent("after its capabilities were rejected", 100 * NS_PER_S)
    host.send(dm.balloon_request(1, 100))
    host.silent("after its capabilities were rejected")
    must(not host.statuses, "status reports come although the capabilities were rejected")
    host.holds(0)


@TABLE.case(
    "guest-suppressed-status",
    DM,
    "With suppress_pressure_reports in the response to its capabilities, a guest sends no status reports.",
    "dynmem-proto.h, dm_cap_resp flags: suppress_pressure_reports",
)
def _suppressed(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin(suppress=True)
    host.silent("unasked", 100 * NS_PER_S)
    must(not host.statuses, f"{len(host.statuses)} status reports came")


@TABLE.case(
    "guest-status-counts-balloon",
    DM,
    "Pages in the balloon count as committed in the status, so that demand does not seem to fall.",
    "Linux hv_balloon.c, post_status: vm_memory_committed() + num_pages_ballooned + floor",
)
def _status_committed(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin(suppress=False)
    guest.advance(100 * NS_PER_S)
    host.packets()
    if not host.statuses:
        raise NotApplicableError("no status report comes within 100 seconds")
    before = host.statuses[-1]
    host.balloon(4096)
    guest.advance(2 * NS_PER_S)
    host.packets()
    after = host.statuses[-1]
    must(after[1] >= before[1] + 2048, f"{before[1]} pages were committed, {after[1]} are after giving 4096")
    must(after[0] <= before[0] - 2048, f"{before[0]} pages were free, {after[0]} are after giving 4096")


@TABLE.case(
    "guest-balloon-many-ranges",
    DM,
    "A response of many ranges comes in messages of at most a page, with more_pages set in all but the last.",
    "Linux hv_balloon.c, balloon_up and alloc_balloon_pages",
)
def _many(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    responses = host.balloon(20_000)
    must(len(host.given) > 10_000, f"{len(host.given)} pages are given of 20000")
    must(all(responses), "a response with pages has a part without any")
    host.holds(len(host.given))


@TABLE.case(
    "guest-balloon-partial",
    DM,
    "Asked for all its memory, a guest gives what it can spare; asked again, it sends an empty response.",
    "Linux hv_balloon.c, balloon_up: the floor; a request that yields nothing is answered by range_count 0",
)
def _partial(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    for _ in range(64):  # each round may go down to the floor of the remaining size
        if host.balloon(guest.total_pages) == [[]]:
            break
    else:
        fail("the guest gives pages without end")
    must(0 < len(host.given) < guest.total_pages, f"it gives {len(host.given)} of {guest.total_pages} pages")
    host.holds(len(host.given))
    host.unballoon([[(page, 1) for page in sorted(host.given)[:500]]])
    host.holds(len(host.given))


@TABLE.case(
    "guest-balloon-of-nothing",
    DM,
    "The response to a request for no pages has no ranges.",
    "every transaction has an end",
)
def _nothing(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    must(host.balloon(0) == [[]], "pages are given where none is requested")
    host.alive()


@TABLE.case(
    "guest-unballoon-in-parts",
    DM,
    "An unballoon transaction of many messages has one response, after the message with more_pages 0.",
    "dynmem-proto.h, more_pages; Linux hv_balloon.c, balloon_down",
)
def _parts(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    spans = _flat(host.balloon(5000))
    step = max(1, len(spans) // 5)
    host.unballoon([spans[start : start + step] for start in range(0, len(spans), step)])
    host.holds(0)
    host.alive()


@TABLE.case(
    "guest-unballoon-cut-otherwise",
    DM,
    "Pages may be returned in other ranges and in another order than they were given.",
    "QEMU hv-balloon.c merges what is given and gives the highest range back first",
)
def _cut(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    host.balloon(600)
    pages = sorted(host.given, reverse=True)
    host.unballoon([[(page, 1) for page in pages[:200]]])
    host.holds(400)
    rest = pages[200:]
    spans: list[Span] = []
    for page in reversed(rest):
        if spans and sum(spans[-1]) == page:
            spans[-1] = (spans[-1][0], spans[-1][1] + 1)
        else:
            spans.append((page, 1))
    host.unballoon([spans])
    host.holds(0)


@TABLE.case(
    "guest-pages-go-and-come",
    DM,
    "Returned pages can be given again, any number of times, without losing one.",
    "a guest that leaks a page per round is empty in a year",
)
def _rounds(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    for _ in range(30):
        spans = _flat(host.balloon(1000))
        must(len(host.given) == 1000, f"{len(host.given)} pages are given of 1000")
        host.unballoon([spans[:100], spans[100:]] if len(spans) > 100 else [spans])
    host.holds(0)


@TABLE.case(
    "guest-takes-any-id",
    DM,
    "Requests with unordered, repeated or zero ids are served: the host may number as it likes.",
    "QEMU hv-balloon.c counts transactions from 0",
)
def _any_id(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    for trans_id in (0, 0, 0xFFFF_FFFF, 7):
        host.trans_id = trans_id - 1
        host.balloon(10)
    must(len(host.given) == 40, f"{len(host.given)} pages are given of 40")


@TABLE.case(
    "guest-info",
    DM,
    "Information about the largest page count is used, of an unknown type ignored; neither gets a response.",
    "Linux hv_balloon.c, process_info",
)
def _info(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    host.send(dm.info_message(host.next_id(), 0, struct.pack("<Q", 2 * guest.total_pages)))
    host.send(dm.info_message(host.next_id(), 99, bytes(24)))
    host.silent("after information")
    host.alive()


def _hot_add(long: int, guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    span = (1 << 25, 1 << 15)
    host.send(dm.hot_add_request(host.next_id(), span, span if long else None))
    answer = host.expect(dm.HOT_ADD_RESPONSE)
    pages, result = dm.fields(answer, dm.HOT_ADD_RESPONSE, "<II")
    must(pages <= 1 << 15, f"{pages} pages are added of {1 << 15}")
    must(result in (0, 1), f"a hot add has result {result}")
    host.alive()


for _form, _long in (("short", 0), ("long", 1)):
    TABLE.add(
        Case(
            f"guest-hot-add-{_form}-form",
            DM,
            "A hot-add request gets a response, even from a guest that cannot: nothing added, now or later.",
            "Linux hv_balloon.c, hot_add_req: result 1 with count 0 is permanent",
            partial(_hot_add, _long),
        )
    )


@TABLE.case(
    "guest-unballoon-never-given",
    DM_FAULTS,
    "Pages that were never given are not accepted: no other memory of the guest may be freed by that.",
    "Linux hv_balloon.c, balloon_down frees what it is sent, unchecked",
)
def _never_given(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    spans = _flat(host.balloon(100))
    told = guest.ballooned_pages()
    if told is None:
        raise NotApplicableError("the guest does not report its balloon")
    host.send(dm.unballoon_request(host.next_id(), [(guest.total_pages // 2 + 1, 50)]))
    host.send(dm.unballoon_request(host.next_id(), [(1 << 39, 50)]))
    host.send(dm.unballoon_request(host.next_id(), [spans[0], spans[0]]))
    guest.advance(NS_PER_S)
    host.packets()
    host.holds(len(host.given))
    host.unballoon([spans])
    host.holds(0)


def _lying_count(count: int, guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    spans = _flat(host.balloon(64))
    body = struct.pack("<II", 0, count) + dm.ranges_of(spans[:1])
    host.write(Packet(PacketType.INBAND, 0, 0, dm.message(dm.UNBALLOON_REQUEST, 5, body)))
    guest.advance(NS_PER_S)
    host.packets()
    host.holds(64)
    host.unballoon([spans])
    host.alive()


for _name, _count in (("one-more", 2), ("a-page-more", 511), ("most", 0xFFFF_FFFF)):
    TABLE.add(
        Case(
            f"guest-range-count-of-{_name}",
            DM_FAULTS,
            "A count of ranges beyond the message is not trusted.",
            "Linux hv_balloon.c reads range_count ranges from a buffer that holds them by luck",
            partial(_lying_count, _count),
        )
    )


def _noise(data: bytes, guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    spans = _flat(host.balloon(32))
    for _ in range(3):
        host.write(Packet(PacketType.INBAND, 0, 0, data))
        host.silent("after noise")
    host.holds(32)
    host.unballoon([spans])
    host.alive()


_HEADER: Final = struct.Struct("<HHI")
for _name, _data in {
    "empty": b"",
    "of-zeros": bytes(64),
    "of-ones": b"\xff" * 64,
    "unknown": _HEADER.pack(15, 8, 1),
    "size-beyond-packet": _HEADER.pack(dm.BALLOON_REQUEST, 4096, 1) + bytes(8),
    "size-of-zero": _HEADER.pack(dm.BALLOON_REQUEST, 0, 1) + bytes(8),
    "balloon-too-short": _HEADER.pack(dm.BALLOON_REQUEST, 8, 1),
    "unballoon-too-short": _HEADER.pack(dm.UNBALLOON_REQUEST, 12, 1) + bytes(4),
    "of-a-guest": dm.version_request(1, dm.DM_2_0),
    "version-response-again": dm.version_response(1, accepted=True),
    "capabilities-response-again": dm.capabilities_response(1),
    "info-that-lies": dm.message(dm.INFO_MESSAGE, 1, struct.pack("<IIII", 0, 4096, 0, 4096)),
}.items():
    TABLE.add(
        Case(
            f"guest-dm-{_name}",
            DM_FAULTS,
            "The message is ignored without a response, and no given page is lost.",
            "Linux hv_balloon.c, balloon_onchannelcallback",
            partial(_noise, _data),
        )
    )


@TABLE.case(
    "guest-asked-early",
    DM_FAULTS,
    "A host that requests pages before the handshake is over gets none.",
    "dynmem-proto.h: transactions begin when the capabilities are accepted",
)
def _early(guest: GuestUnderTest) -> None:
    host = _opened(guest)
    trans_id, version, _ = host.version_request()
    host.send(dm.balloon_request(1, 100))
    host.silent("before a version was agreed on", NS_PER_S // 10)
    host.holds(0)
    host.send(dm.version_response(trans_id, accepted=version == dm.DM_2_0))
    host.capabilities(suppress=True)
    host.alive()
