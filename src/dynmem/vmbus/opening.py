"""How a host opens a channel over the pages that a guest names: what it checks first."""

from typing import Final

from dynmem.errors import RemoteProtocolError
from dynmem.vmbus.channel import Channel, ChannelEvent
from dynmem.vmbus.gpadl import Gpadl
from dynmem.vmbus.memory import GuestMemory
from dynmem.vmbus.rejection import Rejection
from dynmem.wire.vmbus import TARGET_VP_NONE, OpenChannel


class RefusedOpenError(RemoteProtocolError):
    """A channel that the host does not open; `cause` says why."""

    def __init__(self, cause: Rejection) -> None:
        super().__init__(cause.value)
        self.cause: Final = cause


def open_channel(
    message: OpenChannel, channel: Channel | None, gpadl: Gpadl | None, memory: GuestMemory, vp_count: int
) -> Channel:
    """Open the channel that `message` names over the GPADL that it names, and return it.

    Raises RefusedOpenError, and then the channel is as it was.
    """
    if channel is None or not channel.can(ChannelEvent.OPEN):
        raise RefusedOpenError(Rejection.OPEN_OF_CHANNEL_NOT_CLOSED)
    if gpadl is None or not gpadl.complete or gpadl.relid != channel.relid:
        raise RefusedOpenError(Rejection.OPEN_WITHOUT_GPADL)
    if message.target_vp >= vp_count and message.target_vp != TARGET_VP_NONE:
        raise RefusedOpenError(Rejection.OPEN_FOR_ABSENT_PROCESSOR)
    pages = gpadl.memory(memory)
    try:
        channel.open(pages, gpadl.gpadl_id, message.downstream_page_offset, message.target_vp)
    except RemoteProtocolError as error:
        raise RefusedOpenError(Rejection.OPEN_WITHOUT_RINGS) from error
    return channel
