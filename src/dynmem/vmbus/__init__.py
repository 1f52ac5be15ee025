"""VMBus without I/O: the host's `Bus`, the guest's `Client`, and guest memory as a small protocol.

The owner of either end hands in what the other side posted and signalled, and takes what is to be posted and
signalled, and events. A guest cannot make the host's end raise; a broken host makes the guest's end raise
`dynmem.errors.RemoteProtocolError`. The rings alone are in the module ``ring``.

Source: QEMU hw/hyperv/vmbus.c (the host's end); Linux drivers/hv (the guest's).
"""

from dynmem.vmbus.bus_events import (
    BusEvent,
    ChannelClosed,
    ChannelFaulted,
    ChannelOpened,
    GuestUnloaded,
)
from dynmem.vmbus.channel import Channel, ChannelState, Offer, PipeMode
from dynmem.vmbus.guest import LINUX_VERSIONS, Client, ClientSnapshot, ClientState, Post
from dynmem.vmbus.guest_channel import (
    ClientEvent,
    Closed,
    Connected,
    Failed,
    GuestChannel,
    GuestChannelState,
    Modified,
    Offered,
    OffersDelivered,
    Opened,
    Rescinded,
    Unloaded,
)
from dynmem.vmbus.host import Bus, BusSnapshot, BusState
from dynmem.vmbus.mailbox import OutgoingMessage
from dynmem.vmbus.memory import BadAddressError, FlatMemory, GpadlMemory, GuestMemory
from dynmem.vmbus.rejection import Rejection
from dynmem.vmbus.reoffers import Reoffers
from dynmem.vmbus.signals import Signal

# in the order of importance: the host's end, the guest's end, memory
__all__ = [
    "Bus",
    "Offer",
    "PipeMode",
    "Channel",
    "BusEvent",
    "ChannelOpened",
    "ChannelClosed",
    "ChannelFaulted",
    "GuestUnloaded",
    "OutgoingMessage",
    "Signal",
    "Reoffers",
    "Rejection",
    "BusState",
    "BusSnapshot",
    "ChannelState",
    "Client",
    "GuestChannel",
    "ClientEvent",
    "Connected",
    "Offered",
    "OffersDelivered",
    "Opened",
    "Modified",
    "Closed",
    "Rescinded",
    "Failed",
    "Unloaded",
    "Post",
    "ClientState",
    "ClientSnapshot",
    "GuestChannelState",
    "LINUX_VERSIONS",
    "GuestMemory",
    "FlatMemory",
    "GpadlMemory",
    "BadAddressError",
]
