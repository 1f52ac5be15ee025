"""Cases against a host's VMBus: contact, offers, GPADLs, opening, signals, rings."""

from functools import partial
from typing import Final

from dynmem.conformance import layouts as dm
from dynmem.conformance.adapter import VMBUS, HostUnderTest
from dynmem.conformance.case import Case, CaseTable, NotApplicableError, must
from dynmem.conformance.host.played_guest import PlayedGuest
from dynmem.units import PAGE_SIZE
from dynmem.wire import vmbus as wire
from dynmem.wire.versions import (
    VERSION_4_1,
    VERSION_5_3,
    VERSION_WIN7,
    VERSION_WIN8_1,
    VERSION_WIN10,
    VERSIONS,
    format_version,
)

TABLE: Final = CaseTable()


def _one_version(version: int, host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    answer = guest.contact(version)
    if answer is None or guest.version is None:
        guest.connect()  # rejected: then another one must work
    else:
        guest.request_offers()
    guest.open()


for _version in VERSIONS:
    TABLE.add(
        Case(
            f"contact-{format_version(_version)}",
            VMBUS,
            "The version is accepted and the channel opens with it, or it is rejected and another works.",
            "Linux include/linux/hyperv.h, VERSION_*",
            partial(_one_version, _version),
        )
    )


@TABLE.case(
    "contact-unknown-version",
    VMBUS,
    "A version from the future is rejected with version_supported 0, and an older one works afterwards.",
    "Linux drivers/hv/connection.c, vmbus_connect: versions are tried downwards",
)
def _unknown_version(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    must(guest.contact(0xFFFF_0000) is None or guest.version is None, "version 65535.0 is accepted")
    guest.alive()


@TABLE.case(
    "contact-begins-anew",
    VMBUS,
    "A contact ends the connection before it: channels are closed, GPADLs gone, offers repeated.",
    "QEMU hw/hyperv/vmbus.c: INITIATE_CONTACT resets the bus (a kexec'd kernel knows nothing of the old one)",
)
def _anew(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    guest.open()
    again = PlayedGuest(host)  # counts its GPADLs from the same number
    again.connect()
    again.open()
    must(again.negotiate(), "the new channel's handshake fails")


@TABLE.case(
    "contact-with-monitor-pages",
    VMBUS,
    "A contact with two monitor pages, as Linux sends it, is accepted.",
    "Linux drivers/hv/connection.c, vmbus_negotiate_version: monitor_page1 and monitor_page2",
)
def _monitor_pages(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.monitor_pages = (host.scratch[-1] * PAGE_SIZE, host.scratch[-2] * PAGE_SIZE)
    guest.connect()
    guest.open()
    must(guest.negotiate(), "the handshake fails")


@TABLE.case(
    "unload",
    VMBUS,
    "The reply to UNLOAD is UNLOAD_RESPONSE, and the bus can be contacted again.",
    "Linux drivers/hv/channel_mgmt.c, vmbus_initiate_unload",
)
def _unload(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    guest.open()
    guest.needs_version(VERSION_WIN8_1, "a reply to UNLOAD")
    answers = guest.ask(wire.Unload())
    must(answers == [wire.UnloadResponse()], f"the reply to UNLOAD is {answers}")
    PlayedGuest(host).alive()


@TABLE.case(
    "offers-stay-the-same",
    VMBUS,
    "After a reset and a new contact the same devices have the same relids and connection ids, in order.",
    "QEMU hw/hyperv/vmbus.c; guests that hibernate or kexec find their devices by them",
)
def _stable_offers(host: HostUnderTest) -> None:
    first, second = PlayedGuest(host), PlayedGuest(host)
    first.connect()
    host.reset()
    second.connect()
    must(first.offers == second.offers, f"first {first.offers}, then {second.offers} were offered")


def _gpadl(pages: int, host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    gpadl = guest.must_make_gpadl(host.scratch[:pages])
    answers = guest.ask(wire.GpadlTeardown(guest.relid, gpadl))
    must(answers == [wire.GpadlTorndown(gpadl)], f"the reply to a teardown is {answers}")


for _pages in (1, 26, 27, 54, 55, 500):
    TABLE.add(
        Case(
            f"gpadl-of-{_pages}-pages",
            VMBUS,
            "A GPADL is created with status 0 after its last body, not before, and torn down on request.",
            "Linux drivers/hv/channel.c, create_gpadl_header: 26 page numbers in a header, 28 in a body",
            partial(_gpadl, _pages),
        )
    )


@TABLE.case(
    "gpadl-of-scattered-pages",
    VMBUS,
    "The rings use the page numbers in the order given, whatever it is.",
    "Linux drivers/hv/channel.c: ring buffers are vmalloc'd or allocated in pieces",
)
def _scattered(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    host.scratch = host.scratch[40:0:-3]
    guest.connect()
    guest.open()
    must(guest.negotiate(), "the handshake fails over scattered pages")


@TABLE.case(
    "reopen",
    VMBUS,
    "A closed channel can be opened over other pages, and its handshake starts again.",
    "Linux hv_balloon.c, balloon_suspend and balloon_resume",
)
def _reopen(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.start()
    for attempt in range(3):
        guest.close()
        guest.open(first=20 * attempt + 20)
        guest.restart()


@TABLE.case(
    "messages-wait-for-the-slot",
    VMBUS,
    "Replies to a guest that is slow to empty its slot wait in order, and none is lost.",
    "QEMU hw/hyperv/vmbus.c: one message in flight, retried at EOM",
)
def _slow_slot(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    for gpadl in range(1, 9):
        page = host.scratch[gpadl].to_bytes(8, "little")
        status = guest.post(wire.GpadlHeader(guest.relid, gpadl, 16, 1, b"\0\x10\0\0\0\0\0\0" + page))
        must(status == 0, f"the {gpadl}th post is rejected with status {status}")
    answers = guest.take()
    wanted = [wire.GpadlCreated(guest.relid, gpadl, 0) for gpadl in range(1, 9)]
    must(answers == wanted, f"the replies to eight GPADLs are {answers}")


@TABLE.case(
    "modify-channel",
    VMBUS,
    "MODIFYCHANNEL of an open channel takes effect; only from 5.3 on it gets a reply, with status 0.",
    "Linux drivers/hv/channel.c, vmbus_send_modifychannel",
)
def _modify(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    guest.needs_version(VERSION_4_1, "MODIFYCHANNEL")
    guest.open()
    answers = guest.ask(wire.ModifyChannel(guest.relid, 0))
    wanted = [wire.ModifyChannelResponse(guest.relid, 0)] if guest.version == VERSION_5_3 else []
    must(answers == wanted, f"the reply to MODIFYCHANNEL is {answers}")


@TABLE.case(
    "interrupt-by-event-flag",
    VMBUS,
    "A packet in an empty ring raises the channel's event flag, which is its relid.",
    "Linux drivers/hv/vmbus_drv.c and connection.c, vmbus_chan_sched",
)
def _event_flag(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    guest.open()
    guest.packets()
    guest.flags.clear()
    guest.negotiate()
    must(guest.relid in guest.flags, f"event flags {guest.flags} were set, not {guest.relid}")


@TABLE.case(
    "interrupt-by-page",
    VMBUS,
    "Before 2.4 a packet sets its relid's bit in the first half of the interrupt page, and event flag 0.",
    "Linux drivers/hv/connection.c, vmbus_on_event of the versions that knew it; recv_int_page",
)
def _interrupt_page(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.interrupt_page = host.scratch[-3] * PAGE_SIZE
    host.memory.write(guest.interrupt_page, bytes(PAGE_SIZE))
    if guest.contact(VERSION_WIN7) is None or guest.version is None:
        raise NotApplicableError("the host does not speak 1.1")
    guest.request_offers()
    guest.open()
    guest.packets()
    guest.flags.clear()
    host.memory.write(guest.interrupt_page, bytes(PAGE_SIZE))
    guest.negotiate()
    word = host.memory.load32(guest.interrupt_page + guest.relid // 32 * 4)
    must(word >> guest.relid % 32 & 1, f"the bit of relid {guest.relid} is not set in {word:#x}")
    must(0 in guest.flags, f"event flags {guest.flags} were set, not 0")


@TABLE.case(
    "signal-of-no-channel",
    VMBUS,
    "Signals and posts to unknown connections fail with status 18, a signal with a flag with 17.",
    "Hypervisor Top-Level Functional Specification, HvSignalEvent and HvPostMessage",
)
def _strange_signals(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    guest.open()
    status = host.signal_event(0x0123_4567, 0)
    must(status == 18, f"a signal to an unknown connection gives status {status}, not 18")
    status = host.signal_event(guest.offer.connection_id, 1)
    must(status == 17, f"a signal with flag 1 gives status {status}, not 17")
    status = guest.post(wire.RequestOffers(), 0x0123_4567)
    must(status == 18, f"a post to an unknown connection gives status {status}, not 18")
    must(guest.negotiate(), "the channel no longer works")


@TABLE.case(
    "rings-wrap",
    VMBUS,
    "Thousands of packets, which fill each ring many times, arrive complete and in order.",
    "Linux drivers/hv/ring_buffer.c; the footer's eight bytes count in both indices",
)
def _wrap(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    guest.open(pages=4, downstream=2)
    for number in range(1000):
        must(not guest.negotiate(0x7FFF_0000 + number % 7), "version 32767 is accepted")
        if number % 3 == 0:
            guest.send(dm.message(0, guest.next_id(), bytes(8 * (number % 5))))
    must(guest.negotiate(), "version 2.0 is rejected after a thousand others")


@TABLE.case(
    "room-comes-back",
    VMBUS,
    "Messages that do not fit the ring to the guest are sent when the guest has made room and signalled.",
    "Linux drivers/hv/ring_buffer.c, hv_pkt_iter_close: pending_send_sz",
)
def _room(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    guest.open(pages=5, downstream=2)
    guest.restart()
    spans = [(guest.free_span(2)[0], 1) for _ in range(1200)]
    host.set_target(host.boot_pages - 1200)
    must(guest.asked() == 1200, "the host does not request exactly 1200 pages")
    for start in range(0, 1200, 400):
        guest.give(spans[start : start + 400], more=start < 800)
    guest.return_all()


@TABLE.case(
    "reset-forgets",
    VMBUS,
    "After a reset nothing of the old connection remains, and a new guest finds everything as at first.",
    "QEMU hw/hyperv/vmbus.c, vmbus_reset",
)
def _reset(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.start()
    host.reset()
    must(not guest.take(), "messages of the old connection come after the reset")
    PlayedGuest(host).start()


@TABLE.case(
    "tl-connect",
    VMBUS,
    "A connection to a service that is not offered is rejected, or the message is unknown.",
    "Linux drivers/hv/channel_mgmt.c, vmbus_send_tl_connect_request",
)
def _tl_connect(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    guest.needs_version(VERSION_4_1, "TL_CONNECT_RESULT")
    endpoint = guest.offer.interface
    status = guest.post(wire.TlConnectRequest(endpoint, endpoint))
    answers = guest.take()
    if status or not answers:
        raise NotApplicableError("the host does not reply to TL_CONNECT_REQUEST")
    must(
        len(answers) == 1 and isinstance(answers[0], wire.TlConnectResult) and answers[0].status,
        f"the reply to TL_CONNECT_REQUEST for an unknown service is {answers}",
    )


@TABLE.case(
    "tl-connect-before-4.1",
    VMBUS,
    "Before 4.1 a connection to a service gets no reply: the guest does not know TL_CONNECT_RESULT.",
    "OpenVMM vmbus_server channels.rs, send_tl_connect_result",
)
def _old_tl_connect(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    if guest.contact(VERSION_WIN10) is None or guest.version is None:
        raise NotApplicableError("the host does not speak 4.0")
    guest.request_offers()
    endpoint = guest.offer.interface
    guest.post(wire.TlConnectRequest(endpoint, endpoint))
    must(not guest.take(), "a guest of 4.0 gets a reply to TL_CONNECT_REQUEST")
    guest.open()


def _unmoved(host: HostUnderTest, opened_for: int, moved_to: int) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    guest.needs_version(VERSION_5_3, "MODIFYCHANNEL_RESPONSE")
    guest.open(target_vp=opened_for)
    answer = guest.must_get(wire.ModifyChannelResponse, wire.ModifyChannel(guest.relid, moved_to))
    must(answer.status, "MODIFYCHANNEL begins or ends interrupts")


for _name, (_opened_for, _moved_to) in {
    "to-no-processor": (0, wire.TARGET_VP_NONE),
    "without-interrupts": (wire.TARGET_VP_NONE, 0),
}.items():
    TABLE.add(
        Case(
            f"modify-channel-{_name}",
            VMBUS,
            "MODIFYCHANNEL moves interrupts; a channel opened with none keeps none, and none lose them.",
            "OpenVMM vmbus_server channels.rs, modify_channel",
            partial(_unmoved, opened_for=_opened_for, moved_to=_moved_to),
        )
    )
