"""How a host opens a channel over the pages that a guest names: what it checks first."""

from dynmem.errors import RemoteProtocolError
from dynmem.vmbus.channel import Channel, ChannelEvent
from dynmem.vmbus.gpadl import Gpadl
from dynmem.vmbus.memory import GuestMemory
from dynmem.wire.vmbus import TARGET_VP_NONE, OpenChannel


class RefusedOpenError(RemoteProtocolError):
    """A channel that the host does not open; the text is one of a few fixed phrases."""


def open_channel(
    message: OpenChannel, channel: Channel | None, gpadl: Gpadl | None, memory: GuestMemory, vp_count: int
) -> Channel:
    """Open the channel that `message` names over the GPADL that it names, and return it.

    Raises RefusedOpenError, and then the channel is as it was.
    """
    if channel is None or not channel.can(ChannelEvent.OPEN):
        raise RefusedOpenError("opening a channel that is not there or not closed")
    if gpadl is None or not gpadl.complete or gpadl.relid != channel.relid:
        raise RefusedOpenError("opening a channel without its GPADL")
    if message.target_vp >= vp_count and message.target_vp != TARGET_VP_NONE:
        raise RefusedOpenError("opening a channel for a virtual processor that does not exist")
    pages = gpadl.memory(memory)
    try:
        channel.open(pages, gpadl.gpadl_id, message.downstream_page_offset, message.target_vp)
    except RemoteProtocolError as error:
        raise RefusedOpenError("opening a channel over pages that are not rings") from error
    return channel
