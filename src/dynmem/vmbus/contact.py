"""What a guest means by a contact, and what a host replies: which version, or why none.

The same bytes of INITIATE_CONTACT mean different things, by version and by the connection it was posted on.
`as_meant` clears what means nothing, so that the rest of the host need not know.

Source: OpenVMM vmbus_server channels.rs (handle_initiate_contact, send_version_response).
"""

from typing import Final, NamedTuple

import msgspec

from dynmem.vmbus.rejection import Rejection
from dynmem.wire.status import ConnectionState
from dynmem.wire.synic import MESSAGE_CONNECTION_ID, MESSAGE_CONNECTION_ID_4, SINT_COUNT, VMBUS_SINT
from dynmem.wire.versions import VERSION_5_0, VERSION_5_1, VERSION_WIN8, VERSION_WIN8_1, VERSIONS
from dynmem.wire.vmbus import InitiateContact, VersionResponse, contact_target


class Connection(NamedTuple):
    """What a host and a guest have agreed on.

    Attributes:
        version: The version that both speak.
        vp: The virtual processor that gets the host's messages.
        interrupt_page: Where the guest has a page of event bits (before 2.4), or 0.
        monitor_pages: The two pages named at contact (host to guest, guest to host), or zeros.

    """

    version: int
    vp: int
    interrupt_page: int
    monitor_pages: tuple[int, int]


class Reply(NamedTuple):
    """The reply to a contact.

    Attributes:
        response: The message to post.
        vp: The virtual processor that gets it.
        sint: The interrupt source that gets it.
        complaint: What was wrong with the contact, if anything was.
        connection: What is agreed on, if the contact was accepted.

    """

    response: VersionResponse
    vp: int
    sint: int
    complaint: Rejection | None = None
    connection: Connection | None = None


_REFUSED: Final = VersionResponse(False, ConnectionState.SUCCESSFUL, 0)


def as_meant(contact: InitiateContact, connection_id: int) -> InitiateContact:
    """Return the contact without the bytes that have no meaning in its version and on its connection.

    - Before 3.0 all messages go to processor 0, and the target may be garbage.
    - Before 2.4 the host signals by the interrupt page; up to 4.1 guests still name one, which is not used.
    - From 5.0 on its bytes hold a SINT, from 5.1 on also a trust level, but only on connection 4, which was
      made for several clients. On connection 1 there is one client, at SINT 2.
    """
    version, target = contact.version, contact.interrupt_page
    if version >= VERSION_5_0:
        is_for_several = connection_id != MESSAGE_CONNECTION_ID
        sint = contact.message_sint if is_for_several else VMBUS_SINT
        vtl = contact.message_vtl if is_for_several and version >= VERSION_5_1 else 0
        target = contact_target(sint, vtl, contact.feature_flags)
    elif version >= VERSION_WIN8:
        target = 0
    vp = contact.target_vcpu if version >= VERSION_WIN8_1 else 0
    return msgspec.structs.replace(contact, target_vcpu=vp, interrupt_page=target)


def is_for_this_bus(contact: InitiateContact) -> bool:
    """Return whether the contact is for the VMBus of SINT 2 and trust level 0, of which each host has one."""
    is_old = contact.version < VERSION_5_0
    return is_old or (contact.message_sint == VMBUS_SINT and not contact.message_vtl)


def reply_to(contact: InitiateContact, *, max_version: int, vp_count: int) -> Reply:
    """Return the reply of a host that knows versions up to `max_version` and has `vp_count` processors.

    It goes to the processor and the SINT that the contact names, if they exist.
    """
    version = contact.version
    vp, sint = contact.target_vcpu, VMBUS_SINT
    if vp >= vp_count:
        return Reply(_REFUSED, 0, sint, Rejection.CONTACT_FROM_ABSENT_PROCESSOR)
    if not is_for_this_bus(contact):
        sint = contact.message_sint if contact.message_sint < SINT_COUNT else VMBUS_SINT
        return Reply(_REFUSED, vp, sint, Rejection.CONTACT_FOR_ANOTHER_BUS)
    if version not in VERSIONS or version > max_version:
        return Reply(_REFUSED, vp, sint)
    last_word = MESSAGE_CONNECTION_ID_4 if version >= VERSION_5_0 else version
    if bool(contact.monitor_page1) != bool(contact.monitor_page2):
        failure = VersionResponse(True, ConnectionState.FAILED_UNKNOWN_FAILURE, last_word)
        # older guests do not look at the state
        response = failure if version >= VERSION_WIN8 else _REFUSED
        return Reply(response, vp, sint, Rejection.CONTACT_WITH_ONE_MONITOR_PAGE)
    interrupt_page = contact.interrupt_page if version < VERSION_WIN8 else 0
    return Reply(
        VersionResponse(True, ConnectionState.SUCCESSFUL, last_word),
        vp,
        sint,
        connection=Connection(version, vp, interrupt_page, (contact.monitor_page1, contact.monitor_page2)),
    )
