"""Cases against a host's VMBus: channels that are rescinded, or released by the guest.

A guest that has not read of a rescind goes on with what it was doing. It must neither wait forever nor be
taken for a broken one.
"""

from typing import Final

from dynmem.conformance.adapter import VMBUS, HostUnderTest
from dynmem.conformance.case import CaseTable, NotApplicableError, must
from dynmem.conformance.host.played_guest import PlayedGuest
from dynmem.wire import vmbus as wire
from dynmem.wire.versions import VERSION_5_3

TABLE: Final = CaseTable()


@TABLE.case(
    "rescind",
    VMBUS,
    "An unplugged device is rescinded; its rings stay untouched, and RELID_RELEASED gets no reply.",
    "Linux drivers/hv/channel_mgmt.c, vmbus_onoffer_rescind and hv_process_channel_removal",
)
def _rescind(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.start()
    if not host.unplug():
        raise NotApplicableError("the host cannot unplug the device")
    answers = guest.take()
    must(answers == [wire.RescindChannelOffer(guest.relid)], f"an unplugged device is reported by {answers}")
    host.set_target(host.boot_pages - 100)
    host.advance(host.post_init_wait_ns)
    guest.silent("over a rescinded channel")
    answers = guest.ask(wire.RelidReleased(guest.relid))
    must(not answers, f"the reply to RELID_RELEASED is {answers}")
    status = host.signal_event(guest.offer.connection_id, 0)
    must(status == 18, f"a signal for a channel that is gone gives status {status}, not 18")


@TABLE.case(
    "rescind-crosses-an-open",
    VMBUS,
    "What a guest posts before it reads of a rescind gets its reply: GPADLs are made, opens refused.",
    "OpenVMM vmbus_server channels.rs, gpadl_completed; Linux waits for these replies without an end",
)
def _crossing(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    first = guest.must_make_gpadl(host.scratch[:10])
    if not host.unplug():
        raise NotApplicableError("the host cannot unplug the device")
    answers = guest.take()
    must(answers == [wire.RescindChannelOffer(guest.relid)], f"an unplugged device is reported by {answers}")
    second = guest.must_make_gpadl(host.scratch[20:30])
    result = guest.must_get(wire.OpenChannelResult, wire.OpenChannel(guest.relid, 9, first, 0, 5))
    must(result.openid == 9 and result.status, f"the reply to an open that crossed a rescind is {result}")
    if guest.version == VERSION_5_3:
        guest.must_get(wire.ModifyChannelResponse, wire.ModifyChannel(guest.relid, 0))
    answers = guest.ask(wire.CloseChannel(guest.relid))
    must(not answers, f"the reply to CLOSECHANNEL is {answers}")
    for gpadl in (first, second):
        answers = guest.ask(wire.GpadlTeardown(guest.relid, gpadl))
        must(answers == [wire.GpadlTorndown(gpadl)], f"the reply to a teardown is {answers or 'nothing'}")
    answers = guest.ask(wire.RelidReleased(guest.relid))
    must(not answers, f"the reply to RELID_RELEASED is {answers}")


@TABLE.case(
    "release-of-closed",
    VMBUS,
    "A closed channel may be released without a rescind; after a new contact it is offered again.",
    "Linux drivers/hv/vmbus_drv.c: rmmod hv_vmbus; OpenVMM channels.rs, handle_rel_id_released",
)
def _release_of_closed(host: HostUnderTest) -> None:
    guest = PlayedGuest(host)
    guest.connect()
    guest.must_make_gpadl(host.scratch[:10])
    answers = guest.ask(wire.RelidReleased(guest.relid))
    must(not answers, f"the reply to RELID_RELEASED is {answers}")
    again = PlayedGuest(host)
    again.alive()
    must(again.offers == guest.offers, f"first {guest.offers}, then {again.offers} were offered")
