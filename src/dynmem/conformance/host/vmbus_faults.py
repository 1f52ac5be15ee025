"""Cases against a host's VMBus, played by a broken or hostile guest: the host survives and replies.

Each of these has crashed a host or left a guest waiting forever. In every case a sound guest must be served
right afterwards.
"""

import struct
from functools import partial
from typing import Final

from dynmem.conformance.adapter import VMBUS_FAULTS, HostUnderTest
from dynmem.conformance.case import Case, CaseTable, NotApplicableError, must
from dynmem.conformance.host.played_guest import FIRST_GPADL, PlayedGuest
from dynmem.units import PAGE_SIZE
from dynmem.vmbus import ring
from dynmem.vmbus.memory import GpadlMemory
from dynmem.wire import vmbus as wire
from dynmem.wire.synic import MESSAGE_CONNECTION_ID
from dynmem.wire.versions import VERSION_WIN10

TABLE: Final = CaseTable()

NOWHERE: Final = 0x00FF_FFFF_FFFF  # a page number far outside any guest


def _connected(host: HostUnderTest) -> PlayedGuest:
    guest = PlayedGuest(host)
    guest.connect()
    return guest


@TABLE.case(
    "unload-before-contact",
    VMBUS_FAULTS,
    "UNLOAD with no connection changes nothing.",
    "QEMU hw/hyperv/vmbus.c: the answer has no SINT route then",
)
def _early_unload(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.post(wire.Unload())
    guest.alive()


def _absent_vp(vp: int, host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.version = VERSION_WIN10
    guest.post(wire.InitiateContact(VERSION_WIN10, vp, 0, 0, 0), MESSAGE_CONNECTION_ID)
    guest.take()
    guest.alive()


for _name, _vp in (("none", 0xFFFF_FFFF), ("absent", 4095)):
    TABLE.add(
        Case(
            f"contact-on-{_name}-vp",
            VMBUS_FAULTS,
            f"A contact that names virtual processor {_vp:#x} is rejected, or the reply goes elsewhere.",
            "QEMU hw/hyperv: hyperv_find_vcpu gives NULL",
            partial(_absent_vp, _vp),
        )
    )


def _bad_gpadl(message: wire.GpadlHeader, host: HostUnderTest) -> None:
    guest = _connected(host)
    relid = guest.relid if message.child_relid == 1 else message.child_relid
    status = guest.post(
        wire.GpadlHeader(relid, message.gpadl, message.range_buflen, message.range_count, message.ranges)
    )
    answers = guest.take()
    if not status:  # a rejected post is a reply, too
        must(
            len(answers) == 1
            and isinstance(answers[0], wire.GpadlCreated)
            and answers[0].gpadl == message.gpadl
            and answers[0].creation_status,
            f"the guest waits for GPADL_CREATED with an error; received {answers or 'nothing'}",
        )
    guest.alive()


_PFN: Final = struct.pack("<Q", 20)
for _name, _header in {
    "no-range": wire.GpadlHeader(1, 7, 0, 0, b""),
    "short-buffer": wire.GpadlHeader(1, 7, 4, 1, b"\0\x10\0\0"),
    "huge-count": wire.GpadlHeader(1, 7, 7, 1, struct.pack("<II", 0xFFFF_F000, 0) + _PFN),
    "huge-size": wire.GpadlHeader(1, 7, 0xFFF8, 1, struct.pack("<II", 0xFFFF_F000, 0) + _PFN),
    "no-pages": wire.GpadlHeader(1, 7, 8, 1, struct.pack("<II", 0, 0)),
    "part-page": wire.GpadlHeader(1, 7, 16, 1, struct.pack("<II", 100, 0) + _PFN),
    "misfit": wire.GpadlHeader(1, 7, 16, 1, struct.pack("<II", 2 * PAGE_SIZE, 0) + _PFN),
    "unknown-channel": wire.GpadlHeader(2000, 7, 16, 1, struct.pack("<II", PAGE_SIZE, 0) + _PFN),
}.items():
    TABLE.add(
        Case(
            f"gpadl-{_name}",
            VMBUS_FAULTS,
            "The reply to an impossible GPADL is GPADL_CREATED with an error status.",
            "QEMU vmbus.c: drops it, or counts below zero; Linux waits for the reply forever",
            partial(_bad_gpadl, _header),
        )
    )


@TABLE.case(
    "gpadl-body-too-many",
    VMBUS_FAULTS,
    "A body for a complete GPADL changes nothing; the GPADL remains valid.",
    "QEMU hw/hyperv/vmbus.c: assert(num_gfns_left)",
)
def _late_body(host: HostUnderTest) -> None:
    guest = _connected(host)
    gpadl = guest.must_make_gpadl(host.scratch[:30])
    guest.post(wire.GpadlBody(2, gpadl, 28 * _PFN))
    must(not guest.take(), "a superfluous body gets a reply")
    answers = guest.ask(wire.GpadlTeardown(guest.relid, gpadl))
    must(answers == [wire.GpadlTorndown(gpadl)], f"the reply to the teardown is {answers}")
    guest.alive()


@TABLE.case(
    "gpadl-body-for-nothing",
    VMBUS_FAULTS,
    "A body for a GPADL that was never begun changes nothing.",
    "QEMU hw/hyperv/vmbus.c, vmbus_handle_gpadl_body",
)
def _stray_body(host: HostUnderTest) -> None:
    guest = _connected(host)
    guest.post(wire.GpadlBody(1, 0x77, 28 * _PFN))
    must(not guest.take(), "a body without a header gets a reply")
    guest.alive()


@TABLE.case(
    "gpadl-id-twice",
    VMBUS_FAULTS,
    "A GPADL id in use is rejected with an error status, and the first GPADL is unchanged.",
    "QEMU hw/hyperv/vmbus.c ignores the second; Linux waits for its reply forever",
)
def _same_id(host: HostUnderTest) -> None:
    guest = _connected(host)
    guest.open()
    ranges = struct.pack("<II", PAGE_SIZE, 0) + _PFN
    answers = guest.ask(wire.GpadlHeader(guest.relid, guest.gpadl, 16, 1, ranges))
    must(
        len(answers) == 1 and isinstance(answers[0], wire.GpadlCreated) and answers[0].creation_status,
        f"the reply to the second GPADL of one id is {answers or 'nothing'}",
    )
    must(guest.negotiate(), "the channel over the first GPADL no longer works")


@TABLE.case(
    "teardown-of-nothing",
    VMBUS_FAULTS,
    "The teardown of an unknown GPADL gets a reply, since its pages are certainly unused.",
    "Linux drivers/hv/channel.c, vmbus_teardown_gpadl waits for GPADL_TORNDOWN",
)
def _stray_teardown(host: HostUnderTest) -> None:
    guest = _connected(host)
    answers = guest.ask(wire.GpadlTeardown(guest.relid, 0x77))
    must(answers == [wire.GpadlTorndown(0x77)], f"the reply is {answers or 'nothing'}")


@TABLE.case(
    "teardown-under-open-channel",
    VMBUS_FAULTS,
    "Rings torn down under an open channel are no longer touched, and the channel can be reopened.",
    "the pages are the guest's again from GPADL_TORNDOWN on",
)
def _teardown_open(host: HostUnderTest) -> None:
    guest = _connected(host)
    guest.open()
    pages = GpadlMemory(host.memory, guest.pfns)
    guest.post(wire.GpadlTeardown(guest.relid, guest.gpadl))
    answers = guest.take()
    if answers[:1] != [wire.GpadlTorndown(guest.gpadl)]:
        raise NotApplicableError("the host keeps the GPADL of an open channel")
    must(
        answers[1:] in ([], [wire.RescindChannelOffer(guest.relid)]),
        f"the broken channel is followed by {answers[1:]}",
    )
    pages.write(0, bytes(pages.size))
    host.signal_event(guest.offer.connection_id, 0)
    host.advance(host.post_init_wait_ns)
    must(not any(pages.read(0, pages.size)), "the host wrote to pages that it had released")
    guest.alive()


def _bad_open(gpadl: int, vp: int, downstream: int, host: HostUnderTest) -> None:
    guest = _connected(host)
    made = guest.must_make_gpadl(host.scratch[:6])
    answers = guest.ask(wire.OpenChannel(guest.relid, 9, gpadl or made, vp, downstream))
    must(
        len(answers) == 1
        and isinstance(answers[0], wire.OpenChannelResult)
        and answers[0].openid == 9
        and answers[0].status,
        f"the guest waits for OPENCHANNEL_RESULT with an error; received {answers or 'nothing'}",
    )
    guest.alive()


for _name, (_gpadl, _vp, _downstream) in {
    "without-gpadl": (0x55, 0, 3),
    "on-absent-vp": (0, 4095, 3),
    "ring-of-no-pages": (0, 0, 0),
    "ring-of-one-page": (0, 0, 1),
    "downstream-of-one-page": (0, 0, 5),
    "downstream-outside": (0, 0, 0xFFFF_FFFF),
}.items():
    TABLE.add(
        Case(
            f"open-{_name}",
            VMBUS_FAULTS,
            "The reply to an impossible open is OPENCHANNEL_RESULT with its openid and an error status.",
            "QEMU hw/hyperv/vmbus.c, vmbus_handle_open_channel; hyperv_find_vcpu gives NULL",
            partial(_bad_open, _gpadl, _vp, _downstream),
        )
    )


@TABLE.case(
    "open-over-absent-memory",
    VMBUS_FAULTS,
    "Rings in pages that are not memory are rejected with an error status, at the GPADL or at the open.",
    "QEMU hw/hyperv/vmbus.c maps the rings when the channel opens",
)
def _no_memory(host: HostUnderTest) -> None:
    guest = _connected(host)
    pfns = range(NOWHERE, NOWHERE + 10)
    gpadl, answers = guest.make_gpadl(pfns)
    must(len(answers) == 1, f"the reply to a complete GPADL is {answers or 'nothing'}")
    if answers == [wire.GpadlCreated(guest.relid, gpadl, 0)]:
        answers = guest.ask(wire.OpenChannel(guest.relid, 9, gpadl, 0, 5))
        must(len(answers) == 1, f"the reply to an open is {answers or 'nothing'}")
        must(getattr(answers[0], "status", 0), "a channel is opened over pages that are not memory")
    guest.alive()


@TABLE.case(
    "open-twice",
    VMBUS_FAULTS,
    "An open channel is not opened a second time and continues to work.",
    "OpenVMM vmbus_server: ChannelState table",
)
def _open_twice(host: HostUnderTest) -> None:
    guest = _connected(host)
    guest.open()
    other = guest.must_make_gpadl(host.scratch[20:30])
    answers = guest.ask(wire.OpenChannel(guest.relid, 9, other, 0, 5))
    must(len(answers) == 1 and getattr(answers[0], "status", 0), f"the reply is {answers or 'nothing'}")
    must(guest.negotiate(), "the channel no longer works")


@TABLE.case(
    "close-of-closed",
    VMBUS_FAULTS,
    "Closing a channel that is not open changes nothing.",
    "OpenVMM vmbus_server: ChannelState table",
)
def _close_closed(host: HostUnderTest) -> None:
    guest = _connected(host)
    guest.post(wire.CloseChannel(guest.relid))
    guest.post(wire.CloseChannel(2000))
    guest.take()
    guest.open()
    must(guest.negotiate(), "the channel cannot be opened any more")


def _noise(payload: bytes, message_type: int, host: HostUnderTest) -> None:
    guest = _connected(host)
    host.post_message(MESSAGE_CONNECTION_ID, message_type, payload)
    guest.post(payload)
    guest.take()
    guest.alive()


for _name, (_payload, _type) in {
    "nothing": (b"", 1),
    "short": (b"\x03\0\0\0", 1),
    "unknown": (struct.pack("<II", 4711, 0), 1),
    "of-a-host": (struct.pack("<II", 1, 0) + bytes(188), 1),
    "cut": (struct.pack("<III", 8, 0, 1), 1),
    "of-another-type": (struct.pack("<II", 3, 0), 2),
    "of-zeros": (bytes(240), 1),
    "of-ones": (b"\xff" * 240, 1),
}.items():
    TABLE.add(
        Case(
            f"message-{_name}",
            VMBUS_FAULTS,
            "A malformed message changes nothing that a new contact does not repair.",
            "QEMU hw/hyperv/vmbus.c, vmbus_recv_message",
            partial(_noise, _payload, _type),
        )
    )


def _bad_ring(words: dict[int, int], data: bytes, host: HostUnderTest) -> None:
    guest = _connected(host)
    guest.open()
    pages = GpadlMemory(host.memory, guest.pfns)
    pages.write(PAGE_SIZE, data)
    for offset, value in words.items():
        pages.store32(offset, value)
    host.signal_event(guest.offer.connection_id, 0)
    host.advance(host.post_init_wait_ns)
    host.set_target(host.boot_pages - 10)
    guest.mend(first=300)
    guest.restart()


_W: Final = ring.WRITE_INDEX
_DOWN: Final = 5 * PAGE_SIZE
for _name, (_words, _data) in {
    "write-index-outside": ({_W: 0x7FFF_FFF8}, b""),
    "write-index-odd": ({_W: 33}, b""),
    "packet-without-end": ({_W: 64}, struct.pack("<HHHHQ", 6, 2, 0xFFFF, 0, 0)),
    "packet-of-no-length": ({_W: 64}, struct.pack("<HHHHQ", 6, 2, 0, 0, 0)),
    "packet-begins-behind-its-end": ({_W: 64}, struct.pack("<HHHHQ", 6, 7, 4, 0, 0)),
    "packet-of-unknown-type": ({_W: 64}, struct.pack("<HHHHQ", 99, 2, 4, 0, 0)),
    "packet-half-written": ({_W: 8}, b"\x06\0\x02\0\x04\0\0\0"),
    "packets-of-zeros": ({_W: 4096}, bytes(4096)),
    "gpa-ranges-without-end": (
        {_W: 64},
        struct.pack("<HHHHQIIII", 9, 4, 6, 0, 0, 0, 0xFFFF_FFFF, 0xFFFF_FFFF, 0xFFF),
    ),
    "read-index-outside": ({_DOWN + ring.READ_INDEX: 0xFFFF_FFF8}, b""),
}.items():
    TABLE.add(
        Case(
            f"ring-{_name}",
            VMBUS_FAULTS,
            "A damaged ring breaks its channel and nothing else; reopened, or offered again, it works.",
            "Linux drivers/hv/ring_buffer.c; QEMU hw/hyperv/vmbus.c, vmbus_channel_recv_start",
            partial(_bad_ring, _words, _data),
        )
    )


@TABLE.case(
    "ring-too-small",
    VMBUS_FAULTS,
    "A message that can never fit the guest's rings is not sent, and breaks at most the channel.",
    "a ring of one data page holds no message of 4096 bytes",
)
def _small_ring(host: HostUnderTest) -> None:
    guest = _connected(host)
    guest.open(pages=4, downstream=2)
    guest.restart()
    host.set_target(host.boot_pages - 900)
    guest.asked()
    for number in range(3):
        guest.give([(guest.free_span(2)[0], 1) for _ in range(300)], more=number < 2)
    host.set_target(host.boot_pages)
    host.advance(host.post_init_wait_ns)
    guest.mend(first=300)
    guest.restart()
    while guest.given:
        must(guest.get_back(), "pages are not returned over a larger ring")


@TABLE.case(
    "gpadls-without-end",
    VMBUS_FAULTS,
    "A guest that makes GPADLs and never tears one down is rejected eventually; a contact clears that.",
    "a host keeps a bounded number of page lists for a guest",
)
def _many_gpadls(host: HostUnderTest) -> None:
    guest = _connected(host)
    ranges = struct.pack("<II", PAGE_SIZE, 0) + _PFN
    for gpadl in range(FIRST_GPADL, FIRST_GPADL + 3000):
        if guest.post(wire.GpadlHeader(guest.relid, gpadl, 16, 1, ranges)):
            break
        if guest.take() != [wire.GpadlCreated(guest.relid, gpadl, 0)]:
            break
    guest.alive()
