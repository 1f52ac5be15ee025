"""The Dynamic Memory Protocol without I/O: a state machine for each end.

Bytes of messages and integer nanoseconds come in; messages to send, a deadline and events come out. The
host's end is `DynamicMemoryHost` over a `PageStore` of yours, the guest's end `DynamicMemoryGuest` over a
`PageAllocator` of yours. A mistake of the peer raises `dynmem.errors.RemoteProtocolError`, a mistake of the
owner `dynmem.errors.LocalProtocolError`.

Source: QEMU hw/hyperv/hv-balloon.c (the host's end); Linux drivers/hv/hv_balloon.c (the guest's).
"""

from dynmem.dm.blocks import Added, MemoryBlocks
from dynmem.dm.events import (
    ActualChanged,
    Anomaly,
    BalloonedDown,
    BalloonedUp,
    BalloonFinished,
    Crashed,
    GuestEvent,
    GuestStatus,
    HostEvent,
    HotAdded,
    HotAddFinished,
    HotRemoved,
    HotRemoveFinished,
    ServiceFailed,
    StateChanged,
    StatusReported,
)
from dynmem.dm.giving import PageAllocator
from dynmem.dm.guest import DynamicMemoryGuest
from dynmem.dm.habits import LINUX, Habits, balloon_floor
from dynmem.dm.host import DynamicMemoryHost
from dynmem.dm.journal import OperationRecord
from dynmem.dm.options import GuestOptions, HostOptions
from dynmem.dm.states import GuestState, HostState
from dynmem.dm.stores import GivenUp, HotAddSource, PageStore, Reservation
from dynmem.dm.windows import WINDOWS

# in the order of importance: the host's end, the guest's end, what both share
__all__ = [
    "DynamicMemoryHost",
    "HostOptions",
    "PageStore",
    "GivenUp",
    "HotAddSource",
    "Reservation",
    "HostEvent",
    "ActualChanged",
    "StatusReported",
    "BalloonFinished",
    "HotAddFinished",
    "HotRemoveFinished",
    "HostState",
    "GuestStatus",
    "OperationRecord",
    "DynamicMemoryGuest",
    "GuestOptions",
    "PageAllocator",
    "MemoryBlocks",
    "Added",
    "GuestEvent",
    "BalloonedUp",
    "BalloonedDown",
    "HotAdded",
    "HotRemoved",
    "ServiceFailed",
    "Crashed",
    "GuestState",
    "Habits",
    "LINUX",
    "WINDOWS",
    "balloon_floor",
    "StateChanged",
    "Anomaly",
]
