"""What the two ends of the Dynamic Memory Protocol report to their owners."""

from typing import NamedTuple

from dynmem.dm.states import GuestState, HostState


class StateChanged(NamedTuple):
    """The machine went from one state to another."""

    old: HostState | GuestState
    new: HostState | GuestState


class Anomaly(NamedTuple):
    """The peer did something odd that does no harm; the text is a sentence for the log."""

    text: str


class StatusReported(NamedTuple):
    """Host: the guest reported its memory. `committed_bytes` includes what it has given up."""

    committed_bytes: int
    available_bytes: int


class GuestStatus(NamedTuple):
    """The guest's last status report. Committed memory includes what the guest has given up."""

    committed_bytes: int
    available_bytes: int
    at_ns: int


class ActualChanged(NamedTuple):
    """Host: the guest's size has changed."""

    pages: int


class BalloonFinished(NamedTuple):
    """Host: a balloon operation ended; `asked` pages were wanted, `got` new ones came."""

    asked: int
    got: int


class HotAddFinished(NamedTuple):
    """Host: a hot add ended; `asked` pages were offered, `got` of them the guest has added."""

    asked: int
    got: int


class HotRemoveFinished(NamedTuple):
    """Host: a hot remove ended; `asked` pages were wanted, `got` were given up permanently."""

    asked: int
    got: int


class BalloonedUp(NamedTuple):
    """Guest: a balloon request was answered; `asked` pages were wanted, `given` were given up."""

    asked: int
    given: int


class BalloonedDown(NamedTuple):
    """Guest: the host returned pages."""

    pages: int


class HotAdded(NamedTuple):
    """Guest: a hot add was answered; `offered` pages were offered, `added` were added."""

    offered: int
    added: int


class HotRemoved(NamedTuple):
    """Guest: a hot remove was answered; `asked` pages were wanted, `given` given up permanently."""

    asked: int
    given: int


class Crashed(NamedTuple):
    """Guest: it crashed, as a Windows guest does on an early request; the reason is a sentence."""

    reason: str


class ServiceFailed(NamedTuple):
    """Guest: the service will not come up on this channel; the reason is a sentence."""

    reason: str


#: What `DynamicMemoryHost.take_events` returns.
HostEvent = (
    StateChanged
    | Anomaly
    | StatusReported
    | ActualChanged
    | BalloonFinished
    | HotAddFinished
    | HotRemoveFinished
)
#: What `DynamicMemoryGuest.take_events` returns.
GuestEvent = (
    StateChanged | Anomaly | BalloonedUp | BalloonedDown | HotAdded | HotRemoved | Crashed | ServiceFailed
)
