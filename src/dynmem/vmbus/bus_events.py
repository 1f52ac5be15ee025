"""What the host's end of VMBus reports to its owner."""

import msgspec

from dynmem.vmbus.channel import Channel


class ChannelOpened(msgspec.Struct, frozen=True):
    """The guest has opened a channel; packets may be waiting already."""

    channel: Channel


class ChannelClosed(msgspec.Struct, frozen=True):
    """A channel that was open (or faulted) no longer is."""

    channel: Channel


class ChannelFaulted(msgspec.Struct, frozen=True):
    """The guest broke its channel; `reason` is a sentence."""

    channel: Channel
    reason: str


class GuestUnloaded(msgspec.Struct, frozen=True):
    """The guest has left the bus."""


#: What `Bus.take_events` returns.
BusEvent = ChannelOpened | ChannelClosed | ChannelFaulted | GuestUnloaded
