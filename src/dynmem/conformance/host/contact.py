"""Cases against a host's VMBus: what the bytes of a contact mean in each version and on each connection."""

from functools import partial
from typing import Final

from dynmem.conformance.adapter import VMBUS, HostUnderTest
from dynmem.conformance.case import Case, CaseTable, NotApplicableError, fail, must
from dynmem.conformance.host.played_guest import PlayedGuest
from dynmem.units import PAGE_SIZE
from dynmem.wire import vmbus as wire
from dynmem.wire.synic import MESSAGE_CONNECTION_ID, MESSAGE_CONNECTION_ID_4
from dynmem.wire.versions import (
    VERSION_5_0,
    VERSION_5_3,
    VERSION_WIN7,
    VERSION_WIN8,
    VERSION_WS2008,
    VERSIONS,
    format_version,
)

TABLE: Final = CaseTable()

_ANY_WORD: Final = 0x5A5A_5A5A


def _connected(host: HostUnderTest, version: int) -> tuple[PlayedGuest, wire.VersionResponse]:
    """Return a guest that has agreed on that version, and the reply to its contact."""
    guest = PlayedGuest(host)
    answer = guest.contact(version)
    if answer is None or guest.version is None:
        raise NotApplicableError(f"the host does not speak {format_version(version)}")
    return guest, answer


def _last_word(version: int, host: HostUnderTest) -> None:
    _, answer = _connected(host, version)
    word = answer.version_or_connection_id
    must(
        word in (None, version),
        f"the last word of the reply is {word}, not the version {version:#x}",
    )


for _version in VERSIONS:
    if _version < VERSION_5_0:
        TABLE.add(
            Case(
                f"contact-reply-names-{format_version(_version)}",
                VMBUS,
                "Before 5.0 the last word of the reply to a contact, if it is there, is the version.",
                "OpenVMM vmbus_server channels.rs: selected_version_or_connection_id; QEMU leaves it out",
                partial(_last_word, _version),
            )
        )


def _any_target(version: int, host: HostUnderTest) -> None:
    _connected(host, version)
    guest = PlayedGuest(host)
    guest.contact(version, target_vcpu=_ANY_WORD)
    must(guest.version == version, "the contact is rejected for the processor that it names")
    guest.request_offers()
    guest.open()


for _version in (VERSION_WS2008, VERSION_WIN7, VERSION_WIN8):
    TABLE.add(
        Case(
            f"contact-{format_version(_version)}-names-no-processor",
            VMBUS,
            "Before 3.0 all messages go to the first processor, whatever is in the place of the target.",
            "OpenVMM vmbus_server channels.rs, handle_initiate_contact",
            partial(_any_target, _version),
        )
    )


@TABLE.case(
    "contact-on-connection-1-names-no-sint",
    VMBUS,
    "On connection 1 a contact of 5.0 or later names no SINT, whatever is in the place of it.",
    "OpenVMM vmbus_server channels.rs, handle_initiate_contact: only a multiclient message names one",
)
def _no_sint(host: HostUnderTest) -> None:
    _connected(host, VERSION_5_3)
    guest = PlayedGuest(host)
    guest.version = VERSION_5_3
    page = host.scratch[-1] * PAGE_SIZE + 0x105
    contact = wire.InitiateContact(VERSION_5_3, 0, page, 0, 0)
    if guest.post(contact, MESSAGE_CONNECTION_ID):
        fail("a contact of 5.3 is rejected on connection 1")
    answers = guest.take()
    accepted = [each for each in answers if getattr(each, "version_supported", False)]
    must(len(answers) == len(accepted) == 1, f"the reply on connection 1 is {answers or 'nothing'}")


@TABLE.case(
    "contact-for-another-sint",
    VMBUS,
    "A contact for another SINT (connection 4, from 5.0 on) is rejected and leaves the connection alone.",
    "OpenVMM vmbus_server channels.rs, initiate_contact: that is another client's",
)
def _other_sint(host: HostUnderTest) -> None:
    guest, _ = _connected(host, VERSION_5_3)
    guest.request_offers()
    guest.open()
    status = guest.post(
        wire.InitiateContact(VERSION_5_3, 0, wire.contact_target(5), 0, 0), MESSAGE_CONNECTION_ID_4
    )
    answers = guest.take()
    accepted = [each for each in answers if getattr(each, "version_supported", False)]
    must(status or not accepted, "a contact for SINT 5 is accepted on SINT 2")
    must(guest.negotiate(), "the channel that was open no longer works")
