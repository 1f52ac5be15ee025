"""What a host replies when a guest makes contact: which version, or why none."""

from typing import Final, NamedTuple

from dynmem.wire.status import ConnectionState
from dynmem.wire.synic import MESSAGE_CONNECTION_ID, MESSAGE_CONNECTION_ID_4, VMBUS_SINT
from dynmem.wire.versions import VERSION_5_0, VERSION_WIN8, VERSIONS
from dynmem.wire.vmbus import InitiateContact, VersionResponse


class Reply(NamedTuple):
    """The reply to a contact.

    Attributes:
        response: The message to post.
        complaint: What was wrong with the contact, if anything was.
        is_agreed: Whether the two ends are connected now.

    """

    response: VersionResponse
    complaint: str | None = None
    is_agreed: bool = False


_REFUSED: Final = VersionResponse(False, ConnectionState.SUCCESSFUL, 0)


def reply_to(contact: InitiateContact, *, max_version: int, vp_count: int) -> Reply:
    """Return the reply of a host that knows versions up to `max_version` and has `vp_count` processors."""
    version = contact.version
    is_modern = version >= VERSION_5_0
    if version not in VERSIONS or version > max_version:
        return Reply(_REFUSED)
    if contact.target_vcpu >= vp_count:
        return Reply(_REFUSED, "contact from a virtual processor that does not exist")
    if is_modern and (contact.message_sint != VMBUS_SINT or contact.message_vtl):
        return Reply(_REFUSED, "contact for another SINT or trust level")
    if bool(contact.monitor_page1) != bool(contact.monitor_page2):
        failed = VersionResponse(version >= VERSION_WIN8, ConnectionState.FAILED_UNKNOWN_FAILURE, 0)
        return Reply(failed, "contact with one monitor page")
    connection_id = MESSAGE_CONNECTION_ID_4 if is_modern else MESSAGE_CONNECTION_ID
    return Reply(VersionResponse(True, ConnectionState.SUCCESSFUL, connection_id), is_agreed=True)
