"""Cases against a guest's VMBus, played by a host that keeps to the protocol, or barely."""

import struct
from functools import partial
from typing import Final

from dynmem.conformance import layouts as dm
from dynmem.conformance.adapter import VMBUS, VMBUS_FAULTS, GuestUnderTest
from dynmem.conformance.case import Case, CaseTable, must
from dynmem.conformance.guest.played_host import RELID, PlayedHost
from dynmem.units import NS_PER_S, PAGE_SIZE
from dynmem.vmbus import ring
from dynmem.vmbus.memory import GpadlMemory
from dynmem.wire import vmbus as wire
from dynmem.wire.packet import Packet, PacketType
from dynmem.wire.versions import (
    VERSION_5_0,
    VERSION_5_2,
    VERSION_WIN8,
    VERSION_WIN8_1,
    VERSION_WIN10,
    format_version,
)

TABLE: Final = CaseTable()


def _older_host(newest: int, guest: GuestUnderTest) -> None:
    host = PlayedHost(guest)
    host.connect(newest)
    host.open()
    must(host.negotiate() == dm.DM_2_0, "the handshake does not begin")


for _version in (VERSION_5_2, VERSION_5_0, VERSION_WIN10, VERSION_WIN8_1, VERSION_WIN8):
    TABLE.add(
        Case(
            f"guest-with-host-of-{format_version(_version)}",
            VMBUS,
            "Versions are tried downwards until the host accepts one, and everything works with it.",
            "Linux drivers/hv/connection.c, vmbus_versions",
            partial(_older_host, _version),
        )
    )


@TABLE.case(
    "guest-every-version-refused",
    VMBUS,
    "When the last version is rejected, nothing more is posted.",
    "Linux drivers/hv/connection.c, vmbus_connect",
)
def _all_refused(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest)
    guest.start(host)
    host.refuse_every_version()
    host.no_post("after every version was rejected")


@TABLE.case(
    "guest-contact-connection-unknown",
    VMBUS,
    "If a contact fails with status 18, as from 5.0 on with old hosts, the guest tries another way.",
    "Linux drivers/hv/connection.c: HV_STATUS_INVALID_CONNECTION_ID means an unsupported version",
)
def _no_connection_4(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest)
    host.refusals.append(18)
    host.connect(VERSION_WIN10)
    host.open()


@TABLE.case(
    "guest-post-again",
    VMBUS,
    "A message for which the hypervisor has no buffers (status 19) is posted again, the same bytes.",
    "Linux drivers/hv/connection.c, vmbus_post_msg",
)
def _again(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest)
    host.refusals.extend([19, 19, 19])
    guest.start(host)
    must(host.waited(lambda: host.posts), "the contact is not posted again")
    must(len(set(host.refused)) == 1, "another message is posted in between")
    must(host.posts[0][1] == host.refused[0], "a different message is posted than the one rejected")


@TABLE.case(
    "guest-padded-messages",
    VMBUS,
    "Messages rounded up to 8 bytes, as QEMU posts them, are accepted.",
    "QEMU hw/hyperv/vmbus.c posts OFFERCHANNEL with 200 bytes and VERSION_RESPONSE with 12",
)
def _padded(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest)
    host.connect(pad=4)
    host.open()
    must(host.negotiate() == dm.DM_2_0, "the handshake does not begin")


@TABLE.case(
    "guest-gpadl-refused",
    VMBUS,
    "A rejected GPADL is not opened.",
    "Linux drivers/hv/channel.c, __vmbus_establish_gpadl",
)
def _gpadl_refused(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest)
    host.connect()
    host.take_gpadl()
    host.say(wire.GpadlCreated(RELID, host.gpadl, 0xC000_0001))
    guest.advance(NS_PER_S)
    while host.posts:
        must(not isinstance(host.peek_post(), wire.OpenChannel), "a channel without a GPADL is opened")
        host.posts.popleft()


@TABLE.case(
    "guest-open-refused",
    VMBUS,
    "A rejected open is followed by the teardown of its GPADL, and by no packet.",
    "Linux drivers/hv/channel.c, __vmbus_open",
)
def _open_refused(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest)
    host.connect()
    request = host.take_open()
    host.say(wire.OpenChannelResult(RELID, request.openid, 0xC000_0001))
    teardown = host.next_post(wire.GpadlTeardown)
    must(teardown.gpadl == host.gpadl, "another GPADL is torn down")
    host.say(wire.GpadlTorndown(host.gpadl))
    written = GpadlMemory(guest.memory, host.pfns).load32(ring.WRITE_INDEX)
    must(not written, "something is written to a channel that is not open")


@TABLE.case(
    "guest-rescind",
    VMBUS,
    "A rescinded channel is released with RELID_RELEASED, and nothing more is written to its rings.",
    "Linux drivers/hv/channel_mgmt.c, vmbus_onoffer_rescind",
)
def _rescind(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    pages = GpadlMemory(guest.memory, host.pfns)
    host.rescind()
    before = pages.load32(ring.WRITE_INDEX)
    guest.advance(10 * NS_PER_S)
    must(pages.load32(ring.WRITE_INDEX) == before, "the rings of a rescinded channel are written to")


def _come_back(relid: int, guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    for _ in range(3):
        host.rescind()
        host.offer(relid=relid)
        host.open()
        must(host.negotiate() == dm.DM_2_0, "the handshake does not begin again")
        host.capabilities(suppress=True)
        host.silent("after the handshake")
        host.alive()


for _name, _relid in (("the-same", RELID), ("another", RELID + 1)):
    TABLE.add(
        Case(
            f"guest-offered-again-under-{_name}-relid",
            VMBUS,
            "A device that is offered again after a rescind is opened again, and the handshake begins again.",
            "Linux drivers/hv/channel_mgmt.c, vmbus_onoffer: the driver probes the new device",
            partial(_come_back, _relid),
        )
    )


@TABLE.case(
    "guest-signals",
    VMBUS,
    "A packet in an empty ring signals the host, unless its interrupt mask is set.",
    "Linux drivers/hv/ring_buffer.c, hv_signal_on_write",
)
def _signals(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    before = host.signals
    host.balloon(8)
    must(host.signals > before, "the host is not signalled for a packet in an empty ring")
    GpadlMemory(guest.memory, host.pfns).store32(ring.INTERRUPT_MASK, 1)
    before = host.signals
    host.balloon(8)
    must(host.signals == before, "the host is signalled though its interrupt mask is set")


@TABLE.case(
    "guest-rings-wrap",
    VMBUS,
    "Hundreds of requests, which fill each ring several times, get complete responses in order.",
    "Linux drivers/hv/ring_buffer.c",
)
def _wrap(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    for _ in range(20):
        spans = [span for response in host.balloon(2000) for span in response]
        must(sum(count for _, count in spans) == 2000, "fewer pages are given than are there")
        host.unballoon([spans[start : start + 200] for start in range(0, len(spans), 200)])


@TABLE.case(
    "guest-reader-is-slow",
    VMBUS,
    "A guest whose ring is full waits for room, then sends its packets and signals.",
    "Linux drivers/hv/hv_balloon.c, balloon_up: -EAGAIN; ring_buffer.c, pending_send_sz",
)
def _slow(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    host.send(dm.balloon_request(host.next_id(), 20_000))
    for _ in range(20):
        guest.advance(NS_PER_S)  # the host reads nothing meanwhile
    given, more = 0, True
    while more and given <= 20_000:
        found = host.arrived()
        must(found, "the rest of the pages does not come when there is room")
        for response in found:
            gift = dm.read_gift(response)
            given, more = given + gift.pages, gift.more
    must(0 < given <= 20_000, f"{given} pages are given where 20000 are requested")


def _noise(payload: bytes, guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    guest.deliver_message(payload)
    guest.advance(NS_PER_S)
    host.alive()


for _name, _payload in {
    "empty": b"",
    "short": b"\x02\0\0\0",
    "unknown": struct.pack("<II", 4711, 0) + bytes(40),
    "of-a-guest": wire.encode(wire.RequestOffers()),
    "gpadl-created-unasked": wire.encode(wire.GpadlCreated(RELID, 0x77, 0)),
    "open-result-unasked": wire.encode(wire.OpenChannelResult(RELID, 0x77, 0)),
    "torndown-unasked": wire.encode(wire.GpadlTorndown(0x77)),
    "rescind-of-nothing": wire.encode(wire.RescindChannelOffer(99)),
    "unload-response-unasked": wire.encode(wire.UnloadResponse()),
    "version-response-again": wire.encode(wire.VersionResponse(True, 0, 4)),
    "offer-cut": wire.encode(wire.RescindChannelOffer(0))[:8],
}.items():
    TABLE.add(
        Case(
            f"guest-message-{_name}",
            VMBUS_FAULTS,
            "A message that is malformed or unexpected changes nothing.",
            "Linux drivers/hv/vmbus_drv.c and channel_mgmt.c: hosts of confidential guests are not trusted",
            partial(_noise, _payload),
        )
    )


def _bad_ring(words: dict[int, int], data: bytes, guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    pages = GpadlMemory(guest.memory, host.pfns)
    base = host.downstream * PAGE_SIZE
    pages.write(base + PAGE_SIZE, data)
    for offset, value in words.items():
        pages.store32(base + offset, value)
    guest.deliver_event(RELID)
    guest.advance(NS_PER_S)
    told = guest.ballooned_pages()
    must(told in (None, 0), f"the guest believes that it has given {told} pages")


_W: Final = ring.WRITE_INDEX
for _name, (_words, _data) in {
    "write-index-outside": ({_W: 0x7FFF_FFF8}, b""),
    "write-index-odd": ({_W: 33}, b""),
    "packet-without-end": ({_W: 64}, struct.pack("<HHHHQ", 6, 2, 0xFFFF, 0, 0)),
    "packet-of-no-length": ({_W: 64}, struct.pack("<HHHHQ", 6, 2, 0, 0, 0)),
    "packet-begins-behind-its-end": ({_W: 64}, struct.pack("<HHHHQ", 6, 7, 4, 0, 0)),
}.items():
    TABLE.add(
        Case(
            f"guest-ring-{_name}",
            VMBUS_FAULTS,
            "A ring that the host damaged does not crash the guest, and no page changes owner by it.",
            "Linux drivers/hv/ring_buffer.c copies and checks each packet",
            partial(_bad_ring, _words, _data),
        )
    )


@TABLE.case(
    "guest-packet-of-other-type",
    VMBUS_FAULTS,
    "Packets that are not in-band are not messages of this protocol and are ignored.",
    "Linux drivers/hv/hv_balloon.c takes VM_PKT_DATA_INBAND only",
)
def _other_type(guest: GuestUnderTest) -> None:
    host = PlayedHost(guest).begin()
    host.write(Packet(PacketType.COMPLETION, 0, 1, dm.balloon_request(1, 100)))
    host.silent("after a completion packet")
    host.holds(0)
    host.alive()
