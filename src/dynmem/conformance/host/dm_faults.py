"""Cases against a host's Dynamic Memory Protocol, played by a broken or hostile guest."""

import struct
from collections.abc import Sequence
from functools import partial
from typing import Final

from dynmem.conformance import layouts as dm
from dynmem.conformance.adapter import DM_FAULTS, HostUnderTest
from dynmem.conformance.case import Case, CaseTable, must
from dynmem.conformance.host.played_guest import PlayedGuest
from dynmem.conformance.layouts import Span
from dynmem.wire.packet import Packet, PacketType

TABLE: Final = CaseTable()

_MOST: Final = (1 << 24) - 1  # pages of one range
_LAST: Final = (1 << 40) - 1


def _survives(guest: PlayedGuest) -> None:
    """Check that the guest can close and reopen the channel, as after any error, and gets its pages back."""
    guest.packets()
    guest.close()
    guest.open(first=200)
    guest.restart()
    for _ in guest.packets():
        guest.give([])
    guest.return_all()


def _noise(data: bytes, when: str, host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    if when == "at first":
        guest.connect()
        guest.open()
    else:
        guest.start()
        guest.balloon(64)
    guest.write(Packet(PacketType.INBAND, 0, 0, data))
    host.advance(1)
    for _ in range(3):
        guest.write(Packet(PacketType.INBAND, 0, 0, data))
    _survives(guest)


_HEADER: Final = struct.Struct("<HHI")
for _name, _data in {
    "empty": b"",
    "of-zeros": bytes(64),
    "of-ones": b"\xff" * 64,
    "unknown": _HEADER.pack(15, 8, 1),
    "size-beyond-packet": _HEADER.pack(dm.VERSION_REQUEST, 4096, 1) + bytes(8),
    "size-of-zero": _HEADER.pack(dm.VERSION_REQUEST, 0, 1) + bytes(8),
    "version-too-short": _HEADER.pack(dm.VERSION_REQUEST, 12, 1) + bytes(8),
    "capabilities-too-short": _HEADER.pack(dm.CAPABILITIES_REPORT, 16, 1) + bytes(24),
    "status-too-short": _HEADER.pack(dm.STATUS_REPORT, 16, 1) + bytes(40),
    "of-a-host": dm.balloon_request(1, 5),
    "error": dm.message(0, 1, b"\0" * 8),
    "unballoon-response-unasked": dm.unballoon_response(1),
    "hot-add-response-unasked": dm.hot_add_response(1, 100, 1),
    "hot-remove-response-unasked": dm.message(dm.HOT_REMOVE_RESPONSE, 1, struct.pack("<IIQ", 0, 0, 0)),
    "status-beyond-any-guest": dm.status_report(1, (1 << 64) - 1, (1 << 64) - 1),
}.items():
    for _when in ("at first", "in session"):
        TABLE.add(
            Case(
                f"dm-{_name}-{_when.replace(' ', '-')}",
                DM_FAULTS,
                "It is ignored or ends the channel; reopened, the channel works and no page is lost.",
                "QEMU hv-balloon.c: warnings 'message too short', 'unexpected', 'unknown DM message'",
                partial(_noise, _data, _when),
            )
        )


@TABLE.case(
    "malformed-messages-cost-themselves",
    DM_FAULTS,
    "Messages that are too short, unknown or wrong in size change nothing: the session goes on.",
    "QEMU hv-balloon.c: warns and returns",
)
def _cost_themselves(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    host.set_target(host.boot_pages - 300)
    must(guest.asked() == 300, "the request is not for 300 pages")
    for data in (
        b"",
        _HEADER.pack(15, 8, 1),
        _HEADER.pack(dm.STATUS_REPORT, 16, 1) + bytes(8),
        _HEADER.pack(dm.BALLOON_RESPONSE, 8, 1),
        _HEADER.pack(dm.BALLOON_RESPONSE, 24, 1) + struct.pack("<IIQ", 0, 2 << 1, 1 << 40),
    ):
        guest.write(Packet(PacketType.INBAND, 0, 0, data))
    guest.silent("after messages that are none")
    guest.give([guest.free_span(300)])
    guest.actual(host.boot_pages - 300)
    guest.return_all()


@TABLE.case(
    "response-of-many-kilobytes",
    DM_FAULTS,
    "A response may be longer than a page: the packet is the only limit.",
    "QEMU hv-balloon.c: 585,728 pages are what Windows returns at once, 1144 ranges of 2 MiB",
)
def _long_response(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    host.set_target(host.boot_pages - 1144)
    must(guest.asked() == 1144, "the request is not for 1144 pages")
    guest.give([(guest.free_span(2)[0], 1) for _ in range(1144)])
    guest.actual(host.boot_pages - 1144)
    guest.return_all()


@TABLE.case(
    "balloon-response-unasked",
    DM_FAULTS,
    "Pages that were not requested do not count and are never returned.",
    "QEMU hv-balloon.c: a response is taken in S_BALLOON_REPLY_WAIT only",
)
def _unasked(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    guest.send(dm.balloon_response(guest.next_id(), [guest.free_span(500)]))
    guest.actual(host.boot_pages)
    guest.return_all()


@TABLE.case(
    "more-than-asked",
    DM_FAULTS,
    "Pages beyond the request count, too, since the guest no longer uses them, and all are returned.",
    "QEMU hv-balloon.c: warns and continues",
)
def _too_many(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    host.set_target(host.boot_pages - 100)
    guest.asked()
    guest.give([guest.free_span(150)])
    guest.actual(host.boot_pages - 150)
    guest.return_all()


def _lying_count(count: int, spans: Sequence[Span], host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    guest.balloon(50)
    host.set_target(host.boot_pages - 1050)
    guest.asked()
    body = struct.pack("<II", 0, count << 1) + dm.ranges_of(spans)
    data = dm.message(dm.BALLOON_RESPONSE, guest.next_id(), body)
    guest.write(Packet(PacketType.INBAND, 0, 0, data))
    _survives(guest)


for _name, _count in (("one-more", 2), ("a-page-more", 511), ("most", 0x7FFF_FFFF)):
    TABLE.add(
        Case(
            f"range-count-of-{_name}",
            DM_FAULTS,
            "A count of ranges beyond the message is not trusted: only pages that were named count.",
            "QEMU hv-balloon.c: msglen is held against range_count",
            partial(_lying_count, _count, [(0x2000, 100)]),
        )
    )


def _strange_pages(spans: Sequence[Span], host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    guest.balloon(100)
    host.set_target(host.boot_pages - 1100)
    guest.asked()
    guest.send(dm.balloon_response(guest.next_id(), spans))
    for _ in guest.packets():
        guest.give([])
    if all(start >= host.boot_pages or not count for start, count in spans):
        guest.actual(host.boot_pages - 100)
    host.set_target(host.boot_pages)
    small = [span for span in spans if span[1] < 0x1000]
    named = guest.given.union(dm.pages_in(small))
    found = guest.packets()
    for _ in range(64):
        if not found:
            break
        last = dm.read_gift(found[-1])
        for request in found:
            gift = dm.read_gift(request)
            strange = [span for span in gift.spans if span[0] < host.boot_pages and span[0] not in named]
            must(not strange, f"pages {strange} are returned, which were never given")
        if not last.more:
            guest.send(dm.unballoon_response(guest.next_id()))
        found = guest.packets()
    guest.alive()


for _name, _spans in {
    "beyond-memory": [(1 << 30, 100)],
    "at-the-end-of-addresses": [(_LAST, _MOST)],
    "across-the-end-of-memory": [(-1, 100)],
    "of-no-pages": [(0x3000, 0), (0, 0)],
    "huge-and-many": [(_LAST - number * 0x100, _MOST) for number in range(510)],
}.items():

    def _play(spans: Sequence[Span], host: HostUnderTest) -> None:
        """Give pages outside the guest; page -1 stands for the last page of memory."""
        _strange_pages([(host.boot_pages - 10, n) if start < 0 else (start, n) for start, n in spans], host)

    TABLE.add(
        Case(
            f"pages-{_name}",
            DM_FAULTS,
            "Pages outside the guest do not count, at a cost bounded by the message.",
            "QEMU hv-balloon.c: one lookup and one warning for each page, in the main loop",
            partial(_play, _spans),
        )
    )


@TABLE.case(
    "packet-of-other-type",
    DM_FAULTS,
    "Packets that are not in-band are not messages of this protocol: they are ignored or end the channel.",
    "QEMU hw/hyperv/vmbus.c, VMBUS_PACKET_*",
)
def _other_type(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    guest.balloon(10)
    guest.write(Packet(PacketType.COMPLETION, 0, 1, dm.version_request(1, dm.DM_2_0)))
    guest.write(Packet(PacketType.CANCEL, 0, 1, bytes(8)))
    _survives(guest)


@TABLE.case(
    "never-reads",
    DM_FAULTS,
    "A guest that keeps sending requests and never reads loses at most its channel; the host is unharmed.",
    "replies wait for room in the ring",
)
def _never_reads(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    guest.open(pages=8, downstream=6)
    for number in range(2000):
        if not guest.write(Packet(PacketType.INBAND, 0, 0, dm.version_request(number, 0x7777_0000))):
            host.advance(1)
    guest.close()
    guest.open(first=200)
    guest.restart()
    guest.balloon(10)
    guest.return_all()


@TABLE.case(
    "second-handshake",
    DM_FAULTS,
    "A guest that negotiates again in mid-session gets no second handshake and loses nothing.",
    "QEMU hv-balloon.c: unexpected DM_VERSION_REQUEST in the wrong state",
)
def _second_handshake(host: HostUnderTest) -> None:
    guest = PlayedGuest(host).start()
    guest.balloon(10)
    guest.write(Packet(PacketType.INBAND, 0, 0, dm.version_request(90, dm.DM_2_0)))
    guest.write(Packet(PacketType.INBAND, 0, 0, dm.capabilities_report(91, 1)))
    _survives(guest)
